from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from adastate.config.command_line import read_command
from adastate.encoders import TinyCodec
from adastate.media.video import fit, to_float
from datamodules.clips import ShardData
from datamodules.shards.decode import decode
from datamodules.shards.index import Sample, find_shards, read_shard
from datamodules.shards.shard_error import ShardError
from datamodules.tools import make_shards as tool
from datamodules.tools.clip_members import codec_name
from datamodules.tools.make_shards import make_shards
from datamodules.tools.shards_command import main
from datamodules.tools.world_shards import write_world
from tests.support.odd_videos import write
from tests.support.sample_videos import StubCodec, film, frames, scene

ROOT = Path(__file__).parents[3]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two films of 40 pictures at 10 fps with a cut in each: 3 + 3 clips of 9 pictures."""
    folder = tmp_path / "videos"
    film(folder / "a.mp4", 20, 20, caption="first film\n", seed=1)
    film(folder / "more" / "b.mp4", 30, 10, caption="second film", seed=2)
    return folder


def samples(out: Path) -> list[Sample]:
    return [sample for path in find_shards(str(out)) for sample in read_shard(path)]


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def cut(videos: Path, out: Path, codec: StubCodec | None = None, **settings: object) -> tool.ShardReport:
    wanted = {"size": (16, 16), "pictures": 9, "fps": 10, "clips_per_shard": 4, "latents": codec} | settings
    return make_shards(videos, out, **wanted)  # type: ignore[arg-type]


def test_clips_captions_and_facts_come_from_the_videos(videos: Path, tmp_path: Path) -> None:
    report = cut(videos, tmp_path / "out")
    assert (report.clips, report.written, report.shards, report.skipped) == (8, 8, 2, {})
    rows = [decode(sample, "mp4") for sample in samples(tmp_path / "out")]
    told = [(row.prompt, row.facts["source"], row.facts["start"]) for row in rows]
    first = [("first film", "a.mp4", start) for start in (0.0, 0.9, 2.0, 2.9)]
    assert told == first + [("second film", "more/b.mp4", start) for start in (0.0, 0.9, 1.8, 3.0)]
    assert rows[0].facts == {"source": "a.mp4", "start": 0.0, "fps": 10.0, "size": [16, 16], "pictures": 9}
    pictures = torch.stack([fit(picture, (16, 16)) for picture in frames(videos / "a.mp4")])
    assert (rows[2].content.float() - pictures[20:29].float()).abs().mean() < 4
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [shard["samples"] for shard in index["shards"]] == [4, 4]
    assert [shard["sha256"] for shard in index["shards"]] == [
        tool.sha256(p) for p in find_shards(str(tmp_path / "out"))
    ]


def test_latents_are_those_of_the_codec(videos: Path, tmp_path: Path) -> None:
    cut(videos, tmp_path / "out", StubCodec())
    pictures = torch.stack([fit(picture, (16, 16)) for picture in frames(videos / "a.mp4")])
    latents = decode(samples(tmp_path / "out")[1], "latent.npy").content
    assert torch.equal(latents, StubCodec().encode(to_float(pictures[9:18])[None])[0].half())
    batch = next(iter(ShardData(str(tmp_path / "out"), batch=8).train_dataloader()))
    assert batch.latents is not None and batch.latents.shape == (8, 3, 3, 2, 2)


def test_made_again_it_is_the_same_to_the_byte_and_nothing_is_done_twice(videos: Path, tmp_path: Path) -> None:
    cut(videos, tmp_path / "one", StubCodec())
    cut(videos, tmp_path / "two", StubCodec())
    assert tars(tmp_path / "one") == tars(tmp_path / "two")

    def dates() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}

    for touch in (False, True):  # a new date is no change
        before = dates()
        if touch:
            (videos / "a.mp4").touch()
            del before["index.json"]  # which takes note of it
        codec = StubCodec()
        report = cut(videos, tmp_path / "one", codec)
        assert codec.encoded == report.written == 0 and report.kept == 8
        assert before.items() <= dates().items()


@pytest.mark.parametrize("clips", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 4, 7))])
def test_an_interrupted_run_leaves_whole_shards_and_goes_on_from_them(videos: Path, tmp_path: Path, clips: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    cut(videos, whole, StubCodec())
    with pytest.raises(KeyboardInterrupt):
        cut(videos, out, StubCodec(interrupted_after=clips))
    kept = clips // 4 * 4
    assert sorted(p.name for p in out.iterdir()) == ["index.json", "shard-000000.tar"][: 1 + kept // 4]
    codec = StubCodec()
    assert cut(videos, out, codec).kept == kept
    assert codec.encoded == 8 - kept
    assert tars(out) == tars(whole)


@pytest.mark.slow
def test_a_crash_that_left_index_and_litter_behind_is_mended(videos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    cut(videos, whole, StubCodec())
    with pytest.raises(KeyboardInterrupt):
        cut(videos, out, StubCodec(interrupted_after=0))
    shutil.copy(whole / "shard-000000.tar", out)  # renamed, but index.json was never told
    (out / "writing.tmp").write_bytes(b"half a shard")
    codec = StubCodec()
    cut(videos, out, codec)
    assert codec.encoded == 4 and tars(out) == tars(whole) and not list(out.glob("*.tmp"))


def test_a_damaged_shard_is_made_again(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(videos, out, StubCodec())
    whole = tars(out)
    (out / "shard-000001.tar").write_bytes(whole["shard-000001.tar"][:2000])
    codec = StubCodec()
    with pytest.warns(UserWarning, match="shard-000001.tar is not a whole tar file .* is removed"):
        cut(videos, out, codec)
    assert codec.encoded == 4 and tars(out) == whole


def test_new_videos_fill_the_last_shard_and_cost_only_themselves(videos: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    shutil.move(videos / "more", tmp_path / "later")
    film(videos / "b.mp4", 20, seed=3)
    cut(videos, out, StubCodec())
    shutil.move(tmp_path / "later", videos / "more")
    codec = StubCodec()
    report = cut(videos, out, codec)
    assert (codec.encoded, report.kept, report.written) == (4, 6, 4)
    cut(videos, fresh, StubCodec())
    assert tars(out) == tars(fresh)


@pytest.mark.slow
def test_only_changed_videos_are_made_again(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(videos, out, StubCodec(), clips_per_shard=3)
    (videos / "a.txt").write_text("another caption")
    codec = StubCodec()
    report = cut(videos, out, codec, clips_per_shard=3)
    assert (codec.encoded, report.kept, report.written) == (4, 4, 4)
    prompts = [decode(sample, "latent.npy").prompt for sample in samples(out)]
    assert sorted(prompts) == ["another caption"] * 4 + ["second film"] * 4
    film(videos / "a.mp4", 20, seed=9, caption="another caption")
    assert cut(videos, out, StubCodec(), clips_per_shard=3).clips == 6
    assert len({sample.key for sample in samples(out)}) == len(samples(out)) == 6


def test_clips_of_videos_that_are_gone_stay(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(videos, out)
    shutil.rmtree(videos / "more")
    assert cut(videos, out).clips == 8
    with pytest.raises(
        ShardError, match=r"made with other settings \(size \[16, 16\] -> \[8, 8\]\), which cannot be made again now"
    ):
        cut(videos, out, size=(8, 8))
    assert len(samples(out)) == 8


@pytest.mark.slow
def test_other_settings_make_the_whole_set_anew(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(videos, out, pictures=4)
    assert cut(videos, out, size=(8, 8)).written == 8
    assert {decode(sample, "mp4").content.shape for sample in samples(out)} == {(9, 3, 8, 8)}


@pytest.mark.slow
def test_a_stride_makes_clips_overlap_and_the_whole_set_anew(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(videos, out)
    assert cut(videos, out, stride=3).written == 17
    starts = [row.facts["start"] for sample in samples(out) if (row := decode(sample, "mp4")).prompt == "first film"]
    assert starts == [0.0, 0.3, 0.6, 0.9, 2.0, 2.3, 2.6, 2.9]
    assert cut(videos, out, stride=3).written == 0
    assert cut(videos, out).written == 8


@pytest.mark.slow
def test_a_stride_of_one_clip_is_the_default_to_the_byte(videos: Path, tmp_path: Path) -> None:
    cut(videos, tmp_path / "default")
    cut(videos, tmp_path / "same", stride=9)
    assert tars(tmp_path / "default") == tars(tmp_path / "same")


def test_broken_videos_are_named_and_skipped_and_the_run_goes_on(videos: Path, tmp_path: Path) -> None:
    data = (videos / "a.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(data[: len(data) // 2])
    (videos / "cut.txt").write_text("x")
    film(videos / "short.mp4", 5, 5)
    film(videos / "silent.mp4", 20, caption=None)
    film(videos / "empty.mp4", 20, caption=" \n")
    (videos / "latin.txt").write_bytes(b"caf\x00\x01\xe9")
    shutil.copy(videos / "a.mp4", videos / "latin.mp4")
    for _ in range(2):  # a second run says it again
        report = cut(videos, tmp_path / "out")
        assert report.clips == 8
        assert report.skipped == {
            "cut.mp4": "not a readable video, or cut off (Invalid data found when processing input)",
            "short.mp4": "no scene lasts for a clip of 9 pictures at 10 fps (0.9 s)",
            "silent.mp4": "no caption: write one to silent.txt beside it, or add --caption-from-name",
            "empty.mp4": "no caption: write one to empty.txt beside it, or add --caption-from-name",
            "latin.mp4": "latin.txt is not a text file: save it as UTF-8",
        }
        assert "skipped silent.mp4: no caption" in str(report)


def test_the_clips_before_a_break_are_kept(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tool.read_clips

    def breaks_off(path: Path, *settings: object):  # type: ignore[no-untyped-def]
        for n, clip in enumerate(whole(path, *settings)):  # type: ignore[arg-type]
            if n == 2 and path.name == "a.mp4":
                raise tool.VideoError("a.mp4: breaks off at 2.0 s (bad data)")
            yield clip

    monkeypatch.setattr(tool, "read_clips", breaks_off)
    says = {"a.mp4": "breaks off at 2.0 s (bad data); the 2 clips before that are kept"}
    assert [(r.written, r.kept, r.skipped) for r in (cut(videos, tmp_path / "out") for _ in range(2))] == [
        (6, 0, says),
        (0, 6, says),
    ]


def test_the_words_of_a_file_name_may_serve_as_caption(tmp_path: Path) -> None:
    film(tmp_path / "videos" / "a_red-car 2.mp4", 10, caption=None)
    report = cut(tmp_path / "videos", tmp_path / "out", caption_from_name=True)
    assert report.captioned_by_name == ("a_red-car 2.mp4",) and "its file name is used: a_red-car 2.mp4" in str(report)
    assert decode(samples(tmp_path / "out")[0], "mp4").prompt == "a red car 2"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": (16, 15)}, "16 x 15 do not fit: give a height and width divisible by 2"),
        ({"size": (12, 16), "latents": StubCodec()}, "12 x 16 do not fit: .* divisible by 8"),
        ({"pictures": 10, "latents": StubCodec()}, "10 pictures does not fit the codec: give 12"),
        ({"fps": 0}, "at 0 fps are no clip"),
        ({"clips_per_shard": 0}, "0 clips per shard: give 1 or more"),
        ({"stride": 0}, "a stride of 0 pictures between clips: give 1 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused_first(videos: Path, tmp_path: Path, settings: dict, says: str) -> None:
    with pytest.raises(ShardError, match=says):
        cut(videos, tmp_path / "out", **settings)


def test_folders_that_will_not_do_are_refused(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardError, match=r"no folder .*nowhere: give the folder"):
        cut(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ShardError, match=r"no video in .*bare: put files there that end in \.3gp, \.avi"):
        cut(tmp_path / "bare", tmp_path / "out")
    with pytest.raises(ShardError, match=r"cannot write to .*a\.txt .* choose another folder"):
        cut(videos, videos / "a.txt")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "shard-000000.tar").write_bytes(b"precious")
    with pytest.raises(ShardError, match="not from this project: choose another folder"):
        cut(videos, tmp_path / "theirs")
    assert (tmp_path / "theirs" / "shard-000000.tar").read_bytes() == b"precious"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(ShardError, match=r"has 10 bytes free and needs about .* kB: choose another disk"):
        cut(videos, tmp_path / "out")


def test_worlds_and_videos_do_not_replace_each_other(videos: Path, tmp_path: Path) -> None:
    cut(videos, tmp_path / "out")
    with pytest.raises(ShardError, match="kind videos -> world"):
        write_world(tmp_path / "out", 3)


def test_codecs_are_told_apart_by_their_weights() -> None:
    one, other, copy = (TinyCodec(weights=None, width=4) for _ in range(3))
    copy.load_state_dict(one.state_dict())
    assert codec_name(copy) == codec_name(one) != codec_name(other)
    assert codec_name(None) is None and codec_name(StubCodec()) == "StubCodec"


def test_the_command_line(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    main(["--world", "plain", "--clips", "3", "--pictures", "3", "--out", out])
    assert f"{out}: 3 clips in 1 shard, 3 of them written now" in capsys.readouterr().out
    flags = ["--pictures", "9", "--fps", "10", "--height", "16", "--width", "24", "--clips-per-shard", "5"]
    main(["--videos", str(videos), "--out", out + "2", *flags])
    assert [decode(s, "mp4").content.shape for s in samples(Path(out + "2"))] == [(9, 3, 16, 24)] * 8
    assert "8 clips in 2 shards" in capsys.readouterr().out
    main(["--videos", str(videos), "--out", out + "2", *flags, "--stride", "4"])
    assert "13 clips in 3 shards" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="adastate shards: --videos: there is no folder of videos"):
        main(["--videos", out + "3", "--out", out])
    with pytest.raises(SystemExit):
        main([])
    assert "give a source of clips: --videos FOLDER" in capsys.readouterr().err


def test_the_command_line_fails_only_if_there_is_nothing_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "videos" / "a.mp4", 10, caption=None)
    with pytest.raises(SystemExit) as ended:
        main(["--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert "skipped a.mp4: no caption" in capsys.readouterr().out


def test_a_gap_ends_a_scene_and_is_told_and_no_clip_stands_still(tmp_path: Path) -> None:
    times = [n / 10 + 12 * (n >= 30) for n in range(60)]
    write(tmp_path / "videos" / "a.mkv", scene(1, 60), seconds=times).with_suffix(".txt").write_text("a pan")
    for _ in range(2):
        report = cut(tmp_path / "videos", tmp_path / "out")
        assert report.notes == {"a.mkv": "its timestamps jump by 12.1 s at 2.9 s: a scene ends there"}
        assert report.clips == 6 and not report.skipped and "a.mkv: its timestamps jump" in str(report)
    for sample in samples(tmp_path / "out"):
        moved = decode(sample, "mp4").content.float().diff(dim=0).abs().mean((1, 2, 3))
        assert moved.min() > 1, sample.key


def test_what_lies_beside_the_videos_is_told_and_every_name_will_do(tmp_path: Path) -> None:
    names = ["²3 b.mp4", "12:30.mp4", "雪 %03d.mp4", os.fsdecode(b"caf\xe9.mp4")]
    for n, name in enumerate(names):
        film(tmp_path / "videos" / name, 10, seed=n, caption=None)
    (tmp_path / "videos" / "notes.docx").touch()
    report = cut(tmp_path / "videos", tmp_path / "out", caption_from_name=True)
    assert report.clips == 4 and not report.skipped
    assert "other files, not read: 1 .docx" in str(report)
    told = {decode(sample, "mp4").prompt for sample in samples(tmp_path / "out")}
    assert told == {"²3 b", "12 30", "雪 03d", "caf xe9"}
    assert cut(tmp_path / "videos", tmp_path / "out", caption_from_name=True).written == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--world plain --latents", "make train-teacher RECIPE=latents"),
        ("--world flight --latents", "make train-teacher WORLD=flight RECIPE=latents"),
        ("--videos {videos} --out {tmp}/mine/shards", "make train-codec RUN={tmp}/mine ARGS="),
        ("--videos {videos} --latents --out {tmp}/own", "make train-teacher RUN={tmp} RECIPE=latents ARGS="),
    ],
)
def test_the_next_command_is_told_and_reads_what_was_written(
    words: str,
    told: str,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = words.format(videos=videos, tmp=tmp_path).split()
    main([*argv, *(["--clips", "1"] if "--world" in argv else ["--pictures", "9"])])
    summary, *few, last = capsys.readouterr().out.rstrip().splitlines()
    assert ["learns so few by heart" in line for line in few] == [True] * ("--videos" in argv), few
    command = last.removeprefix("next: ")
    assert command.startswith(told.format(tmp=tmp_path))
    made = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    line = next(line for line in made.stdout.replace("\\\n", " ").splitlines() if " fit " in line)
    config, rest = read_command(shlex.split(line)[2:])
    asked = [word.partition("=")[2] for word in rest if word.startswith("--data.init_args.shards=")]
    assert summary.startswith(f"{(asked or [config.lightning['data']['init_args']['shards']])[-1]}: ")
