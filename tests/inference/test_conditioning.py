"""What stands before a stream, read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adastate.encoders import TinyCodec
from adastate.inference.conditioning import latents, picture_prefix
from adastate.media.picture_file import read_picture
from tests.support.hostile_shards import array
from tests.support.tiny import normal

CPU = torch.device("cpu")
SHAPE = (4, 6, 8)


def test_a_picture_covers_the_size_and_is_cut_around_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 30:50, 0] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    picture = read_picture(tmp_path / "wide.png", 10, 10)
    assert picture.shape == (3, 10, 10)
    assert picture[0].mean() > 0.9 and picture[1:].max() == -1, "the red middle fills the square"
    Image.new("RGBA", (3, 5)).save(tmp_path / "small.png")
    assert read_picture(tmp_path / "small.png", 8, 12).shape == (3, 8, 12)


def test_a_picture_is_one_latent_of_a_still(tmp_path: Path) -> None:
    for i in (1, 2, 10):
        Image.new("RGB", (50, 40), (20 * i, 120, 51)).save(tmp_path / f"{i}.png")
    codec = TinyCodec()

    def still(i: int) -> torch.Tensor:
        colour = torch.tensor([20 * i, 120, 51]) / 127.5 - 1
        return codec.encode(colour.view(1, 1, 3, 1, 1).expand(1, codec.video_frames(1), 3, 24, 32))

    one = picture_prefix(tmp_path / "2.png", codec, (6, 8), 3, CPU).batch([0, 2])
    assert one.shape == (2, 1, codec.channels, 6, 8)
    assert torch.allclose(one, still(2).expand(2, -1, -1, -1, -1), atol=1e-4)
    each = picture_prefix(tmp_path, codec, (6, 8), 3, CPU)
    for row, i in enumerate((1, 2, 10)):
        assert torch.allclose(each.of(row), still(i), atol=1e-4), "in order of the numbers: 10 after 2"


def test_latents_come_from_any_kind_of_file(tmp_path: Path) -> None:
    x = normal(4, *SHAPE)
    save_file({"latents": x, "other": x[0].clone()}, tmp_path / "a.safetensors")
    torch.save({"latents": x}, tmp_path / "a.pth")
    torch.save(x.half().float(), tmp_path / "bare.pt")
    np.save(tmp_path / "a.npy", x.numpy())
    for name in ("a.safetensors", "a.pth", "bare.pt", "a.npy"):
        given = latents(tmp_path / name, SHAPE, 2, CPU)
        assert given.frames == 4 and torch.allclose(given.batch([0, 1]), x.expand(2, -1, -1, -1, -1), atol=1e-2)
    np.save(tmp_path / "rows.npy", normal(2, 3, *SHAPE).numpy())
    assert torch.equal(latents(tmp_path / "rows.npy", SHAPE, 2, CPU).of(1), normal(2, 3, *SHAPE)[1:])


def test_mistakes_are_answered_with_both_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", normal(2, 3, *SHAPE).numpy())
    np.save(tmp_path / "flat.npy", normal(3, 4).numpy())
    np.save(tmp_path / "nan.npy", np.full((1, *SHAPE), np.nan, np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    save_file({"x": normal(1)}, tmp_path / "x.safetensors")
    (tmp_path / "x.png").write_text("no picture")
    (tmp_path / "x.txt").write_text("")
    for name, shape, prompts, sentence in (
        ("a.npy", (4, 6, 9), 2, r"latent frames of 4 x 6 x 8 \(channels, height, width\), the network makes 4 x 6 x 9"),
        ("a.npy", SHAPE, 3, "latents for 2 streams, and there are 3 prompts"),
        ("flat.npy", SHAPE, 1, r"latents of shape \[3, 4\]: \[F, C, H, W\] or"),
        ("nan.npy", SHAPE, 1, "not finite"),
        ("objects.npy", SHAPE, 1, "is not a NumPy file of numbers"),
        ("x.safetensors", SHAPE, 1, "has no tensor 'latents'; it has x"),
        ("x.txt", SHAPE, 1, "is not a file of latents"),
        ("none.npy", SHAPE, 1, "there is no file of latents"),
    ):
        with pytest.raises(ValueError, match=sentence):
            latents(tmp_path / name, shape, prompts, CPU)
    for path, sentence in (
        (tmp_path / "x.png", "cannot be read as a picture"),
        (tmp_path / "none.png", "there is no picture"),
        (tmp_path, "holds 1 picture for 2 prompts"),
    ):
        with pytest.raises(ValueError, match=sentence):
            picture_prefix(path, TinyCodec(), (6, 8), 2, CPU)


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(4294967296, 4294967296, 2)"])
def test_an_array_that_promises_what_is_not_there_is_refused(tmp_path: Path, shape: str) -> None:
    (tmp_path / "a.npy").write_bytes(array("'<f4'", shape))
    with pytest.raises(ValueError, match=r"a\.npy is not a NumPy file of numbers"):
        latents(tmp_path / "a.npy", SHAPE, 1, CPU)
