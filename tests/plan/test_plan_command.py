"""`adastate plan` as a command: every stage of every size, its tables, and its mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.config.schema import ConfigError
from adastate.encoders import GroupCodec, ResidualCodec, TinyCodec
from adastate.main import main
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.plan.configured import PRETRAINED, UNCAST
from adastate.plan.cost import parameters
from adastate.plan.planning import memory_layout
from adastate.plan.runs import RunSetting
from tests.support.plan_rig import LAYERS, ROOT, WAN, arguments, configured, counted


@pytest.mark.parametrize("stage", ["distill", "teacher", "init"])
@pytest.mark.parametrize("size", sorted(LAYERS))
def test_every_stage_of_every_size_is_planned(size: str, stage: str) -> None:
    run = configured(size, f"stages/{stage}.yaml")
    found = memory_layout(run, RunSetting("0", 1, 1, run.checkpointing))
    assert found["peak"] > 4 * sum(n.parameters for n in run.nets) and all(w.flop > 0 for w in run.works)


@pytest.mark.parametrize(
    ("size", "files", "codec", "clip", "batch"),
    [
        ("tiny", ["stages/codec.yaml"], TinyCodec(None), (6, 32, 32), 24),
        ("flight", ["stages/codec.yaml", "stages/codec_flight.yaml"], ResidualCodec(None), (3, 64, 64), 16),
    ],
)
def test_the_codec_is_planned(
    size: str, files: list[str], codec: GroupCodec, clip: tuple[int, int, int], batch: int, capsys: Any
) -> None:
    main(["plan", *arguments(size, *files), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {"codec": sum(p.numel() for p in codec.parameters())}
    video = torch.zeros(1, clip[0], 3, *clip[1:])
    weights, kept = {p.data_ptr() for p in codec.parameters()}, dict[int, int]()

    def forward() -> None:
        codec.reconstruct(codec.raw(video), clip[0] // codec.group)

    assert found["flop"]["codec step"] == pytest.approx(3 * counted(forward) * batch, rel=0.01)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.update({x.data_ptr(): x.numel()}) or x, lambda x: x):
        forward()
    numbers = sum(n for at, n in kept.items() if at not in weights)
    assert found["memory"]["0"]["phases"]["codec: backward"]["parts"]["activations"] == 2 * numbers * batch, "bfloat16"


def test_the_command_builds_no_network(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(DiT, "__init__", lambda *_: pytest.fail("a network was built"))
    files = arguments("1.3B", "systems/adastate.yaml", "stages/distill.yaml")
    main(["plan", *files, "--gpus", "8", "--nodes=2", "--zero", "2", "--data.batch=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["student"] == parameters(WAN)
    assert (found["ranks"], found["micro batch"], found["global batch"], found["accumulation"]) == (16, 1, 64, 4)
    assert found["latent tokens a sample"] == 21 * 1560
    seconds = found["flop"]["iteration"] / (316e12 * 16)
    assert found["seconds an iteration"] == pytest.approx(seconds) and found["chosen"] == "2"
    decoder = PRETRAINED["WanVAE"] - UNCAST["WanVAE"]
    assert found["memory"]["2"]["encoders"] == {"VAE": 4 * UNCAST["WanVAE"] + 2 * decoder}, "decodes in bfloat16"
    assert found["memory"]["2"]["processor"] == {"text encoder": 2 * PRETRAINED["UMT5"]}


def test_the_tables_say_what_fits(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    main(["plan", *arguments("1.3B", "stages/distill.yaml"), "--gpus=8", "--training.batch=16"])
    said = capsys.readouterr().out
    assert "planned with --data.batch=8" in said, "64 is no multiple of 8 x 16"
    assert f"{parameters(WAN):,}" in said and "exit passes" in said and "TFLOP/s" in said
    assert "does not fit 80 GiB" in said and "it would with" in said
    main(["plan", *arguments("tiny", "stages/distill.yaml"), "--size.layers=2", "--memory=4"])
    said = capsys.readouterr().out
    assert "fits 4 GiB" in said and f"{parameters(Size(layers=2)):,}" in said


def test_the_stage_is_that_of_the_strategy(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "zero.yaml").write_text(
        "trainer:\n  strategy:\n    class_path: adastate.distributed.ZeroStrategy\n"
        "    init_args: {stage: 3, shard_frozen: true}\n"
    )
    files = arguments("1.3B", "stages/distill.yaml")
    main(["plan", *files, "--config", str(tmp_path / "zero.yaml"), "--gpus=8", "--data.batch=1", "--json"])
    assert json.loads(capsys.readouterr().out)["chosen"] == "3_teacher"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpus=7"], "global_batch 64 is not a multiple of 7 processes"),
        (["--gpus=0"], "--gpus: 0 is too small; give at least 1"),
        (["--memory=-1"], "--memory: -1 will not do; give a number above 0"),
        (["--data.bach=2"], "has no 'bach'; did you mean 'batch'"),
        (["--nothing=2"], "there is no option '--nothing'"),
        (["more"], "there is no option 'more': values follow their options"),
        (["--stream.chunk_frames=4"], "frames are not a multiple of the chunk of 4"),
        (["--latent_size=[5, 8]"], "a grid of 5 x 8 latents is not divisible"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit) as error:
        main(["plan", *arguments("tiny", "stages/distill.yaml"), *words])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_configs_without_a_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contain no stage: add one of conf/stages/"):
        configured("tiny")


def test_the_commands_of_the_wan_page_fit_where_they_say(capsys: Any) -> None:
    page = (ROOT / "docs/guide/wan.md").read_text(encoding="utf-8")
    given = dict(re.findall(r'^(WAN|PROMPTS)="(.*)"$', page, re.M))
    stages = [line for line in re.findall(r"^adastate fit (.*)$", page, re.M) if line.startswith("$WAN")]
    assert len(stages) == 2
    for line in stages:
        words = [w for w in line.replace("$WAN", given["WAN"]).split() if not re.match(r"--(data|preview)\.", w)]
        main(["plan", *words, "--gpus=8", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["chosen"] == "2" and found["changes to fit"]["2"] == [], "80 GiB"
        assert found["changes to fit"]["0"] != [] or found["stage"] == "init", "the page says that DDP does not"


def test_trajectories_are_planned(capsys: Any) -> None:
    words = ["plan", *arguments("1.3B"), "--trajectories=10", "--steps=4", "--gpus=2"]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == parameters(WAN) and found["disk"] == 10 * 5 * 21 * 16 * 60 * 104 * 2
    assert 0 < found["host"] - 2 * 2 * 5_680_910_336 < 2 * 4 * parameters(WAN), "UMT5 and the VAE, and no teacher"
    assert found["rank"] > 2 * parameters(WAN)
    assert found["seconds"] == pytest.approx(found["flop a clip"] * 10 / (316e12 * 2))
    main([*words, "--memory=2"])
    assert "which does not fit 2 GiB" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match=r"add one of conf/sizes/"):
        main(["plan", "--config", "conf/base.yaml", "--trajectories=10"])
