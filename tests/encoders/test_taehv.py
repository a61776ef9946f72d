"""TAEHV under its published names: the stream against the clip at once, written another way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from adastate.encoders import TAEHV, EncoderError, starts_with_a_picture
from adastate.encoders.taehv import MemBlock
from tests.support.tiny import normal

FRAMES = 7


@pytest.fixture(scope="module")
def codec() -> TAEHV:
    torch.manual_seed(0)
    return TAEHV(None)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return normal(2, FRAMES, 16, 2, 3)


def at_once(net: nn.Sequential, x: Tensor) -> Tensor:
    """`net` over whole clips `[B, T, ...]`: every memory block sees its input shifted by one frame, zeros first."""
    batch, x = len(x), x.flatten(0, 1)
    for block in net:
        if isinstance(block, MemBlock):
            clip = x.unflatten(0, (batch, -1))
            past = F.pad(clip, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
            x = block(x, past.flatten(0, 1))
        else:
            x = block(x)
    return x.unflatten(0, (batch, -1))


@pytest.fixture(scope="module")
def whole(codec: TAEHV, latents: Tensor) -> Tensor:
    return (at_once(codec.decoder, latents)[:, 3:].clamp(0, 1) * 2 - 1).detach()


def test_it_counts_pictures_as_wan_does(codec: TAEHV, latents: Tensor) -> None:
    assert [codec.video_frames(f) for f in (1, 2, 21)] == [1, 5, 81] and starts_with_a_picture(codec)
    assert codec.decode(latents).shape == (2, codec.video_frames(FRAMES), 3, 16, 24)
    assert codec.encode(torch.zeros(1, 25, 3, 16, 24)).shape == (1, FRAMES, 16, 2, 3)


@pytest.mark.parametrize("chunks", [(3, 3, 1), (1,) * 7, (2, 4, 1), (7,)], ids=str)
def test_streaming_equals_decoding_at_once(
    codec: TAEHV, latents: Tensor, whole: Tensor, chunks: tuple[int, ...]
) -> None:
    stream = codec.stream()
    parts = [stream.decode(part) for part in latents.split(list(chunks), 1)]
    assert [p.shape[1] for p in parts] == [4 * chunks[0] - 3, *(4 * n for n in chunks[1:])]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    assert whole.std(1).mean() > 1e-4, "the pictures differ, so that a mix-up would show"


def test_two_streams_do_not_disturb_each_other(codec: TAEHV, latents: Tensor, whole: Tensor) -> None:
    other = latents.flip(1)
    alone = codec.decode(other)
    assert not torch.allclose(alone, whole, atol=1e-3)
    streams, parts = (codec.stream(), codec.stream()), ([], [])
    for a, b in zip(latents.split(3, 1), other.split(3, 1), strict=True):
        parts[0].append(streams[0].decode(a))
        parts[1].append(streams[1].decode(b))
        codec.decode(a)  # a hidden state, decoded as a clip of its own in between
    assert torch.allclose(torch.cat(parts[0], 1), whole, atol=1e-5) and torch.equal(torch.cat(parts[1], 1), alone)


def test_a_decoder_that_is_given_the_memory_of_another_goes_on_as_that_one(
    codec: TAEHV, latents: Tensor, whole: Tensor
) -> None:
    first, second = codec.stream(), codec.stream()
    before = first.decode(latents[:, :4])
    second.memory = dict(first.memory)
    first.decode(latents[:, :3])
    assert torch.allclose(torch.cat([before, second.decode(latents[:, 4:])], 1), whole, atol=1e-5)
    assert all(isinstance(held, Tensor) for held in second.memory.values())


def test_encoding_in_steps_equals_encoding_at_once_with_the_last_picture_repeated(codec: TAEHV) -> None:
    video = normal(2, 9, 3, 16, 24).clamp(-1, 1)
    filled = torch.cat([video, video[:, -1:].repeat(1, 3, 1, 1, 1)], 1)
    assert torch.allclose(codec.encode(video), at_once(codec.encoder, (filled + 1) / 2), atol=1e-5)
    assert codec.encode(video[:, :1]).shape == (2, 1, 16, 2, 3), "a given picture is a latent"


def test_pictures_are_in_range_and_nothing_trains(codec: TAEHV, latents: Tensor) -> None:
    assert codec.decode(1e4 * latents).abs().max() <= 1
    assert not any(p.requires_grad for p in codec.parameters())
    assert codec.to(torch.bfloat16).decode(latents).dtype == torch.float32
    codec.float()


@pytest.mark.parametrize(("pictures", "height", "width"), [(12, 16, 16), (9, 20, 16), (9, 16, 20)])
def test_video_that_does_not_divide(codec: TAEHV, pictures: int, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"video of {pictures} frames of {height} x {width}: TAEHV takes 4F - 3"):
        codec.encode(torch.zeros(1, pictures, 3, height, width))


# ---- the file


SHAPES = {
    "encoder.0.weight": (64, 3, 3, 3), "encoder.0.bias": (64,),
    "encoder.2.conv.weight": (64, 128, 1, 1), "encoder.7.conv.weight": (64, 128, 1, 1),
    "encoder.12.conv.weight": (64, 64, 1, 1), "encoder.3.weight": (64, 64, 3, 3),
    "encoder.16.conv.4.bias": (64,), "encoder.17.weight": (16, 64, 3, 3),
    "decoder.1.weight": (256, 16, 3, 3), "decoder.3.conv.0.weight": (256, 512, 3, 3),
    "decoder.7.conv.weight": (256, 256, 1, 1), "decoder.8.weight": (128, 256, 3, 3),
    "decoder.13.conv.weight": (256, 128, 1, 1), "decoder.14.weight": (64, 128, 3, 3),
    "decoder.19.conv.weight": (128, 64, 1, 1), "decoder.20.weight": (64, 64, 3, 3),
    "decoder.22.weight": (3, 64, 3, 3), "decoder.22.bias": (3,),
}  # fmt: skip
"""Of the published weights, as its public code has them."""


def test_names_and_shapes_are_the_published_ones(codec: TAEHV) -> None:
    ours = {name: tuple(t.shape) for name, t in codec.state_dict().items()}
    assert SHAPES.items() <= ours.items()
    assert sum(n.startswith("decoder.") for n in ours) == sum(n.startswith("encoder.") for n in ours) == 64
    size = 2 * sum(t.numel() for t in codec.state_dict().values())
    assert round(size / 2**20, 1) == 21.6, "MiB of the published file, which is float16"


def test_a_file_is_loaded_whole_in_either_format(codec: TAEHV, latents: Tensor, tmp_path: Path) -> None:
    half = {name: t.half().clone() for name, t in codec.state_dict().items()}
    torch.save(half, tmp_path / "taew2_1.pth")
    save_file(half, tmp_path / "taew2_1.safetensors")
    loaded = [TAEHV(str(tmp_path / f"taew2_1.{suffix}")) for suffix in ("pth", "safetensors")]
    assert all(torch.equal(t, half[name].float()) for name, t in loaded[0].state_dict().items())
    assert torch.equal(loaded[0].decode(latents), loaded[1].decode(latents))


def test_a_wrong_file_is_told(codec: TAEHV, tmp_path: Path) -> None:
    file, right = tmp_path / "some.pth", dict(codec.state_dict())
    with pytest.raises(FileNotFoundError, match=r"no TAEHV weights at .*some\.pth; fetch them with `curl -L .*taew2_1"):
        TAEHV(str(file))
    for change, sentence in (
        ({"decoder.1.weight": torch.zeros(256, 48, 3, 3)}, r"has decoder\.1\.weight of shape \(256, 48, 3, 3\) where"),
        ({"decoder.3.skip.weight": torch.zeros(1)}, r"has 1 that are none of its \(decoder\.3\.skip\.weight"),
    ):
        torch.save(right | change, file)
        with pytest.raises(EncoderError, match=rf"is not TAEHV for Wan2\.1, taew2_1\.pth: it {sentence}"):
            TAEHV(str(file))
    torch.save({n: t for n, t in right.items() if n.startswith("decoder")}, file)
    with pytest.raises(EncoderError, match=r"it lacks 64 of 128 weights \(encoder\.0\.bias, \.\.\.\)"):
        TAEHV(str(file))
    for content in (right | {"epoch": 3}, [torch.zeros(1)]):
        torch.save(content, file)
        with pytest.raises(EncoderError, match="holds more than tensors by name"):
            TAEHV(str(file))


def test_a_file_that_would_run_code_or_is_cut_short_is_refused(codec: TAEHV, tmp_path: Path) -> None:
    file = tmp_path / "some.pth"
    torch.save(codec, file)
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        TAEHV(str(file))
    for name in ("some.pth", "some.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x02half")
        with pytest.raises(EncoderError, match="cannot be read as weights"):
            TAEHV(str(tmp_path / name))
