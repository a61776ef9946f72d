"""`adastate train`: what runs, what is skipped, and what is said when a stage fails."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from adastate.config.command_line import read_command, unknown_option
from adastate.encoders import residual_codec
from adastate.launch import pipeline
from adastate.launch.stage_runner import StageRunner
from adastate.launch.stages import INITS, stages
from adastate.main import main
from adastate.runtime.text_files import read_prompts
from adastate.stream import action_schedule
from adastate.weights.network_weights import BUILTIN
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter
from tests.support.cases import thinned

ROOT = Path(__file__).parents[2]


def arguments(run: Path, **changes: object) -> argparse.Namespace:
    chosen = {"run": str(run), "size": "tiny", "data": "world", "teacher": "builtin", "clips": 8, "rest": []}
    chosen["world"] = "flight" if changes.get("size") == "flight" else "plain"
    return argparse.Namespace(**{**chosen, "preset": "default", "init": "causal_ode", "system": "", **changes})


def names(run: Path, **changes: object) -> list[str]:
    return [stage.name for stage in stages(arguments(run, **changes))]


def test_the_teacher_is_trained_only_when_there_is_none(tmp_path: Path) -> None:
    tail = ["trajectories", "init", "distill", "rollouts 1x", "rollouts 6x", "evaluate"]
    assert names(tmp_path) == ["shards", *tail]
    assert names(tmp_path, teacher="scratch") == ["shards", "teacher", *tail]
    assert names(tmp_path, data="clips") == ["clips", "shards", "codec", "teacher", *tail]
    (tmp_path / "a.mp4").touch()
    assert names(tmp_path, data=str(tmp_path)) == ["shards", "codec", "teacher", *tail]
    with pytest.raises(ShardError, match="no folder"):
        names(tmp_path, data=str(tmp_path / "nowhere"))
    assert names(tmp_path, size="flight", teacher="a.safetensors") == ["shards", *tail]
    assert names(tmp_path, size="flight", teacher="scratch") == ["shards", "latents", "teacher", *tail]


def test_flights_begin_with_the_initialised_student_if_it_is_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = ["distill", "rollouts 1x", "rollouts 6x", "evaluate"]
    monkeypatch.setitem(BUILTIN, "flight_init", tmp_path / "init.safetensors")
    assert names(tmp_path, size="flight") == ["shards", "trajectories", "init", *tail]
    (tmp_path / "init.safetensors").touch()
    assert names(tmp_path, size="flight") == tail
    distill, once, long, evaluate = stages(arguments(tmp_path, size="flight"))
    config, _ = read_command(distill.argv[1:])
    assert config.lightning["model"]["init_args"]["student"]["init_args"]["weights"] == "flight_init"
    assert "conf/stages/distill_flight.yaml" in distill.argv and "--prompts" not in evaluate.argv
    for stage, seconds in ((once, 2.625), (long, 15.75)):
        told = [after for word, after in pairwise(stage.argv) if word == "--actions"]
        cues = action_schedule.parse_actions(told)
        assert "--animated" in stage.argv and len(cues) > 2 and cues[-1].seconds < seconds - 0.5


def test_the_captions_of_videos_become_prompts_whatever_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    with ShardWriter(tmp_path / "shards", 4) as writer:
        for n, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16", "latin-1")):
            writer.add(f"clip-{n}", {"txt": f"ein Hügel,\r\nvon {n // 2}".encode(encoding)})
    (shards,) = (s for s in stages(arguments(tmp_path, data=str(tmp_path / "videos"))) if s.name == "shards")
    assert "2 captions" in shards.result()
    assert read_prompts(tmp_path / "prompts.txt") == ["ein Hügel, von 0", "ein Hügel, von 1"]


def test_another_system_is_told_to_every_stage_that_composes_a_config(tmp_path: Path) -> None:
    for stage in stages(arguments(tmp_path, system="longlive")):
        if stage.argv[0] in ("fit", "trajectories"):
            config, _ = read_command(stage.argv[1:])
            assert config.variables["stream"]["anchor"] == "static", stage.name


def test_the_clips_of_a_small_folder_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overlap(data: str) -> bool:
        (cut,) = (stage.argv for stage in stages(arguments(tmp_path, data=data)) if stage.name == "shards")
        return "--stride" in cut

    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"0" * 100)
    assert overlap("clips") and overlap(str(folder)) and not overlap("world")
    monkeypatch.setattr("adastate.launch.stages.SMALL_FOLDER", 99)
    assert overlap("clips") and not overlap(str(folder))


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**8))
    monkeypatch.setattr(StageRunner, "run_stage", lambda *_: pytest.fail("nothing may start"))
    with pytest.raises(SystemExit, match=r"0\.1 GB free"):
        pipeline.main(["--run", str(tmp_path)])


FULL = ["shards", "teacher", "trajectories", "ar", "causal trajectories", "init", "distill", "long"]


def test_the_full_preset_goes_through_every_stage(tmp_path: Path) -> None:
    tail = ["rollouts 1x", "rollouts 6x", "evaluate"]
    assert names(tmp_path, preset="full") == [*FULL, *tail]
    without = {"consistency": {"causal trajectories"}, "ar_diffusion": {"causal trajectories", "init"}}
    for init in INITS[1:]:
        left_out = without.get(init, {"ar", "causal trajectories"})
        assert names(tmp_path, preset="full", init=init) == [name for name in [*FULL, *tail] if name not in left_out]


@pytest.mark.parametrize("init", thinned(INITS, every=4))
@pytest.mark.parametrize("size", ["tiny", "flight", "wan_1_3b"])
def test_every_stage_is_composed_and_begins_with_what_an_earlier_one_writes(
    tmp_path: Path, size: str, init: str
) -> None:
    made = {{"tiny": "builtin", "flight": "flight"}.get(size, "weights/Wan2.1-T2V-1.3B-Diffusers")}
    for stage in stages(arguments(tmp_path, preset="full", size=size, init=init)):
        if stage.argv[0] != "fit":
            continue
        config, rest = read_command(stage.argv[1:])
        told = {word.partition("=")[0]: word.partition("=")[2] for word in rest if word.startswith("--model")}
        model = config.lightning["model"]["init_args"]
        mine = told.get("--model.init_args.weights", model.get("weights"))
        begins = model["student"]["init_args"]["weights"] if "student" in model else mine
        assert begins in made, (stage.name, begins)
        assert config.variables["run"]["stage"] == stage.name, "the stage's folder has the stage's name"
        made.add(told.get("--model.init_args.out", model["out"]))
    assert str(tmp_path / "long.safetensors") in made


@pytest.mark.parametrize("size", ["wan_1_3b", "wan_14b"])
def test_the_real_sizes_are_not_taken_through_clips_of_the_tiny_world(size: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="called one by one, with prompts of your own: docs/guide/wan"):
        pipeline.main(["--run", str(tmp_path / "run"), "--size", size])
    assert not (tmp_path / "run").exists()


def test_flights_are_told_to_every_stage_of_their_world(tmp_path: Path) -> None:
    line = stages(arguments(tmp_path, size="flight", teacher="scratch"))
    made = {stage.name: stage.argv for stage in line}
    assert made["shards"][:5] == ["shards", "--world", "flight", "--clips", "256"] and "--latents" in made["latents"]
    for name in ("teacher", "distill"):
        config, _ = read_command(made[name][1:])
        data = config.lightning["data"]["init_args"]
        assert config.variables["run"]["world"] == "flight" and config.variables["size"]["actions"] == 8
        assert (data.get("kind"), data.get("want")) == (("flight", None) if name == "distill" else (None, "latents"))
    assert f"--data.init_args.shards={tmp_path}/latents" in made["teacher"]
    assert any("snowy mountains" in word for word in made["rollouts 1x"]), "prompts of the size's previews"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--world", "fog"], "the world fog is made for the study: adastate study --world fog"),
        (["--world", "flight", "--size", "tiny"], "the world flight does not fit the size tiny: leave out --size"),
        (["--world", "plain", "--size", "flight"], "the world plain does not fit the size flight"),
        (["--world", "flight", "--data", "clips"], "makes its own clips: leave out --data clips"),
    ],
)
def test_a_world_that_does_not_fit_is_told_in_a_sentence(tmp_path: Path, words: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        pipeline.main(["--run", str(tmp_path / "run"), *words])
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_bundled_are_named_with_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "codec.safetensors"
    for codec in (tmp_path / "none", there):
        monkeypatch.setitem(residual_codec.SHIPPED, "flight", codec)
        there.touch()
        monkeypatch.delitem(BUILTIN, "flight", raising=False)
        with pytest.raises(SystemExit) as ended:
            pipeline.main(["--run", str(tmp_path / "run"), "--world", "flight"])
        wanted = "make train WORLD=flight TEACHER=scratch" if codec == there else "make train-codec WORLD=flight"
        assert f"`{wanted}` trains" in str(ended.value)
    monkeypatch.setattr(pipeline, "stages", lambda args: [])
    pipeline.main(["--run", str(tmp_path / "run"), "--size", "flight", "--teacher", "scratch"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train", "train --run runs/tiny --size tiny "),
        ("train WORLD=flight", "train --run runs/flight --size flight --world flight "),
        (
            "train-teacher SIZE=flight RECIPE=latents",
            "conf/stages/teacher.yaml --config conf/recipes/teacher_latents.yaml",
        ),
        (
            "train-codec WORLD=flight",
            "conf/stages/codec.yaml --config conf/stages/codec_flight.yaml --run.dir=runs/flight",
        ),
        ("train-teacher WORLD=fog", "WORLD=fog is a world of the study: make study WORLD=fog"),
        ("shards WORLD=flight LATENTS=1", "shards --world flight --latents --out runs/flight/shards"),
        ("shards VIDEOS=mine LATENTS=1", "shards --videos mine --latents --out runs/tiny/shards"),
        ("train-teacher RECIPE=latents", "conf/recipes/teacher_latents.yaml --run.dir=runs/tiny"),
        ("generate", "adastate generate\n"),
        ("generate RUN=runs/tiny", "adastate generate --run runs/tiny"),
        ("study", "--world mist"),
        ("study WORLD=fog", "--world fog"),
        # mistakes
        (
            "generate PROMPT=ball",
            "there is no variable PROMPT: options of a command go into ARGS, as in make generate ",
        ),
        ("train size=tiny", "there is no variable size: did you mean SIZE?"),
        ("train-distill STRATGY=zero2", "there is no variable STRATGY: did you mean STRATEGY?"),
        ("train-distill WORLD=flihgt", "there is no WORLD=flihgt: known are plain flight mist"),
        (
            "train-distill GPUS=2",
            "has no use for GPUS=2: it goes with SLURM=1; those of this machine are ARGS=--trainer",
        ),
        ("train STRATEGY=zero2", "make train has no use for STRATEGY=zero2: make rehearse train-teacher train-init"),
        (
            "live PORT=8000",
            "make live has no use for PORT=8000: make tensorboard takes it; options of a command go into",
        ),
        ("generate SIZE=wan_1_3b", "no student of SIZE=wan_1_3b comes with the project: give RUN=FOLDER"),
        ("generate SIZE=wan_1_3b RUN=runs/wan", "adastate generate --run runs/wan"),
        ("train-distill CUDA_VISIBLE_DEVICES=0 GPUS=2 SLURM=1", "conf/slurm.sh submit fit --config conf/base.yaml"),
    ],
)
def test_make_has_a_world_for_training_and_another_for_the_study(words: str, says: str) -> None:
    told = subprocess.run(["make", "-n", *words.split()], capture_output=True, text=True, check=False, cwd=ROOT)
    lines = (told.stdout + told.stderr).replace("\\\n", " ").replace('"', "").splitlines()
    assert says in "".join(" ".join(line.split()) + "\n" for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_takes_a_variable_where_it_changes_something() -> None:
    """And refuses it elsewhere. In the environment, where it is never refused, it shows what it changes."""
    text = (ROOT / "Makefile").read_text()
    names = {*re.findall(r"^([A-Z]+) +\?=", text, re.M), "TASKS", "TIME"} - {"RUN", "SIZE", "WORLD", "ARGS", "PYTHON"}
    wrong = []
    for target in sorted({*re.findall(r"^([a-z-]+):.*## ", text, re.M)} - {"help"}):
        plain = _made(target)
        for name in sorted(names):
            value = "causal" if name == "RECIPE" else "7"
            refused = "has no use for" in _made(target, f"{name}={value}")
            wrong += [] if refused == (_made(target, **{name: value}) == plain) else [(target, name)]
    assert wrong == []


def _made(*words: str, **environment: str) -> str:
    told = subprocess.run(
        ["make", "-n", *words], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    return told.stdout + told.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("slurm", ["", "1"])
@pytest.mark.parametrize("target", ["train", "train-init", "train-distill", "trajectories", "generate", "plan"])
def test_make_takes_a_run_folder_with_a_space(target: str, slurm: str) -> None:
    words = ["make", "-n", "--no-print-directory", target, "RUN=my runs/a", f"SLURM={slurm}"]
    told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.replace("\\\n", " ")
    asked = shlex.split(told.splitlines()[-1])
    assert {"--run.dir=my runs/a", "my runs/a"} & {*asked} and not {"my", "runs/a"} & {*asked}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sise", "tiny"], "there is no option '--sise'; did you mean '--size'"),
        (["--stram.past_frames=3"], "did you mean '--stream'"),
        (["tiny"], "there is no option 'tiny'"),
        (["--run.iteratons=5"], "run has no 'iteratons'; did you mean 'iterations'"),
        (["--model.init_args.horizon_wait=3"], "has no 'horizon_wait'"),
        (["--trainer.precision=bf16mixed"], "did you mean 'bf16-mixed'"),
    ],
)
def test_mistakes_are_told_before_the_first_stage(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(told)):
        main(["train", "--run", str(tmp_path / "run"), *words])
    assert not (tmp_path / "run").exists()


def test_overrides_with_a_value_of_their_own_are_known() -> None:
    assert unknown_option(["--stream.past_frames", "6", "--trainer.max_steps=5"], ["--size"]) == ""
