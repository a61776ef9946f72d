"""The codec of the flight world."""

from __future__ import annotations

import pytest
import torch

from adastate.encoders import ResidualCodec
from datamodules.worlds.flight.flight_clips import flight_batch
from tests.support.tiny import normal

WIDTHS = (4, 8, 8, 12)


def test_shapes_go_there_and_back() -> None:
    codec = ResidualCodec(None, channels=5, widths=WIDTHS)
    video = normal(2, 6, 3, 32, 48).clamp(-1, 1)
    z = codec.encode(video)
    assert z.shape == (2, 2, 5, 4, 6) and codec.video_frames(2) == 6
    assert codec.decode(z).shape == video.shape and codec.decode(1e6 * z).abs().max() == 1


@torch.no_grad()
def test_no_pixel_depends_on_its_own_latent_alone() -> None:
    """Kernels overlap: a change of one latent reaches pixels of the neighbours, on all four sides."""
    torch.manual_seed(0)
    codec = ResidualCodec(None, channels=4, widths=WIDTHS)
    z = normal(1, 4, 5, 5)
    changed = z.clone()
    changed[:, :, 2, 2] += 1
    moved = (codec.decoder(changed) - codec.decoder(z)).abs().amax((0, 1)) > 1e-7
    assert moved[15, 20] and moved[24, 20] and moved[20, 15] and moved[20, 24]


def test_video_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"video of 6 frames of 20 x 16: .*divisible by 8"):
        ResidualCodec(None, widths=WIDTHS).encode(torch.zeros(1, 6, 3, 20, 16))


def test_no_codec_weights() -> None:
    with pytest.raises(FileNotFoundError, match=r"no codec weights at gone\.safetensors"):
        ResidualCodec("gone.safetensors")


def test_the_codec_that_ships_knows_flights() -> None:
    codec, video = ResidualCodec(), flight_batch(9, range(0, 8, 2), 6).video
    assert video is not None
    z = codec.encode(video)
    assert (codec.decode(z) - video).square().mean() < 0.03 * video.var()
    assert 0.5 < z.std() < 1.5 and abs(z.mean()) < 0.5
