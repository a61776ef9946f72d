"""A rehearsal runs the preview of a run, too, beside its iteration."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest

from adastate.config.command_line import read_command
from adastate.rehearsal import rehearsal_verdict
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.preview_trial import preview_settings
from adastate.rehearsal.rehearsal_verdict import PhaseCost, RehearsalVerdict
from adastate.rehearsal.rehearse import rehearse
from adastate.stream import attention_probe

FILES = ("base", "sizes/tiny", "stages/distill", "stages/distill_tiny")
rehearses = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")]


def rehearsed(*words: str) -> RehearsalVerdict:
    files = [word for name in FILES for word in ("--config", f"conf/{name}.yaml")]
    config, _ = read_command([*files, "--size.layers=3", "--training.batch=2", "--rollout.frames=3", *words])
    config.lightning["model"]["init_args"]["global_batch"] = 2
    return rehearse(config, "h100")


def rollouts(**told: Any) -> dict[str, Any]:
    return {
        "callbacks": [{"class_path": "callbacks.Progress"}, {"class_path": "callbacks.Rollouts", "init_args": told}]
    }


@pytest.mark.parametrize(
    ("told", "has"),
    [
        (rollouts(prompts=["a lake"], every=5), True),
        (rollouts(prompts=["a lake"]), True),
        (rollouts(prompts=["a lake"], every=0), False),
        ({"callbacks": [{"class_path": "callbacks.Progress"}]}, False),
        ({}, False),
    ],
)
def test_a_run_has_previews_where_its_callback_makes_them(told: dict[str, Any], has: bool) -> None:
    assert (preview_settings(told) is not None) == has


@pytest.mark.parametrize(("phase", "remedy"), [("preview", "preview.prompts"), ("student: scores", "adastate plan")])
def test_what_does_not_fit_is_told_with_its_own_remedy(phase: str, remedy: str) -> None:
    verdict = RehearsalVerdict("distill", ACCELERATORS["h100"], 1, 0, 1, [3])
    verdict.phases = [PhaseCost(phase, 2.0**40, 0, {}, {}, 0, {}, "product")]
    first: Any = SimpleNamespace(record=SimpleNamespace(memory=SimpleNamespace(largest={})))
    (error,) = rehearsal_verdict._memory(verdict, first)
    assert remedy in error


class TestRehearsed:
    pytestmark = rehearses

    def test_its_passes_and_its_decoding_are_phases_and_no_part_of_an_iteration(self) -> None:
        verdict = rehearsed()
        assert verdict.errors == []
        costs = {phase.name: phase for phase in verdict.phases}
        assert costs["preview"].flop["product"] > 0 and costs["preview: decode"].flop["product"] > 0
        iteration = sum(cost.seconds["h100"] for name, cost in costs.items() if not name.startswith("preview"))
        assert verdict.seconds("h100") == pytest.approx(iteration)

    def test_there_is_none_where_a_run_has_none(self) -> None:
        assert not [p.name for p in rehearsed("--preview.every=0").phases if p.name.startswith("preview")]

    def test_a_wait_in_every_layer_of_it_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        true = attention_probe.attention_shares

        def reading(*args: Any) -> Any:
            shares = true(*args)
            shares.tolist()
            return shares

        monkeypatch.setattr(attention_probe, "attention_shares", reading)
        (error,) = rehearsed().errors
        assert "in every layer" in error and "preview" in error
