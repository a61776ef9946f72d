"""A real SLURM whose time limit comes in the middle of training: saved, requeued, resumed, finished."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.launch.test_slurm import ROOT, TINY, arguments, cluster, differences, events, state, straight, until  # noqa: F401

pytestmark = pytest.mark.minutes

ITERATIONS = 500
"""More than are done until SLURM looks at its clock, which is every 30 s."""


@pytest.mark.parametrize("asked", ["SIGUSR1", "SIGTERM"])
def test_a_job_whose_time_is_over_goes_on_after_a_requeue(
    cluster: dict[str, str],  # noqa: F811
    tmp_path: Path,
    asked: str,
) -> None:
    """SIGUSR1 comes before the limit; without it, SIGTERM at the limit, with SLURM's grace time to save in."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = tmp_path / "run"

    def told() -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted((run / "slurm").glob("*.log")))

    def limit(minutes: int) -> None:
        subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], env=cluster, check=True)

    env = cluster | {"RUN": str(run), "GPUS": "0", "TASKS": "2", "TIME": "60"}
    if asked == "SIGTERM":
        env["SBATCH"] = "--signal=CONT@1"
    command = ["conf/slurm.sh", "submit", *arguments(run), f"--run.iterations={ITERATIONS}"]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    job = said.split()[2].rstrip(";")
    first = run / "slurm" / f"{job}-0.log"
    until("in training", lambda: first.is_file() and "it/s" in first.read_text(), 200, told)
    limit(2 if asked == "SIGUSR1" else 1)  # minutes since its start; so the limit is sure to come while it trains
    until("requeued", lambda: any(e["event"] == "requeue" for e in events(run)), 180, told)
    until("in the queue", lambda: _shown(job, cluster)["JobState"] == "PENDING", 60, told)
    limit(60)
    until("ended", lambda: any(e.get("iteration") == ITERATIONS for e in events(run)), 300, told)
    kinds = [e["event"] for e in events(run)]
    assert kinds == ["saved", "preempted", "requeue", "resumed", "saved"]
    assert events(run)[1]["signal"] == asked and 0 < events(run)[0]["iteration"] < ITERATIONS


def _shown(job: str, env: dict[str, str]) -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], env=env, capture_output=True, text=True, check=True)
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
