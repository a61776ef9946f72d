"""The built-in codec and text encoder."""

from __future__ import annotations

import pytest
import torch

from adastate.encoders import TinyCodec, TinyText
from datamodules.worlds.flyover import flight, render_flyover
from tests.support.tiny import normal


def test_shapes_go_there_and_back() -> None:
    codec = TinyCodec(None, width=4, channels=5, group=3)
    video = normal(2, 6, 3, 16, 24).clamp(-1, 1)
    z = codec.encode(video)
    assert z.shape == (2, 2, 5, 4, 6) and codec.video_frames(2) == 6
    assert codec.decode(z).shape == video.shape and codec.decode(1e6 * z).abs().max() == 1


def test_latents_are_normalised_by_the_stored_statistics() -> None:
    codec = TinyCodec(None, width=4, channels=2, group=1)
    video = normal(1, 2, 3, 8, 8)
    plain = codec.encode(video)
    codec.mean.copy_(torch.tensor([1.0, -2.0]))
    codec.std.copy_(torch.tensor([2.0, 0.5]))
    z = codec.encode(video)
    assert torch.allclose(z * codec.std[:, None, None] + codec.mean[:, None, None], plain, atol=1e-5)
    assert torch.allclose(codec.decode(z), TinyCodec.reconstruct(codec, plain[0], 2).clamp(-1, 1), atol=1e-5)


def test_streaming_is_decoding_the_whole() -> None:
    codec = TinyCodec(None, width=4, channels=4, group=2)
    z, stream = normal(1, 5, 4, 4, 4), codec.stream()
    parts = torch.cat([stream.decode(part) for part in z.split([1, 3, 1], 1)], 1)
    assert torch.allclose(parts, codec.decode(z), atol=1e-6)


@pytest.mark.parametrize(("pictures", "height", "width"), [(5, 16, 16), (6, 18, 16), (6, 16, 30)])
def test_video_that_does_not_divide(pictures: int, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"video of {pictures} frames of {height} x {width}: .*multiple of 3 frames"):
        TinyCodec(None, width=4).encode(torch.zeros(1, pictures, 3, height, width))


def test_the_codec_that_ships_knows_the_world() -> None:
    codec, video = TinyCodec(), render_flyover([flight(9, i) for i in range(4)], 6)
    z = codec.encode(video)
    assert (codec.decode(z) - video).square().mean() < 0.02 * video.var()
    assert 0.5 < z.std() < 1.5 and abs(z.mean()) < 0.5


def test_no_codec_weights() -> None:
    with pytest.raises(FileNotFoundError, match=r"no codec weights at gone\.safetensors"):
        TinyCodec("gone.safetensors")


def test_prompts_are_bags_of_hashed_words_with_zeros_behind() -> None:
    text = TinyText(4, 8)
    a, b, empty, long = text.embed(["Red, ball!", "ball red", "", "one two three four five"])
    assert torch.equal(a[0], b[1]) and torch.equal(a[1], b[0]) and a[2:].abs().max() == 0
    assert empty.abs().max() == 0
    assert torch.equal(long, text.embed(["one two three four six"])[0]), "cut after four words"
    assert torch.equal(TinyText(4, 8).embed(["red"])[0, 0], a[0]), "the same in every process"
    assert not torch.isclose(a[0], a[1]).any()
