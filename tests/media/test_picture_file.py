"""Pictures of every kind become the same 8 bits of red, green and blue, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adastate.media import picture_file
from adastate.media.picture_file import read_picture
from adastate.media.picture_kinds import pictures_in


def levels(path: Path, height: int = 20, width: int = 30) -> np.ndarray:
    return ((read_picture(path, height, width) + 1) * 127.5).round().permute(1, 2, 0).numpy()


def ramp() -> Image.Image:
    """Brighter to the right and redder to the bottom, 20 high and 30 wide."""
    y, x = np.mgrid[:20, :30].astype(np.uint8)
    return Image.fromarray(np.stack([y * 12, x * 8, x * 8], -1))


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [("a.png", "RGB", 0), ("a.bmp", "RGB", 0), ("a.tif", "RGB", 0), ("a.webp", "RGB", 9), ("a.jpg", "CMYK", 6),
     ("a.tif", "CMYK", 6), ("a.png", "P", 12), ("a.gif", "P", 12)],
)  # fmt: skip
def test_colours_come_through(tmp_path: Path, name: str, mode: str, error: float) -> None:
    made = ramp().quantize(256) if mode == "P" else ramp().convert(mode)
    made.save(tmp_path / name)
    assert np.abs(levels(tmp_path / name) - np.asarray(ramp())).mean() <= error


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "I"])
def test_greys_are_greys(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 30).round().astype(np.uint8), (20, 1))
    made = {
        "L": Image.fromarray(grey),
        "1": Image.fromarray(grey).convert("1", dither=Image.Dither.NONE),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "I": Image.fromarray(grey.astype(np.int32) * 257),
    }[mode]
    made.save(tmp_path / ("a.tif" if mode == "I" else "a.png"))
    wanted = np.where(grey > 127, 255, 0) if mode == "1" else grey
    assert (levels(next(tmp_path.iterdir())) == wanted[..., None]).all()


def test_decimal_numbers_have_no_white(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as a picture .*decimal numbers.*: save it as a PNG"):
        read_picture(tmp_path / "a.tif", 4, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    clear.paste((60, 60, 60, 255), (0, 0, 10, 20))
    clear.paste((0, 0, 0, 51), (10, 0, 20, 20))
    if mode == "tRNS":
        flat = Image.new("RGB", (30, 20), (1, 2, 3))
        flat.paste((60, 60, 60), (0, 0, 10, 20))
        flat.save(tmp_path / "a.png", transparency=(1, 2, 3))
    else:
        clear.convert(mode).save(tmp_path / "a.png")
    found = levels(tmp_path / "a.png")
    assert (found[:, :10] == 60).all() and (found[:, 20:] == 255).all()
    if mode in ("RGBA", "LA"):
        assert (found[:, 10:20] == 204).all(), "a fifth of black on white"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(ramp())
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright),
        7: np.rot90(upright.swapaxes(0, 1), 2), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert (levels(tmp_path / "a.png") == upright).all()


def test_of_an_animation_it_is_the_first_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), (n, 0, 0)) for n in (200, 100)]
    for name in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        assert abs(levels(tmp_path / name)[..., 0].mean() - 200) < 2


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_picture_of_200_megapixels_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its number of pixels, not its bytes: the limits are lowered to a picture that a test can make."""
    monkeypatch.setattr(picture_file, "REDUCED_FROM", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # PIL refuses twice that
    large = ramp().resize((900, 600), Image.Resampling.BICUBIC)
    large.save(tmp_path / name, quality=95)
    assert np.abs(levels(tmp_path / name) - np.asarray(ramp())).mean() < 4
    assert Image.MAX_IMAGE_PIXELS == 10_000


def test_one_that_is_too_large_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 2_000_000)
    Image.new("1", (2000, 1500)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot .*2000 x 1500 pixels.: save it .* of at most 2 megapixels"):
        read_picture(tmp_path / "a.png", 4, 4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5])
def test_a_damaged_picture_is_named(tmp_path: Path, share: float) -> None:
    ramp().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        read_picture(tmp_path / "a.png", 4, 4)


def test_pictures_of_a_folder_come_in_order_of_their_names_whatever_these_are(tmp_path: Path) -> None:
    names = ["2.png", "10.png", "a b ².png", "a b ²10.png", "Ü.PNG", "²3.png", "雪.jpg"]
    for name in [*names, "._2.png", "notes.txt"]:
        (tmp_path / name).touch()
    found = [path.name for path in pictures_in(tmp_path)]
    assert sorted(found) == sorted(names) and found.index("2.png") < found.index("10.png")


def test_it_covers_the_size(tmp_path: Path) -> None:
    ramp().save(tmp_path / "a.png")
    for size in ((5, 40), (40, 5), (1, 1)):
        found = read_picture(tmp_path / "a.png", *size)
        assert found.shape == (3, *size) and found.dtype == torch.float32 and found.abs().max() <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.webp", "a.bmp"])
def test_what_it_claims_is_looked_at_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 2_000_000)
    monkeypatch.setattr(picture_file, "REDUCED_FROM", 1000)
    frames = [Image.new("RGB", (2000, 1500), (n, 0, 0)) for n in (1, 2)]
    frames[0].save(
        tmp_path / name, **({} if name in ("a.jpg", "a.bmp") else {"save_all": True, "append_images": frames[1:]})
    )
    with pytest.raises(ValueError, match="2000 x 1500 pixels"):
        read_picture(tmp_path / name, 4, 4)


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "P"])
def test_a_large_one_is_converted_in_bands_and_comes_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Each conversion makes a copy: four gigabytes of 16,000 x 16,000 pixels in a file of four megabytes."""
    monkeypatch.setattr(picture_file, "REDUCED_FROM", 10_000)
    image = ramp().resize((407, 301), Image.Resampling.BICUBIC).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "a.png")
    whole = read_picture(tmp_path / "a.png", 20, 20)
    most = []
    convert = picture_file._in_8_bits
    monkeypatch.setattr(picture_file, "BAND", 5_000)
    monkeypatch.setattr(picture_file, "_in_8_bits", lambda band: most.append(band.width * band.height) or convert(band))
    assert torch.equal(read_picture(tmp_path / "a.png", 20, 20), whole)
    assert len(most) > 10 and max(most) <= 5_000


def test_a_program_named_like_a_picture_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL hands EPS to Ghostscript, whatever the file is called."""
    ramp().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture \(cannot identify image file"):
        read_picture(tmp_path / "a.png", 20, 30)
