"""What is drawn on from two and three layers is what all layers take: peaks within 3%, the FLOP exactly."""

from __future__ import annotations

import shutil

import pytest

from adastate.config.command_line import read_command
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.fit_trial import fit_trial
from adastate.rehearsal.pretended_machine import Cluster
from adastate.rehearsal.shallow import at_depth, depth_trials, depths, drawn_on, drawn_on_peak

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")]

FILES = ("base", "sizes/tiny", "stages/teacher", "recipes/teacher_latents")


def test_peaks_of_all_layers_are_those_that_were_drawn_on() -> None:
    command = [word for name in FILES for word in ("--config", f"conf/{name}.yaml")]
    config, _ = read_command([*command, "--size.layers=9", "--training.teacher.batch=64"])
    cluster, found = Cluster(ACCELERATORS["h100"]), depths(config.lightning)
    runs = depth_trials(found)
    few = [fit_trial(at_depth(config.lightning, run), config.variables, cluster) for run in runs]
    full = fit_trial(config.lightning, config.variables, cluster)
    assert not any(trial.failed for trial in (*few, full))
    for phase, peak in full.record.memory.peaks.items():
        memory = [trial.record.memory for trial in few]
        drawn = drawn_on_peak([(one.peaks[phase], one.moments[phase]) for one in memory], found, runs)
        assert drawn == pytest.approx(peak, rel=0.03), phase
        products = [float(trial.record.work[phase].flop["product"]) for trial in few]
        assert drawn_on(products, found, runs) == full.record.work[phase].flop["product"], phase
