"""The gates run, with networks that know nothing, and ask for what they say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import save_file

from adastate.encoders import ResidualCodec
from adastate.evaluation.flight_task import COMMANDS, asked_flights, steered
from adastate.weights import save_weights
from benchmarks import flight_gates, flight_student_gate
from datamodules.worlds.flight.voxel_render import render_flights


def test_every_biome_time_and_weather_is_asked_for_with_every_command() -> None:
    task = asked_flights(5, 36)
    for fact, count in (("biome", 6), ("time", 4), ("weather", 3), ("landmark", 3)):
        seen = Counter((getattr(v, fact), c) for v, c in zip(task.flights, task.commands, strict=True))
        assert len(seen) == count * len(COMMANDS), fact


@pytest.mark.slow
def test_renders_do_as_they_are_asked() -> None:
    task = asked_flights(5, 12)
    told = steered(render_flights(task.flights, list(task.poses)), task)
    assert told["turns asked for"] == told["tilt sign right"] == 8
    assert told["turn sign right"] >= 6 and told["tilt, median error (deg)"] < 1
    other = steered(render_flights(task.flights, list(task.poses)).flip(-1), task)
    assert other["turn sign right"] == other["tilt sign right"] == 0


@pytest.mark.slow
def test_all_gates_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_student_gate, "BLIND", 2)
    codec = ResidualCodec(None)
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    save_weights(flight_gates.teacher(None, codec, 2.0, 3.0).net, tmp_path / "teacher.safetensors")
    common = ["--codec", str(tmp_path / "codec.safetensors"), "-n", "3", "--steps", "1"]
    flight_gates.main(["codec", *common, "--out", str(tmp_path / "one")])
    weights = ["--teacher", str(tmp_path / "teacher.safetensors")]
    flight_gates.main(["teacher", *common, *weights, "--out", str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert {"real, plain", "codec, plain", "real, lens", "codec, lens"} <= set(one)
    assert one["codec, plain"]["PSNR, worst tenth"] < 20 and one["real, plain"]["balloons found"] > 0
    assert two["teacher"]["biome"] < 1 and two["real"]["match across latents"] > two["teacher"]["match across latents"]
    assert {p.name for p in tmp_path.glob("*.png")} == {"one.png", "two.png", "two_blind.png"}
    more = ["--student", str(tmp_path / "teacher.safetensors"), "--horizon", "2", "--out", str(tmp_path / "three")]
    flight_gates.main(["student", *common, *weights, *more])
    three = json.loads((tmp_path / "three.json").read_text())
    assert {"student, 1x", "student, end of 2x", "teacher, 1x", "teacher, end", "renders, 1x", "renders, end"} <= set(
        three
    )
    assert three["student, 1x"]["frames a core-second"] > 0.5 and "at least 90%" in three["share, 1x"]
    assert (tmp_path / "three_blind.png").is_file()
