import io
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import Tensor

from adastate.media.strip import GROUND, PINK, TEAL, font, shorten, strip
from adastate.media.video import VideoWriter, gif_bytes, to_uint8


def flat(*levels: float, rows: int = 1, h: int = 16, w: int = 16) -> Tensor:
    """`[rows, len(levels), 3, h, w]`, one grey level a picture."""
    return torch.tensor(levels).view(1, -1, 1, 1, 1).expand(rows, -1, 3, h, w)


def grey(byte: int) -> float:
    return byte / 127.5 - 1


def left_edges(image: Image.Image, byte: int) -> list[tuple[int, int]]:
    """Top left corners of the squares of 20 pixels or more filled with this grey."""
    mask = (np.asarray(image) == byte).all(-1)
    corners = []
    for y, x in zip(*np.nonzero(mask), strict=True):
        above, before = y > 0 and mask[y - 1, x], x > 0 and mask[y, x - 1]
        if not above and not before and mask[y : y + 20, x : x + 20].sum() == 400:
            corners.append((int(x), int(y)))
    return corners


def test_bytes_are_rounded_and_what_is_not_finite_is_black() -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0, 2.0, -3.0, float("nan"), float("inf")])
    assert to_uint8(levels).tolist() == [0, 128, 255, 255, 0, 0, 0]
    assert torch.equal(to_uint8(to_uint8(levels)), to_uint8(levels))


def test_a_video_reads_back_with_its_pictures_size_and_rate(tmp_path: Path) -> None:
    levels = [grey(b) for b in (10, 60, 110, 160, 210, 250)]
    video = flat(*levels, h=9, w=15)[0]
    path = tmp_path / "sub" / "clip.mp4"
    with VideoWriter(path, 6, 9, 15, scale=3) as writer:
        writer.append(video[:4])
        assert not path.exists(), "an unfinished video must not look finished"
        writer.append(video[4:])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate) == (28, 46, 6)  # 27 x 45, padded to even
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]
    assert len(pictures) == 6
    assert np.abs(pictures.reshape(6, -1).mean(1) - [10, 60, 110, 160, 210, 250]).max() < 4


def test_a_video_can_be_watched_while_it_grows_and_is_an_ordinary_one_in_the_end(tmp_path: Path) -> None:
    def shown(path: Path) -> list[float]:
        with av.open(str(path)) as file:
            return [float(picture.time or 0) for picture in file.decode(video=0)]

    path = tmp_path / "film.mp4"
    with VideoWriter(path, 8, 16, 16) as writer:
        writer.append(torch.rand(48, 3, 16, 16) * 2 - 1)
        assert not path.exists()
        (growing,) = tmp_path.iterdir()
        seen = shown(growing)
        assert 16 <= len(seen) < 48 and all(b - a == 1 / 8 for a, b in pairwise(seen))
    assert shown(path) == [i / 8 for i in range(48)]
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.frames == 48 and stream.time_base is not None, "one index of all pictures"
        assert stream.duration is not None and float(stream.duration * stream.time_base) == 6
        file.seek(round(4.5 / stream.time_base), stream=stream)
        assert float(next(file.decode(video=0)).time or 0) == 4.0, "it seeks to whole pictures, every two seconds"


def test_tiny_video_is_enlarged_with_square_pixels(tmp_path: Path) -> None:
    left, right = torch.full((1, 3, 32, 16), -1.0), torch.full((1, 3, 32, 16), 1.0)
    with VideoWriter(tmp_path / "a.mp4", 8, 32, 32) as writer:
        writer.append(torch.cat([left, right], -1))
    with av.open(str(tmp_path / "a.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (256, 256, 3)
    assert picture[:, :120].max() < 20 and picture[:, 136:].min() > 235


def test_a_broken_video_leaves_nothing_and_keeps_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 9\).*\[T, 3, 8, 8\]"), VideoWriter(path, 8, 8, 8) as writer:
        writer.append(torch.zeros(2, 3, 8, 9))
    with pytest.raises(ValueError, match="no pictures"):
        VideoWriter(path, 8, 8, 8).close()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"older"


@pytest.mark.parametrize("pictures, kept, pause", [(12, 12, 125), (100, 34, 250)])
def test_a_gif_is_bounded_and_keeps_time_until_it_turns_into_a_time_lapse(pictures: int, kept: int, pause: int) -> None:
    video = torch.linspace(-1, 1, pictures).view(-1, 1, 1, 1).expand(-1, 3, 32, 48)
    gif = Image.open(io.BytesIO(gif_bytes(video, fps=8)))
    assert (gif.format, gif.n_frames, gif.size) == ("GIF", kept, (48 * 7, 32 * 7))  # type: ignore[attr-defined]
    assert abs(gif.info["duration"] - pause) <= 10 and gif.info["loop"] == 0
    large = Image.open(io.BytesIO(gif_bytes(torch.zeros(2, 3, 480, 832), 16)))
    assert large.size == (416, 240)


def test_a_strip_places_the_state_of_a_chunk_under_its_first_picture() -> None:
    chunks = [flat(grey(40 + 10 * c), grey(45 + 10 * c)) for c in range(4)]
    states = [None, *(flat(grey(150 + 10 * c)) for c in range(1, 4))]
    sheet = strip(chunks, states, prompts=["a red ball"], fps=8, title="iteration 3", horizon=2)
    edges = []
    for c in range(4):
        [(x, y)] = left_edges(sheet, 40 + 10 * c)
        [(second, _)] = left_edges(sheet, 45 + 10 * c)
        below = left_edges(sheet, 150 + 10 * c)
        assert second == x + 96 + 2  # 16 pixels enlarged six times, and a gap
        assert below == ([] if c == 0 else [(x, y + 96 + 4)])
        edges.append(x)
    assert edges == sorted(edges)


def test_a_strip_has_a_row_for_every_prompt_and_no_state_row_without_states() -> None:
    chunks = [torch.cat([flat(grey(50 + c)), flat(grey(150 + c))]) for c in range(3)]
    bare, with_none = strip(chunks), strip(chunks, [None] * 3)
    assert bare.size == with_none.size
    for c in range(3):
        [(x, y)], [(x2, y2)] = left_edges(bare, 50 + c), left_edges(bare, 150 + c)
        assert x == x2 and y2 >= y + 96
    states = [flat(grey(100), rows=2)] * 3
    assert strip(chunks, states).height == bare.height + 2 * (96 + 4)


def test_a_strip_of_a_long_rollout_is_bounded_and_runs_from_its_first_chunk_to_its_last() -> None:
    chunks = [flat(grey(50 + c), grey(50 + c)) for c in range(126)]
    states = [flat(grey(205)) for _ in chunks]
    sheet = strip(chunks, states, fps=16, horizon=7, max_width=900)
    assert 700 < sheet.width <= 900
    shown = [c for c in range(126) if left_edges(sheet, 50 + c)]
    assert len(shown) > 4 and (shown[0], shown[-1]) == (0, 125)
    steps = np.diff(shown)
    assert steps.max() - steps.min() <= 1, "chunks must be evenly spaced"
    assert [x for x, _ in left_edges(sheet, 205)] == [left_edges(sheet, 50 + c)[0][0] for c in shown]


def test_a_strip_of_large_pictures_shrinks_them() -> None:
    sheet = strip([torch.zeros(1, 1, 3, 480, 832)] * 2, max_width=1000, cell_height=96)
    assert sheet.height < 200
    assert strip([torch.zeros(1, 1, 3, 480, 3000)], max_width=400).width <= 400


def test_a_strip_marks_where_the_training_horizon_ends() -> None:
    chunks = [flat(grey(60)) for _ in range(6)]
    plain, marked = np.asarray(strip(chunks)), np.asarray(strip(chunks, horizon=3))
    columns = np.nonzero((plain != marked).any((0, 2)))[0]
    third = 20 + 54 + 3 * (96 + 10)
    assert columns.max() < third and columns.min() > third - 96 - 10, "left of chunk 3, and nowhere else"


def test_a_strip_marks_each_new_prompt_and_tells_it() -> None:
    chunks = [flat(grey(60)) for _ in range(6)]
    plain = np.asarray(strip(chunks, prompts=["a meadow"]))
    marked = np.asarray(strip(chunks, prompts=["a meadow"], switches={3: ["snow"]}))
    rows, columns = np.nonzero((plain != marked).any(2))
    third = 20 + 54 + 3 * (96 + 10)
    (_, pictures), *_ = left_edges(Image.fromarray(plain), 60)
    assert third - 10 <= columns.min() < third, "a line left of chunk 3"
    over = columns[rows < pictures - 2]
    assert third <= over.min() and over.max() < third + 60, "the text of the new prompt above its first picture"
    shared = strip(chunks, prompts=["a meadow " * 30], switches={1: ["snow"]})
    assert shared.size == plain.shape[1::-1], "a prompt ends where the next begins"
    many = np.asarray(strip([flat(grey(60))] * 300, switches={101: ["snow"]}))
    assert (np.abs(many.astype(int) - ImageColor.getrgb(PINK)).sum(-1) == 0).any(), "its chunk need not be shown"


def test_long_and_foreign_prompts_stay_inside_the_sheet() -> None:
    chunks = [flat(grey(60))] * 3
    sheet = np.asarray(strip(chunks, prompts=["na\u00efve \u00d7 “飞行” " * 100]))
    assert (sheet[:, -20:] == ImageColor.getrgb(GROUND)).all()
    assert shorten("na\u00efve \u00d7 Москва\n\u2014", 14, 1000) == "na\u00efve \u00d7 Москва \u2014"
    drawn = {bytes(font(14).getmask(letter)) for letter in "\u00efiжщ\u00d7x\u2014?"}
    assert len(drawn) == 8, "each letter has a shape of its own"


def test_counts_that_do_not_fit_are_refused() -> None:
    chunks = [flat(grey(60))] * 3
    with pytest.raises(ValueError, match="2 states for 3 chunks"):
        strip(chunks, [None, None])
    with pytest.raises(ValueError, match="2 prompts for 1 rows"):
        strip(chunks, prompts=["a", "b"])


def test_a_strip_tells_how_each_chunk_was_steered_above_its_pictures() -> None:
    chunks = [flat(grey(60), grey(60))] * 3
    plain, steered = np.asarray(strip(chunks)), np.asarray(strip(chunks, steered=["a", "", "ai - d"]))
    assert steered.shape[0] == plain.shape[0] + 16 and steered.shape[1] == plain.shape[1]
    (left, top), *_ = left_edges(Image.fromarray(steered), 60)
    rows = steered[top - 22 : top - 4, left:]
    teal = (np.abs(rows.astype(int) - ImageColor.getrgb(TEAL)).sum(-1) < 90).any(0)
    assert teal[:10].any(), "the word of the first chunk"
    with pytest.raises(ValueError, match="2 words on how 3 chunks were steered: give one for each"):
        strip(chunks, steered=["a", "b"])
