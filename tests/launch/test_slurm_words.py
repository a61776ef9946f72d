"""What conf/slurm.sh is told wrongly is answered in one sentence, before anything is planned or submitted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tiny import ROOT


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"GPUS": "two"}, "GPUS=two is no whole number: give one, GPUS=2 say"),
        ({"TASKS": "1.5"}, "TASKS=1.5 is no whole number"),
        ({"NODES": "0"}, "NODES=0: give at least 1"),
        ({"TIME": "24h"}, "TIME=24h: write hours, minutes and seconds, TIME=24:00:00"),
        ({"TIME": "2-00:00:00"}, "SLURM is not installed here (there is no sbatch): call it on a login node"),
        ({"NODES": "", "TIME": ""}, "SLURM is not installed here"),
    ],
)
def test_mistakes(tmp_path: Path, told: dict[str, str], sentence: str) -> None:
    for name in ("bash", "env", "mkdir"):
        where = next(p for p in os.environ["PATH"].split(os.pathsep) if (Path(p) / name).exists())
        (tmp_path / name).symlink_to(Path(where) / name)
    env = {"PATH": str(tmp_path), "RUN": str(tmp_path / "run"), **told}
    done = subprocess.run(["bash", "conf/slurm.sh", "submit", "fit"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("conf/slurm.sh: ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr and not (tmp_path / "run").exists()
