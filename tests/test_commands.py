"""The commands one after another at a miniature of the tiny size: what one writes, the next reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
import yaml

from adastate.config.compose import compose
from adastate.evaluation.real_clips import choose
from adastate.main import main
from datamodules.worlds.flyover import flight

CONFIG = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml"]
SMALL = ["--size.width=32", "--size.layers=1", "--size.ffn=64", "--preview.every=1000", "--preview.long=0"]
PROMPT = "a slow flight north over a green meadow, a red ball bounces"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder made by the real commands, a few steps each."""
    run = tmp_path_factory.mktemp("run")
    common = [*CONFIG, *SMALL, f"--run.dir={run}"]
    teacher = f"--teacher.weights={run}/teacher.safetensors"
    stage = ["--config", "conf/stages/teacher.yaml"]
    main(["fit", *common, *stage, "--trainer.max_steps=3", "--data.clips=16"])
    main(["trajectories", *common, *stage, teacher, "--clips", "16", "--steps", "4"])
    main(
        [
            "fit",
            *common,
            teacher,
            "--config",
            "conf/stages/init.yaml",
            "--trainer.max_steps=3",
            "--trainer.callbacks+=Timer",
        ]
    )
    distill = ["--config", "conf/stages/distill.yaml", "--config", "conf/stages/distill_tiny.yaml"]
    critic = f"--critic.weights={run}/teacher.safetensors"
    main(["fit", *common, teacher, critic, *distill, "--run.iterations=3", "--model.schedule.critic_first=1"])
    return run


def test_every_stage_leaves_weights_and_its_resolved_config(run: Path) -> None:
    for stage in ("teacher", "init", "distill"):
        config = yaml.safe_load((run / stage / "config.yaml").read_text())
        assert "${" not in json.dumps(config), "the config in the run folder is resolved"
        assert str(run) not in json.dumps(config), "and can be moved with it"
        assert compose([run / stage / "config.yaml"]).lightning["trainer"]["default_root_dir"] == f"{run}/{stage}"
    for name in ("teacher", "init", "student"):
        assert (run / f"{name}.safetensors").stat().st_size > 10_000


def test_the_run_shows_itself_in_tensorboard_with_states(run: Path) -> None:
    folder = run / "distill"
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "gallery.html").is_file()
    assert any("state" in p.name for p in folder.glob("videos/*.mp4"))
    assert list(folder.glob("strips/*.png"))


def test_generate_streams_any_length_with_states_beside(run: Path, tmp_path: Path) -> None:
    main(
        [
            "generate",
            "--run",
            str(run),
            "--prompt",
            PROMPT,
            "--seconds",
            "4",
            "--states",
            "--strip",
            "--out",
            str(tmp_path),
        ]
    )
    (video,) = tmp_path.glob("*.mp4")
    with av.open(str(video)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 33, "4 s at 8 pictures a second, in whole chunks of 3 pictures"
        assert file.streams.video[0].width > 2 * file.streams.video[0].height, "the state stands beside the video"
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert timing["pictures_s_with_decoding"] < timing["pictures_s_without_decoding"]
    assert (tmp_path / "strip.png").is_file()


def test_evaluate_measures_student_teacher_and_real_clips(run: Path) -> None:
    main(["evaluate", "--run", str(run), "--rollouts", "4", "--horizon", "2"])
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert list(rows) == ["student, 1x", "student, last second of 2x", "teacher, 1x", "real clips, 1x"]
    assert rows["real clips, 1x"]["heading"] == 1.0
    assert rows["real clips, 1x"]["residual"] < 0.3 < rows["student, 1x"]["residual"], "three steps teach nothing"


def test_prompts_of_ones_own_are_measured_beside_the_real_clips_of_the_run(run: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.json"
    command = ["evaluate", "--run", str(run), "--rollouts", "3", "--horizon", "1", "--prompts", str(prompts)]
    prompts.write_text("a dog\na cat\n")
    main([*command, "--json", str(out)])
    assert list(json.loads(out.read_text())["rows"]) == ["student, 1x", "teacher, 1x"]
    main(["shards", "--world", "plain", "--clips", "5", "--out", str(run / "shards")])
    for captions, scenes in ((["a dog", "a cat"], [None] * 3), ([flight(0, i).caption for i in range(2)], [1.0])):
        prompts.write_text("\n".join(captions))
        main([*command, "--json", str(out)])
        rows = json.loads(out.read_text())["rows"]
        assert list(rows) == ["student, 1x", "teacher, 1x", "real clips, 1x"]
        assert all(row["change"] > 0 for row in rows.values())
        assert rows["real clips, 1x"].get("scene") == scenes[-1]


@pytest.mark.parametrize(
    ("prompts", "chosen"),
    [("aabb", [0, 2, 1, 4]), ("a", [0]), ("aaaa", [0, 0, 2, 3]), ("xx", [0, 2]), ("bax", [1, 0, 0])],
)
def test_real_clips_are_chosen_evenly_for_each_prompt(prompts: str, chosen: list[int]) -> None:
    assert choose("abaab", list(prompts)) == chosen


def test_trajectories_are_not_written_twice(run: Path) -> None:
    index = run / "trajectories" / "index.json"
    before = index.stat().st_mtime_ns
    stage = ["--config", "conf/stages/teacher.yaml", f"--teacher.weights={run}/teacher.safetensors"]
    main(["trajectories", *CONFIG, *SMALL, f"--run.dir={run}", *stage, "--clips", "16", "--steps", "4"])
    assert index.stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_causal_route_to_an_initialisation(run: Path) -> None:
    """Autoregressive diffusion, its own trajectories, and the student that learns them, as `make` has it."""
    common = [*CONFIG, *SMALL, f"--run.dir={run}", f"--teacher.weights={run}/teacher.safetensors"]
    stage = [*common, "--config", "conf/stages/init.yaml"]
    main(["fit", *stage, "--config", "conf/recipes/init_ar_diffusion.yaml", "--trainer.max_steps=3"])
    main(["trajectories", *common, "--teacher", "causal", "--clips", "16", "--steps", "4"])
    out = f"--model.init_args.out={run}/causal.safetensors"
    recipe = ["--config", "conf/recipes/init_causal_ode.yaml"]
    main(["fit", *stage, *recipe, "--run.stage=causal", "--trainer.max_steps=3", out])
    config = yaml.safe_load((run / "causal" / "config.yaml").read_text())
    assert config["model"]["init_args"]["weights"] == "@run/ar.safetensors"
    assert config["data"]["init_args"]["shards"] == "@run/causal_trajectories"
    assert read_facts(run / "causal_trajectories")["past"] == "own"
    assert (run / "causal.safetensors").is_file()


def read_facts(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "index.json").read_text())["settings"])


def test_mistakes_are_answered_in_one_sentence(run: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("stream:\n  past_frame: 6\n")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((run / "student.safetensors").read_bytes()[:5000])
    cases: list[tuple[list[str], str]] = [
        (
            ["fit", *CONFIG, "--config", str(wrong)],
            r"wrong\.yaml, line 2: stream has no 'past_frame'; did you mean 'past_frames'",
        ),
        (["generate", "--run", str(tmp_path), "--prompt", PROMPT], "is not a run folder"),
        (["evaluate", "--run", str(run), "--weights", str(run / "none")], "adastate: no weights at .*none"),
        (["evaluate", "--run", str(run), "--weights", str(broken)], "broken.safetensors is not a whole safetensors"),
        (
            ["generate", "--run", str(run), "--prompt", PROMPT, "--seconds", "0"],
            "--seconds: 0 will not do; give a number above 0",
        ),
        (["fit", *CONFIG, "--config", "conf/stages/none.yaml"], "no config file conf/stages/none.yaml"),
    ]
    for argv, sentence in cases:
        with pytest.raises(SystemExit, match=sentence):
            main(argv)


def test_an_unwritable_run_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="cannot be written"):
        main(["fit", *CONFIG, "--config", "conf/stages/codec.yaml", f"--run.dir={tmp_path}/file"])


def test_compare_runs_systems_side_by_side(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    systems = ["as trained", "longlive", "rolling_forcing", "rolling_sink"]
    command = [
        "compare",
        "--run",
        str(run),
        "--rollouts",
        "2",
        "--shown",
        "1",
        "--horizon",
        "2",
        "--out",
        str(tmp_path),
    ]
    main([*command, "--systems", *systems])
    said = capsys.readouterr().out
    assert "not trained for their anchor: longlive, rolling_forcing, rolling_sink" in said
    found = json.loads((tmp_path / "compare.json").read_text())
    assert list(found["systems"]) == systems
    assert list(found["rows"]) == [f"{s}, {part}" for s in systems for part in ("1x", "last second of 2x")]
    page = (tmp_path / "compare.html").read_text()
    for name in systems:
        folder = tmp_path / name.replace(" ", "-")
        assert len(list(folder.glob("*.mp4"))) == 1 and (folder / "strip.png").is_file()
        assert f"{folder.name}/strip.png" in page and f"<th>{name}</th>" in page
    others = [tmp_path / "a/run", tmp_path / "b/run"]
    for other in others:
        shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints", "compare", "*.mp4"))
    several = [word for other in others for word in ("--run", str(other))]
    main(["compare", *several, *command[3:]])
    assert list(json.loads((tmp_path / "compare.json").read_text())["systems"]) == [
        "a/run, as trained", "b/run, as trained"
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        main(["compare", *several, "--checkpoint", "x.safetensors"])
    with pytest.raises(SystemExit, match="no system 'longlife'; did you mean 'longlive'"):
        main([*command, "--systems", "longlife"])
