"""`make gpu-check` on a machine without a GPU: every phase runs or says why not, and leaves what it found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, gpu_machine
from benchmarks.gpu_report import PhaseReport

ROOT = Path(__file__).parents[1]


def found(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return made


def test_what_a_phase_has_found_is_in_its_file_at_once(tmp_path: Path) -> None:
    report = PhaseReport(tmp_path / "kernels.json", "kernels", "cpu", True)
    report.row(what="a", off=float("nan"))
    report.skip("b", ValueError("no\nsuch kernel"))
    report.wrong("c is far off")
    told = found(tmp_path / "kernels.json")
    assert (told["status"], told["rows"], told["wrong"]) == ("running", [{"what": "a", "off": "nan"}], ["c is far off"])
    assert told["skipped"] == [{"what": "b", "reason": "ValueError: no such kernel"}]
    report.end("done", 1.23)
    assert found(tmp_path / "kernels.json")["status"] == "done"


def test_a_phase_that_is_killed_leaves_its_rows_and_says_so(tmp_path: Path) -> None:
    PhaseReport(tmp_path / "streams.json", "streams", "cpu", True).row(what="a stream", pictures_s=37.0)
    (tmp_path / "streams.log").write_text("starting\nout of memory\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    began = time.monotonic()
    gpu_check.end(process, 0.2)
    assert process.returncode == -9 and time.monotonic() - began < 30
    told = gpu_check.close(tmp_path, "streams")
    assert told == found(tmp_path / "streams.json")
    assert told["status"] == "cut short" and told["reason"] == "out of memory" and told["rows"][0]["pictures_s"] == 37.0
    assert gpu_check.close(tmp_path, "training")["status"] == "cut short", "and one that never began"


def test_all_phases_fit_into_five_minutes_of_a_gpu() -> None:
    assert sum(s for name, s in gpu_check.PHASES.items() if name not in ("told", "fast_paths")) <= 300
    script = (ROOT / "benchmarks/gpu.sh").read_text(encoding="utf-8")
    assert "SECONDS_ALL:-480" in script, "eight minutes"
    subprocess.run(["bash", "-n", "benchmarks/gpu.sh"], cwd=ROOT, check=True)


def test_what_was_told_stands_beside_what_was_measured(tmp_path: Path) -> None:
    for name, row in {
        "training": {"what": "iteration", "peak": 50.0, "seconds": 9.0},
        "told": {"command": "plan", "peak": 55.0},
    }.items():
        report = PhaseReport(tmp_path / f"{name}.json", name, "cuda", False)
        report.row(**row)
        report.end("done", 1.0)
    assert gpu_check.summarise(tmp_path)["told_over_measured"] == {"plan": 1.1}


def test_counts_of_pytest_are_read() -> None:
    said = "..s\n3 passed, 1 skipped, 20 deselected in 2.10s\n"
    assert gpu_machine.counts(said) == {"passed": 3, "skipped": 1, "deselected": 20}


@pytest.mark.slow
def test_every_phase_runs_without_a_gpu(tmp_path: Path) -> None:
    phases = ["environment", "kernels", "streams", "training", "fast_paths"]
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--out", str(tmp_path), "--budget", "3000"]
    ran = subprocess.run([*command, "--only", *phases], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = {name: found(tmp_path / f"{name}.json") for name in phases}
    assert {name: (t["status"], t["wrong"]) for name, t in told.items()} == {name: ("done", []) for name in phases}
    assert all(t["rows"] for name, t in told.items() if name != "environment")
    assert all(skipped["reason"] for t in told.values() for skipped in t["skipped"])
    measured = {row["what"] for row in told["training"]["rows"]}
    assert measured == {"warm-up", "iteration", "deterministic"}
    assert set(found(tmp_path / "summary.json")["status"].values()) == {"done"}
