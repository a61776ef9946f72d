"""Phases of `make gpu-check`: the machine, the tests that need a GPU, and the predictions for a training step."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gpu_report import PhaseReport, short_reason

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("torch", "triton", "lightning", "deepspeed", "diffusers", "transformers", "omegaconf", "jsonargparse", "pytest"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "flash_attn_interface", "torchvision", "numpy", "jaxtyping"),
)


def environment(report: PhaseReport) -> None:
    """Python, packages, driver, and the device's properties."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "present" if _importable(name) else "none"
    report.fact(python=platform.python_version(), machine=platform.platform(), packages=versions)
    report.fact(cuda=torch.version.cuda or "none", threads=torch.get_num_threads())
    if report.device != "cuda":
        report.skip("device", "there is no GPU here, or torch does not see it: this is a rehearsal on the CPU")
        return
    about = torch.cuda.get_device_properties(0)
    report.fact(
        name=about.name,
        capability=list(torch.cuda.get_device_capability()),
        memory_gib=about.total_memory / 2**30,
        processors=about.multi_processor_count,
        devices=torch.cuda.device_count(),
        cudnn=torch.backends.cudnn.version(),
        flash_hooks=getattr(torch.nn.attention, "list_flash_attention_impls", lambda: [])(),
    )
    query = "name,driver_version,pstate,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used"
    try:
        asked = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
        report.fact(driver=[dict(zip(query.split(","), line.split(", "), strict=False)) for line in told.splitlines()])
    except (OSError, subprocess.SubprocessError) as error:
        report.skip("nvidia-smi", error)


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    except (ImportError, ValueError):
        return False


def pytest_gpu(report: PhaseReport, seconds: float) -> None:
    """`pytest -m gpu`, in its own process."""
    if not _importable("pytest"):
        report.skip("pytest -m gpu", "pytest is not installed")
        return
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in _text(p))
    report.fact(files=files)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "--no-header",
        *files,
    ]
    if _importable("xdist"):
        command += ["-n", "0"]
    if report.tiny:
        command += ["--collect-only"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        report.wrong(f"pytest -m gpu was not finished after {seconds:.0f} s")
        report.fact(tail=str(error.stdout or "")[-3000:])
        return
    tail = f"{ran.stdout}\n{ran.stderr}".strip()[-3000:]
    report.fact(tail=tail, code=ran.returncode, counts=counts(ran.stdout))
    if ran.returncode == 5 or (ran.returncode == 4 and "No module named" in tail):
        report.skip("pytest -m gpu", tail.splitlines()[-1] if tail else "no tests")
    elif ran.returncode:
        missing = re.findall(r"No module named '(\w+)'", tail)
        if missing:
            report.skip("pytest -m gpu", f"the tests need {', '.join(sorted(set(missing)))}: pip install -e '.[dev]'")
        else:
            report.wrong(f"pytest -m gpu exited with {ran.returncode}: {short_reason(tail[-400:], 400)}")


def counts(said: str) -> dict[str, int]:
    """Counts from the last line of pytest's output."""
    return {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", said)}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def told_beforehand(report: PhaseReport, seconds: float) -> None:
    """What `adastate plan` and `adastate rehearse` predict for the iteration that the phase `training` measures."""
    size = ["--config", "conf/sizes/tiny.yaml"] if report.tiny else ["--config", "conf/sizes/wan_1_3b.yaml"]
    stage = ["--config", "conf/stages/distill.yaml"]
    stage += ["--config", "conf/stages/distill_tiny.yaml"] if report.tiny else []
    once = ["--model.global_batch=1", "--training.batch=1", "--model.init_args.schedule.student_every=1"]
    for command in ("plan", "rehearse"):
        asked = [sys.executable, "-m", "adastate", command, "--config", "conf/base.yaml", *size, *stage, "--gpus=1"]
        try:
            ran = subprocess.run([*asked, *once, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
            told = json.loads(ran.stdout[ran.stdout.index("{") :])
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            report.skip(f"adastate {command}", error)
            continue
        if command == "plan":
            memory = next((row for row in told.get("stages", {}).values()), {})
            report.row(command=command, peak=_first(told, "peak") or memory.get("peak"), told=told)
        else:
            report.row(command=command, peak=told.get("peak"), seconds=told.get("seconds"), told=told)


def _first(tree: object, key: str) -> object:
    """The first value of this key, at any depth."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        return next((found for part in tree if (found := _first(part, key)) is not None), None)
    return None
