"""Videos are read as a player shows them, from a file and from a shard alike."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from torch import Tensor

from adastate.media.video_error import VideoError
from adastate.media.video_reader import ShownVideo, upright
from datamodules.shards.safe_decode import Refused, read_mp4
from datamodules.tools.footage import probe, read_clips
from tests.support.odd_videos import beside_each_other, cut_without_encoding, numbers, steps, with_cover, write
from tests.support.sample_videos import scene

ONE = 1 << 16


def read(path: Path) -> tuple[Tensor, ShownVideo]:
    with av.open(str(path)) as container:
        video = ShownVideo(container)
        return torch.stack([upright(frame) for frame in video.frames()]), video


def same_from_a_shard(path: Path) -> bool:
    return torch.equal(read_mp4(path.read_bytes()), read(path)[0])


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
@pytest.mark.parametrize("start", [0.7, 1.1, 2.0, 2.9])
def test_what_lies_before_the_start_of_a_cut_is_not_shown(tmp_path: Path, name: str, start: float) -> None:
    cut = cut_without_encoding(write(tmp_path / "whole.mp4", steps(40)), tmp_path / name, start)
    video, shown = read(cut)
    assert numbers(video) == list(range(round(10 * start), 40))
    assert shown.packets > shown.expected == len(video) or start == 2.0, "others are there, from the key frame on"
    assert probe(cut) == pytest.approx((len(video), len(video) / 10))
    assert [clip.frames for clip in read_clips(cut, (48, 64), len(video), 10)] == [tuple(range(len(video)))]
    assert name == "cut.mov" or same_from_a_shard(cut)


def test_an_edit_list_may_end_early_and_nothing_is_missing_then(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "whole.mp4", steps(60), keyframes=10).read_bytes())
    length = data.index(b"elst") + 4 + 8
    data[length : length + 4] = struct.pack(">I", 1500)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    assert numbers(read(tmp_path / "trimmed.mp4")[0]) == list(range(15))
    assert probe(tmp_path / "trimmed.mp4")[0] == 15
    assert same_from_a_shard(tmp_path / "trimmed.mp4")


TURNS = {  # a, b, c, d of the matrix that takes (right, down) of the picture to the viewer's
    "as it is": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "upside down": (-1, 0, 0, -1),
    "counter-clockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored and upside down": (1, 0, 0, -1),
    "about the diagonal": (0, 1, 1, 0),
    "about the other diagonal": (0, -1, -1, 0),
}


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_stand_as_the_display_matrix_says(tmp_path: Path, turn: str) -> None:
    a, b, c, d = TURNS[turn]
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    plain, _ = read(write(tmp_path / "plain.mp4", scene(0, 2)))
    turned, _ = read(write(tmp_path / "turned.mp4", scene(0, 2), matrix=matrix))
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    right, down = a * x + c * y, b * x + d * y
    wanted = torch.zeros_like(turned)
    wanted[:, :, down - down.min(), right - right.min()] = plain
    assert torch.equal(turned, wanted)
    assert same_from_a_shard(tmp_path / "turned.mp4")


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2), 128), (Fraction(1, 2), 32), (Fraction(4, 3), 85)])
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, width: int) -> None:
    video, _ = read(write(tmp_path / "wide.mp4", scene(0, 2), aspect=aspect))
    assert video.shape == (2, 3, 48, width)
    assert same_from_a_shard(tmp_path / "wide.mp4")


def test_the_shape_of_pixels_that_cannot_be_is_a_mistake(tmp_path: Path) -> None:
    assert read(write(tmp_path / "flat.mp4", scene(0, 2), aspect=Fraction(900)))[0].shape == (2, 3, 48, 64)


@pytest.mark.parametrize("default", [0, 1])
def test_of_several_videos_the_default_one_is_shown(tmp_path: Path, default: int) -> None:
    sources = [write(tmp_path / f"{n}.mp4", steps(5 + n)) for n in range(2)]
    marks = [Disposition.default if n == default else Disposition(0) for n in range(2)]
    both = beside_each_other(tmp_path / "both.mkv", sources, marks)
    assert len(read(both)[0]) == probe(both)[0] == 5 + default


@pytest.mark.parametrize("name", ["cover.mp4", "cover.mkv"])
def test_a_cover_is_not_the_video(tmp_path: Path, name: str) -> None:
    path = with_cover(write(tmp_path / "plain.mp4", steps(5)), tmp_path / name)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert numbers(read(path)[0]) == [0, 1, 2, 3, 4]
    assert name == "cover.mkv" or same_from_a_shard(path)


def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    path = with_cover(write(tmp_path / "plain.mp4", steps(5)), tmp_path / "cover.mp4")
    data = path.read_bytes().replace(b"vide", b"soun")  # the handler of the video
    (tmp_path / "sound.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"sound\.mp4: has no video stream"):
        probe(tmp_path / "sound.mp4")


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (40, 30), (0, 0, 0, 0)) for _ in range(4)]
    for n, picture in enumerate(pictures):
        picture.paste((255, 0, 0, 255), (10 * n, 0, 10 * n + 10, 30))
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    video, _ = read(tmp_path / "a.gif")
    for n, picture in enumerate(video):
        red = torch.zeros(40, dtype=torch.bool)
        red[10 * n : 10 * n + 10] = True
        assert picture[0].min() == 255 and picture[1:, :, red].max() == 0 and picture[1:, :, ~red].min() == 255


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_the_transparency_of_a_webm_lies_beside_its_pictures(codec: str, tmp_path: Path) -> None:
    """Both halves are red, and the right one cannot be seen."""
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[..., 0], pixels[:, :32, 3] = 255, 255
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuva420p"
        for n in range(3):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva420p")
            picture.pts = n
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video, shown = read(tmp_path / "a.webm")
    assert len(video) == 3 and not shown.notes()
    assert video[:, :, :, 40:].min() > 245 and video[:, 0, :, :24].min() > 245 and video[:, 1:, :, :24].max() < 10


def test_timestamps_that_jump_begin_a_new_run(tmp_path: Path) -> None:
    times = [n / 10 + (7 if n > 4 else 0) for n in range(10)]
    _, shown = read(write(tmp_path / "a.mkv", steps(10), seconds=times))
    assert shown.jumps == [pytest.approx((0.4, 7.1))]
    assert shown.notes() == "its timestamps jump by 7.1 s at 0.4 s: a scene ends there"
    assert shown.seconds() == pytest.approx(0.9)


def test_time_goes_on_where_timestamps_go_back(tmp_path: Path) -> None:
    """As in recordings that were joined byte by byte."""
    parts = [write(tmp_path / f"{n}.ts", steps(20)) for n in range(2)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(tmp_path / "joined.ts")) as container:
        frames = list(ShownVideo(container).frames())
    assert [frame.run for frame in frames] == [0] * 20 + [1] * 20
    assert np.diff([frame.time for frame in frames]).round(3).tolist() == [0.1] * 39


def test_a_shard_s_clip_whose_timestamps_jump_is_refused_and_a_slow_one_is_not(tmp_path: Path) -> None:
    times = [n / 10 + (7 if n > 4 else 0) for n in range(10)]
    jumps = write(tmp_path / "a.mp4", steps(10), seconds=times)
    with pytest.raises(Refused, match=r"its timestamps jump by 7\.1 s at 0\.4 s"):
        read_mp4(jumps.read_bytes())
    assert len(read_mp4(write(tmp_path / "slow.mp4", steps(5), fps=1).read_bytes())) == 5


def test_damaged_pictures_are_left_out_until_the_next_key_frame(tmp_path: Path) -> None:
    """Those that the decoder notices, which are most; the others are few, and none of them comes after a key frame."""
    data = write(tmp_path / "whole.mp4", scene(1, 60), keyframes=15).read_bytes()
    whole, _ = read(tmp_path / "whole.mp4")
    begins, ends = data.index(b"mdat") + 1000, data.index(b"moov")
    wrong, left_out = 0, 0
    for seed in (0, 1, 2, 7, 10, 16, 18, 28, 29):
        at = random.Random(seed).randrange(begins, ends - 50)
        spoilt = data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + 40]) + data[at + 40 :]
        (tmp_path / "spoilt.mp4").write_bytes(spoilt)
        with av.open(str(tmp_path / "spoilt.mp4")) as container:
            shown = ShownVideo(container)
            found = {frame.number: upright(frame) for frame in shown.frames()}
        assert f"{shown.damaged} damaged pictures are left out" in shown.notes()
        assert len(found) + shown.damaged == 60 and 59 in found
        left_out += shown.damaged
        wrong += sum(bool((p.float() - whole[n].float()).abs().mean() > 3) for n, p in found.items())
    assert left_out > 40 and wrong < left_out / 4
