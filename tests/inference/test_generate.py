"""`adastate generate` on a network of random weights: what lies in the files, and what is answered to mistakes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageColor
from safetensors.torch import save_file
from torch import Tensor

from adastate.encoders import TinyCodec
from adastate.inference import video_writer
from adastate.inference.decode_worker import DecodeWorker
from adastate.inference.generate_command import main
from adastate.inference.video_length import chunk_starts, frames_for, span
from adastate.main import main as adastate
from adastate.media.strip import PINK
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.stream import StreamSpec
from adastate.training.load_run import load_student
from adastate.weights import load_network, save_weights
from tests.support.cases import thinned
from tests.support.tiny import normal, randomise

SIZE = Size(
    width=32,
    layers=2,
    heads=2,
    ffn=64,
    channels=16,
    text_width=64,
    text_tokens=16,
    time_embedding_dim=32,
    rope_max_frames=64,
)
STREAM = {"chunk_frames": 3, "past_frames": 3, "denoising_steps": [1000, 500]}
GRID = [8, 8]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `make train` leaves it, without the training; 9 pictures a chunk, 8 a second."""
    run = tmp_path_factory.mktemp("run")
    student = {
        "size": asdict(SIZE),
        "codec": {"class_path": "adastate.encoders.TinyCodec"},
        "text": {"class_path": "adastate.encoders.TinyText"},
        "stream": STREAM,
        "latent_size": GRID,
        "rollout_frames": 6,
    }
    config = {
        "model": {"init_args": {"student": {"class_path": "adastate.training.student.Student", "init_args": student}}}
    }
    (run / "distill").mkdir()
    (run / "distill" / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    net = randomise(DiT(SIZE))
    with torch.no_grad():  # or else random weights hardly hear the prompt and the past
        for name, weight in net.named_parameters():
            loud = ("text_embedding.0", "text_embedding.2", "attn.v", "attn.o")
            weight *= 20 if name.removesuffix(".weight").endswith(loud) else 1
    save_weights(net, run / "student.safetensors", stream=asdict(StreamSpec(**STREAM)))
    return run


def generate(run: Path, out: Path, *argv: str) -> list[Path]:
    main(["--run", str(run), "--out", str(out), "--seconds", "2", *argv])
    return sorted(out.glob("*.mp4"))


def pictures(video: Path) -> np.ndarray:
    """`[T, h, w, 3]` as numbers from 0 to 255."""
    with av.open(str(video)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)]).astype(float)


def shown(run: Path, given: Tensor | None = None) -> np.ndarray:
    """`[T, h, w, 3]` of the stream "red ball", before it is enlarged and compressed; what is given stands before it."""
    latents = [chunk.content for chunk in load_student(run).stream(["red ball"], 6, given=given)]
    video = TinyCodec().decode(torch.cat([*([] if given is None else [given]), *latents], 1))
    return (video[0].permute(0, 2, 3, 1).numpy() + 1) * 127.5


def apart(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Mean distance of each chunk of nine pictures."""
    return [
        float(np.abs(x - y).mean()) for x, y in zip(np.split(a, len(a) // 9), np.split(b, len(b) // 9), strict=True)
    ]


# ---- lengths


class Wanlike(TinyCodec):
    """The first latent is a picture, the others are four."""

    def video_frames(self, frames: int) -> int:
        return 4 * frames - 3


@pytest.mark.parametrize("given", [0, 1, 4])
@pytest.mark.parametrize("codec", [TinyCodec(None, width=4), Wanlike(None, width=4)])
@pytest.mark.parametrize("spec", [StreamSpec(), StreamSpec(chunk_frames=3, first_chunk_frames=1)])
def test_a_stream_is_the_shortest_of_whole_chunks_and_each_begins_where_the_last_ends(
    codec: TinyCodec, spec: StreamSpec, given: int
) -> None:
    frames = frames_for(10, codec, spec, given)
    count = spec.chunks(frames)
    assert span(codec, given, frames) >= 10 * codec.fps > span(codec, given, frames - 3)
    starts = chunk_starts(frames, codec, spec, given)
    assert len(starts) == count and starts[0] == 0 and starts == sorted(set(starts))
    assert starts[-1] * codec.fps == span(codec, given, frames - 3)


@pytest.mark.parametrize("given", [0, 4])
@pytest.mark.parametrize("codec", [TinyCodec(None, width=4), Wanlike(None, width=4)])
def test_a_length_that_whole_chunks_make_is_theirs(codec: TinyCodec, given: int) -> None:
    spec = StreamSpec()
    for frames in (3, 6, 30):
        seconds = span(codec, given, frames) / codec.fps
        assert frames_for(seconds, codec, spec, given) == frames
        assert frames_for(seconds + 1e-3, codec, spec, given) == frames + 3


# ---- a prompt that changes


@pytest.mark.parametrize("overlap", [False, True])
def test_decoding_beside_the_denoising_changes_nothing(
    run: Path, tmp_path: Path, overlap: bool, monkeypatch: Any
) -> None:
    plain = pictures(generate(run, tmp_path / "plain", "--prompt", "red ball")[0])
    monkeypatch.setattr(video_writer, "DecodeWorker", lambda device, _: DecodeWorker(device, overlap))
    other = pictures(generate(run, tmp_path / "other", "--prompt", "red ball")[0])
    assert np.array_equal(plain, other)
    timing = json.loads((tmp_path / "other" / "timing.json").read_text())
    assert timing["pictures_s_with_decoding"] > 0


def test_a_turn_changes_the_stream_from_its_chunk_on(run: Path, tmp_path: Path) -> None:
    (plain,) = generate(run, tmp_path / "plain", "--prompt", "red ball")
    before = pictures(plain)
    assert len(before) == 18
    first = ("--prompt", "0s: red ball")
    seen = {}
    for name, then in (
        ("same", "1s: red ball"),
        ("keep", "1s: blue snow"),
        ("early", "0.1s: blue snow"),
        ("cut", "1s cut: blue snow"),
        ("flush", "1s flush reset: blue snow"),
        ("recache", "1s recache: blue snow"),
    ):
        (video,) = generate(run, tmp_path / name, *first, "--prompt", then, "--strip")
        assert video.name == "000-red-ball.mp4" and (tmp_path / name / "strip.png").is_file()
        seen[name] = pictures(video)
        assert apart(before, seen[name])[0] < 1, "the first chunk is made before the switch"
    assert (seen["same"] == before).all() and (seen["early"] == seen["keep"]).all()
    assert apart(before, seen["keep"])[1] > 1
    sheet = np.asarray(Image.open(tmp_path / "keep" / "strip.png")).astype(int)
    assert (np.abs(sheet - ImageColor.getrgb(PINK)).sum(-1) == 0).any(), "the strip marks the switch"
    others = [seen[name] for name in ("keep", "cut", "flush", "recache")]
    assert all((a != b).any() for a, b in combinations(others, 2)), "each switch leaves another cache"


# ---- what stands before


def test_the_video_begins_with_the_picture(run: Path, tmp_path: Path) -> None:
    for name, colour in (("a", (60, 130, 60)), ("b", (200, 210, 220))):
        Image.new("RGB", (64, 40), colour).save(tmp_path / f"{name}.png")
    prompts = ("--prompt", "red ball", "--prompt", "red ball")
    (plain, _) = generate(run, tmp_path / "plain", *prompts)
    (one, other) = generate(run, tmp_path / "one", *prompts, "--image", str(tmp_path / "a.png"), "--states", "--strip")
    (one_, two) = generate(run, tmp_path / "each", *prompts, "--image", str(tmp_path))
    assert len(pictures(plain)) == 18 and len(pictures(one)) == len(pictures(two)) == 3 + 18
    codec = TinyCodec()
    still = (torch.tensor([60, 130, 60]) / 127.5 - 1).view(1, 1, 3, 1, 1).expand(1, 3, 3, 32, 32)
    seen, wanted = pictures(one_)[:, ::8, ::8], shown(run, codec.encode(still))
    assert np.abs(seen[:3] - wanted[:3]).mean() < 4
    assert np.abs(seen - wanted)[3:].mean() < np.abs(seen[3:] - shown(run)).mean(), "the stream goes on from it"
    assert np.abs(pictures(one)[:, :, :256] - pictures(one_)).mean() < 4
    assert np.abs(pictures(two)[:3] - pictures(one_)[:3]).mean() > 20
    assert np.abs(pictures(other)[3:] - pictures(one)[3:]).mean() > 1, "another row, another noise"


def test_an_animation_of_the_first_streams_lies_beside_the_videos(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (video, _) = generate(run, out, "--prompt", "red ball", "--prompt", "snow", "--animated")
    with Image.open(video.with_suffix(".webp")) as there:
        assert there.n_frames == len(pictures(video)) == 18 and there.height > 2 * 192
    with pytest.raises(SystemExit, match="at most 60 seconds"):
        main(["--run", str(run), "--prompt", "x", "--seconds", "61", "--animated"])


@pytest.mark.parametrize("frames", thinned([4, 1, 3], every=3))
def test_latents_stand_before_the_stream(run: Path, tmp_path: Path, frames: int) -> None:
    x = normal(frames, 16, *GRID)
    save_file({"latents": x}, tmp_path / "x.safetensors")
    (video,) = generate(run, tmp_path / "out", "--prompt", "red ball", "--latents", str(tmp_path / "x.safetensors"))
    seen = pictures(video)
    assert len(seen) == 3 * frames + 18
    off = np.abs(seen[:, ::8, ::8] - shown(run, x[None]))
    assert off.mean() < 12, "what compression takes from noise"
    assert off[3 * frames :].mean() < np.abs(seen[3 * frames :, ::8, ::8] - shown(run)).mean(), "the stream goes on"


# ---- another system


def test_another_system_runs_on_the_weights_and_says_what_they_have_not_learnt(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own,) = generate(run, tmp_path / "own", "--prompt", "red ball")
    assert "warning" not in capsys.readouterr().err
    (video,) = generate(run, tmp_path / "sink", "--prompt", "red ball", "--system", "rolling_sink")
    assert "trained with anchor: state, state_frames: 1 and are used with anchor: pingpong" in capsys.readouterr().err
    assert len(pictures(own)) == len(pictures(video)) == 18
    assert apart(pictures(own), pictures(video))[0] > 1
    timing = json.loads((tmp_path / "sink" / "timing.json").read_text())
    assert (timing["window_frames"], timing["steps"]) == (21, 4)


@pytest.mark.slow
def test_a_system_may_need_a_longer_rope_table(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    stream = {"chunk_frames": 3, "past_frames": 3, "anchor": "none", "state_frames": 0, "denoising_steps": [1000]}
    for rows, position in ((None, "slot"), (100, "absolute")):
        size = {} if rows is None else {"size": {"rope_max_frames": rows}}
        file.write_text(yaml.safe_dump({"stream": {**stream, "position": position}, **size}))
        (video,) = generate(run, tmp_path / position, "--seconds", "25", "--prompt", "a", "--system", str(file))
        assert len(pictures(video)) == 207
    file.write_text(yaml.safe_dump({"stream": {**stream, "position": "absolute"}}))
    with pytest.raises(SystemExit, match=r"adastate generate: frame position 6\d lies outside the 64 rows"):
        generate(run, tmp_path / "short", "--seconds", "25", "--prompt", "a", "--system", str(file))
    assert not list((tmp_path / "short").iterdir()), "nothing half made is left"


# ---- VBench


@pytest.fixture
def bench(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command as a rank of a world, on three prompts in a file."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red ball\nblue/white snow\n\nred ball\nlava.\n")

    def call(out: str, rank: int = 0, world: int = 1, *argv: str) -> list[str]:
        monkeypatch.setenv("RANK", str(rank)), monkeypatch.setenv("WORLD_SIZE", str(world))
        found = generate(run, tmp_path / out, "--layout", "vbench", "--prompts", str(prompts), "--samples", "2", *argv)
        return [video.name for video in found]

    return call


NAMES = [f"{stem}-{i}.mp4" for stem in ("blue-white snow~", "lava.", "red ball") for i in range(2)]


def nameless(names: list[str]) -> list[str]:
    """Names without the digits of a hash."""
    return [name[: name.index("~") + 1] + name[-6:] if "~" in name else name for name in names]


def test_vbench_finds_its_names_in_a_folder_of_nothing_else(bench: Any, tmp_path: Path) -> None:
    assert nameless(bench("v", 0, 1, "--strip")) == NAMES
    assert len(list((tmp_path / "v").iterdir())) == len(NAMES)
    info = tmp_path / "v.info"
    prompts = json.loads((info / "prompts.json").read_text())
    assert set(prompts) == {p.name for p in (tmp_path / "v").iterdir()}
    assert set(prompts.values()) == {"red ball", "blue/white snow", "lava."}
    summary = json.loads((info / "timing.json").read_text())
    assert (summary["videos"], summary["videos_wanted"], summary["ranks_reported"]) == (6, 6, 1)
    assert json.loads((info / "timing-000.json").read_text())["streams"] == 6
    assert (info / "strip.png").is_file()


def test_a_video_is_the_same_whichever_rank_or_batch_made_it(bench: Any, tmp_path: Path) -> None:
    bench("one", 0, 1, "--batch", "6")
    assert [len(bench("many", rank, 4, "--batch", "1")) for rank in range(4)] == [2, 4, 5, 6]
    for video in (tmp_path / "one").iterdir():
        assert np.abs(pictures(video) - pictures(tmp_path / "many" / video.name)).mean() < 0.1
    summary = json.loads((tmp_path / "many.info" / "timing.json").read_text())
    assert (summary["videos"], summary["ranks_reported"], summary["pictures"]) == (6, 4, 6 * 18)
    a, b = (pictures(tmp_path / "one" / f"red ball-{i}.mp4") for i in range(2))
    assert apart(a, b)[0] > 1, "samples differ"


def test_what_is_there_is_not_made_again(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench("v")
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "v").iterdir()}
    (tmp_path / "v" / "lava.-1.mp4").unlink()
    bench("v")
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "v").iterdir()}
    assert {name for name in again if again[name] != times[name]} == {"lava.-1.mp4"}
    timing = json.loads((tmp_path / "v.info" / "timing-000.json").read_text())
    assert (timing["streams"], timing["skipped"]) == (1, 5)
    capsys.readouterr()
    bench("v")
    assert "6 of 6 videos are in" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="were made with seed 0, now it is 1"):
        bench("v", 0, 1, "--seed", "1")


def test_the_model_is_told_the_extended_prompt_and_the_file_the_original(bench: Any, tmp_path: Path, run: Path) -> None:
    bench("short")
    extended = tmp_path / "extended.txt"
    extended.write_text("a red ball bounces over snow\nblue/white snow\n\nnothing\nlava.\n")
    assert nameless(bench("long", 0, 1, "--prompts-extended", str(extended))) == NAMES
    (told,) = generate(run, tmp_path / "told", "--prompt", "a red ball bounces over snow")
    far = {name: np.abs(pictures(p) - pictures(tmp_path / "short" / name)).mean() > 1
           for name, p in ((p.name, p) for p in (tmp_path / "long").iterdir())}  # fmt: skip
    assert {name for name, differs in far.items() if differs} == {"red ball-0.mp4", "red ball-1.mp4"}
    assert np.abs(pictures(told) - pictures(tmp_path / "long" / "red ball-0.mp4")).mean() < 0.1


# ---- mistakes


def test_mistakes_are_answered_in_one_sentence(run: Path, tmp_path: Path) -> None:
    prompts, short, binary = tmp_path / "prompts.txt", tmp_path / "short.txt", tmp_path / "binary.txt"
    prompts.write_text("a\nb\n"), short.write_text("A\n"), binary.write_bytes(b"\xff\xfea")
    gap = tmp_path / "gap.txt"
    gap.write_text("A\n \n\n")
    np.save(tmp_path / "two.npy", normal(2, 16, *GRID).numpy())
    np.save(tmp_path / "wide.npy", normal(1, 16, 8, 9).numpy())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    one, both = ["--prompt", "a"], ["--prompt", "0s: a", "--prompt", "1s: b"]
    file, bench = ["--prompts", str(prompts)], ["--layout", "vbench"]
    cases: list[tuple[list[str], str]] = [
        ([], "no prompt; give --prompt"),
        (["--prompts", str(tmp_path / "none.txt")], "there is no file of prompts .*none.txt"),
        (["--prompts", str(binary)], "is not utf-16 .line 1.: save it as UTF-8"),
        ([*one, "--seconds", "nan"], "--seconds: nan will not do; give a number above 0"),
        ([*one, "--most", "0"], "--most: 0 is too small; give at least 1"),
        ([*both, "--prompt", "c"], "'c' has no time, but '0s: a' has"),
        ([*both, *file], "leave out --prompts"),
        ([*both, *bench], "a schedule of prompts is one stream"),
        (["--prompt", "0s: a", "--prompt", "9s: b"], "at 9s comes after the end: the stream has 2 seconds"),
        ([*both[:3], "1s cut: b", "--system", "longlive"], "a cut moves a chunk to a far slot; position is 'absolute'"),
        ([*both[:3], "1s flush: b", "--system", "rolling_sink"], "switch 'flush' needs a uniform schedule"),
        ([*one, "--system", "longlife"], "no system 'longlife'; did you mean 'longlive'"),
        ([*one, "--latents", str(tmp_path / "two.npy")], "2 given frames do not divide into blocks of 3"),
        (
            [*one, "--latents", str(tmp_path / "wide.npy")],
            "latent frames of 16 x 8 x 9 .*, the network makes 16 x 8 x 8",
        ),
        ([*one, "--latents", str(tmp_path / "two.npy"), "--image", str(tmp_path / "a.png")], "give one of them"),
        ([*file, "--image", str(tmp_path)], "holds 1 picture for 2 prompts"),
        ([*file, "--prompts-extended", str(short)], "short.txt has 1 lines, .*prompts.txt has 2"),
        ([*one, "--prompts-extended", str(short)], "goes line by line with --prompts alone"),
        ([*one, "--samples", "2"], "--samples belongs to --layout vbench"),
        ([*file, *bench, "--states"], "--states would be measured"),
        ([*one, "--weights", str(tmp_path / "none")], "no weights at"),
        ([*one, "--secnds", "3"], "there is no option '--secnds'; did you mean '--seconds'"),
        ([*one, "a red ball"], "there is no option 'a red ball'"),
        ([*one, "--size", "tiny"], "tiny and --run .*: a run folder has its own configuration"),
        ([*one, "--stream.past_frames=3"], "a run folder has its own configuration, .*distill/config.yaml"),
    ]
    for argv, sentence in cases:
        with pytest.raises(SystemExit, match=f"^adastate generate: .*{sentence}"):
            generate(run, tmp_path / "out", *argv)
    assert not (tmp_path / "out").exists(), "nothing is written before a mistake is found"


# ---- actions


@pytest.fixture(scope="module")
def steered_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with a layer of actions that it hears."""
    there = tmp_path_factory.mktemp("steered")
    (there / "distill").mkdir()
    config = yaml.safe_load((run / "distill" / "config.yaml").read_text())
    config["model"]["init_args"]["student"]["init_args"]["size"]["actions"] = 8
    (there / "distill" / "config.yaml").write_text(yaml.safe_dump(config))
    net = load_network(replace(SIZE, actions=8), str(run / "student.safetensors"))
    net.get_parameter("action_embedding.weight").data.copy_(3 * normal(SIZE.width, 9))
    save_weights(net, there / "student.safetensors", stream=asdict(StreamSpec(**STREAM)))
    return there


def test_a_stream_is_steered_from_the_time_on_that_is_asked_for(run: Path, steered_run: Path, tmp_path: Path) -> None:
    def streamed(name: str, *words: str, folder: Path = steered_run) -> np.ndarray:
        (file,) = generate(folder, tmp_path / name, "--prompt", "red ball", *words)
        return pictures(file)

    alone, straight = streamed("alone"), streamed("straight", "--actions", "straight", "--strip")
    assert apart(alone, streamed("unsteered", folder=run)) == [0.0] * 2, "not given is nothing added"
    left = streamed("left", "--actions", "0s: straight", "--actions", "1.1s: left+climb", "--strip")
    assert apart(straight, left)[0] == 0 and apart(straight, left)[1] > 1
    assert min(apart(straight, alone)) > 1, "straight is given, too"
    assert (tmp_path / "left" / "strip.png").is_file()


def test_keys_of_another_project_steer_as_the_words_do(steered_run: Path, tmp_path: Path) -> None:
    """`adastate cameras` writes the file, `adastate generate` takes it: three rows of w, then d to the end."""
    keys = tmp_path / "flight.actions.npy"
    adastate(["cameras", "w-3, d-1", str(keys), "--format", "hy-worldplay"])
    by_file, by_words, held = (
        pictures(generate(steered_run, tmp_path / name, "--prompt", "red ball", *words)[0])
        for name, words in {
            "file": ["--actions", str(keys)],
            "words": ["--actions", "0s: w", "--actions", "1.1s: d"],
            "held": ["--actions", "w"],
        }.items()
    )
    assert apart(by_file, by_words) == [0.0] * 2
    assert apart(by_file, held)[0] == 0 and apart(by_file, held)[1] > 1


def test_actions_that_cannot_be_are_answered_in_a_sentence(run: Path, steered_run: Path, tmp_path: Path) -> None:
    for folder, words, sentence in (
        (run, ["left"], "this run's network cannot be steered, for its size has no `actions`: leave out --actions"),
        (steered_run, ["up"], "'up' asks for 'up': actions are straight, left, right"),
        (steered_run, ["0s: left", "9s: right"], "the actions at 9s come after the end"),
    ):
        listed = [part for word in words for part in ("--actions", word)]
        with pytest.raises(SystemExit, match=sentence):
            generate(folder, tmp_path, "--prompt", "red ball", *listed)
