"""What a plan asks of SLURM, and that conf/slurm.sh asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adastate.main import main
from adastate.plan.job import GIB, job_needs
from tests.support.plan_rig import ROOT, arguments


def found(seconds: float, host: float = 0, **parts: int) -> dict[str, Any]:
    student = {"weights": 4, "optimiser": 8, "ema": 4, **parts}
    teacher = {"weights": 10**15, "optimiser": 0, "ema": 0}
    networks = {"student": student, "teacher": teacher}
    return {"seconds an iteration": seconds, "host": host, "memory": {"0": {"networks": networks}}}


def test_a_short_step_changes_nothing_and_a_long_one_is_waited_for() -> None:
    assert job_needs(found(0.1), 1) == job_needs(found(1.0), 1)
    short, long = job_needs(found(1.0), 1), job_needs(found(600.0), 1)
    assert (short.lead_s, short.silence_s) == (120, 1200)
    assert long.lead_s > 600 and long.silence_s > 2 * 600


def test_what_is_saved_takes_time_and_frozen_networks_are_not_saved() -> None:
    small, large = job_needs(found(10.0), 1), job_needs(found(10.0, optimiser=3 * 10**11), 1)
    assert large.lead_s - small.lead_s == pytest.approx(300, abs=60)


def test_every_process_of_a_machine_needs_memory() -> None:
    one, eight = job_needs(found(1.0, 100 * GIB), 1), job_needs(found(1.0, 100 * GIB), 8)
    assert 100 < one.memory_gib < eight.memory_gib


@pytest.mark.slow
def test_the_submission_asks_for_what_the_plan_says(tmp_path: Path, capsys: Any) -> None:
    words = [*arguments("1.3B", "stages/distill.yaml"), "--ckpt_path=auto"]
    main(["plan", *words, "--gpus", "8", "--nodes", "2", "--job"])
    options, override = capsys.readouterr().out.splitlines()
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\necho 7\n')
    sbatch.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "RUN": str(tmp_path / "r")}
    env |= {"NODES": "2", "GPUS": "8", "ADASTATE_PYTHON": sys.executable, "SBATCH": "--mem=0"}
    command = ["conf/slurm.sh", "submit", "fit", *words]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [*options.split(), "--mem=0"] == [a for a in asked if a.startswith(("--signal", "--mem"))]
    assert asked[asked.index("conf/slurm.sh") :] == ["conf/slurm.sh", "fit", override, *words]
    # what cannot be planned is submitted all the same, and said
    said = subprocess.run(
        [*command, "--model.nothing=1"], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    assert "'nothing'" in said.stderr and "not planned" in said.stderr
    assert "--signal" not in (tmp_path / "asked").read_text()
