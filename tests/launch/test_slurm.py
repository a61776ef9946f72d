"""A real SLURM: submit, preempt at a random moment, requeue, resume, finish, with the bits of a run left in peace."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.launch import process_group
from adastate.runtime import atomic_folder
from callbacks.checkpointing.checkpoints import LOG
from callbacks.checkpointing.resume import STATE

ROOT = Path(__file__).parents[2]
LAB = ROOT / ".ci" / "slurm-lab"
ITERATIONS = 60

TINY = """\
run: {stage: distill, save_every: 1000}
size: {width: 16, layers: 1, heads: 2, ffn: 32, channels: 2, text_width: 8, text_tokens: 2, time_embedding_dim: 8}
model:
  class_path: adastate.training.distill.Distill
  init_args:
    teacher:
      class_path: adastate.training.teacher.Teacher
      init_args: {size: "${size}", latent_size: [4, 6], average: null}
    student:
      class_path: adastate.training.student.Student
      init_args:
        size: ${size}
        codec: {class_path: adastate.encoders.TinyCodec, init_args: {weights: null, width: 4, channels: 2, group: 2}}
        text: {class_path: adastate.encoders.TinyText, init_args: {tokens: 2, width: 8}}
        stream: {chunk_frames: 3, past_frames: 3, state_frames: 1}
        latent_size: [4, 6]
        rollout_frames: 6
    critic:
      class_path: adastate.training.critic.Critic
      init_args: {size: "${size}"}
    iterations: ${run.iterations}
    global_batch: 4
    objective: {class_path: adastate.training.objectives.DMD}
    schedule: {student_every: 2}
    optimizer: {student_lr: 1.0e-3, critic_lr: 1.0e-3}
data:
  class_path: datamodules.prompts.PromptData
  init_args: {batch: 2}
trainer:
  max_steps: -1
  logger: false
  callbacks:
  - class_path: callbacks.Preempt
  - class_path: callbacks.Heartbeat
  - class_path: callbacks.Progress
    init_args: {every_s: 0.2}
  - class_path: callbacks.Checkpoints
    init_args: {dirpath: "${run.dir}/${run.stage}/checkpoints", every: "${run.save_every}"}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of commands that reach a one-node SLURM on this machine, started if there is none."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"no SLURM on this machine ({', '.join(missing)} missing): `make slurm-lab` sets one up")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    # short, because of the socket in it; and of this test alone
    folder = Path("/tmp") / f"slurm-test-{os.getpid()}"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH"))}
    env |= {"SLURM_LAB": str(folder), "SLURM_LAB_PORT": port, "SLURM_CONF": str(folder / "slurm.conf")}
    env |= {"ADASTATE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        begun = subprocess.run([LAB, "start"], env=env, capture_output=True, text=True, timeout=60)
        if begun.returncode:
            pytest.skip(f"SLURM does not start here: {(begun.stderr or begun.stdout).strip()[-300:]}")
        yield env
    finally:
        subprocess.run([LAB, "stop"], env=env, capture_output=True, timeout=60)


def arguments(run: Path) -> list[str]:
    return ["fit", "--config", "conf/base.yaml", "--config", f"{run.parent}/tiny.yaml", f"--run.dir={run}"]


def straight(run: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The same run on two processes without SLURM."""
    extra = ["--trainer.devices=2", f"--trainer.strategy={process_group.STRATEGY}"]
    command = [sys.executable, "-m", "adastate.main", *arguments(run), f"--run.iterations={ITERATIONS}", *extra]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until(what: str, ready: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not {what} within {seconds:.0f} s\n{told()}"
        time.sleep(0.1)


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "distill" / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def state(run: Path) -> dict[str, Any]:
    newest = atomic_folder.folders(run / "distill" / "checkpoints")[-1]
    atomic_folder.verify(newest)
    return dict(torch.load(newest / STATE, weights_only=True))


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differences(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]


@pytest.mark.slow
def test_a_preempted_job_goes_back_into_the_queue_and_ends_with_the_bits_of_an_undisturbed_run(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run, peace = tmp_path / "run", tmp_path / "peace"
    logs = run / "slurm"

    def told() -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(logs.glob("*.log")))

    env = cluster | {"RUN": str(run), "GPUS": "0", "TASKS": "2"}
    command = ["conf/slurm.sh", "submit", *arguments(run), f"--run.iterations={ITERATIONS}"]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    job = said.split()[2].rstrip(";")
    assert f"squeue -j {job}" in said
    first = logs / f"{job}-0.log"
    until("in training", lambda: first.is_file() and "it/s" in first.read_text(), 150, told)
    time.sleep(random.uniform(0, 2))
    subprocess.run(["scancel", "--signal=USR1", job], env=cluster, check=True)
    until("requeued", lambda: any(e["event"] == "requeue" for e in events(run)), 60, told)
    other = straight(peace, cluster)  # while the job waits in the queue
    try:
        until("ended", lambda: any(e.get("iteration") == ITERATIONS for e in events(run)), 180, told)
        assert other.wait(180) == 0
    finally:
        other.kill()
    kinds = [(e["event"], e.get("said", e.get("iteration"))) for e in events(run)]
    stopped = kinds[0][1]
    assert kinds == [
        ("saved", stopped),
        ("preempted", stopped),
        ("requeue", f"job {job} requeued"),
        ("resumed", stopped),
        ("saved", ITERATIONS),
    ]
    assert 0 < stopped < ITERATIONS
    assert {p.name for p in logs.iterdir()} == {f"{job}.log", f"{job}-0.log", f"{job}-1.log"}
    of_the_job = (logs / f"{job}.log").read_text()
    assert f"job {job}, start 2: 1 x 2 tasks" in of_the_job and f"tail -F {logs}/{job}.log" in of_the_job
    found, expected = state(run), state(peace)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "PromptData")
    assert [d for part in parts for d in differences(found[part], expected[part], part)] == []


JOB = {
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_CPUS_PER_TASK": "4",
    process_group.LOGS: "runs/a/slurm",
}


def test_training_stages_and_trajectories_have_all_tasks_and_anything_else_has_one() -> None:
    fit = process_group.srun(["adastate"], ["fit", "--config", "conf/base.yaml"], JOB, "runs/a/slurm")
    assert fit[0] == "srun" and "--output=runs/a/slurm/%j-%t.log" in fit and "--cpus-per-task=4" in fit
    assert {"--trainer.num_nodes=2", "--trainer.devices=8", "--ckpt_path=auto"} < set(fit)
    assert f"--trainer.strategy={process_group.STRATEGY}" in fit and "--ntasks=1" not in fit
    other = process_group.srun(["adastate"], ["evaluate", "--run", "runs/a"], JOB, "runs/a/slurm")
    assert "--ntasks=1" in other and "--nodes=1" in other and other[-1] == "adastate"
    paths = process_group.srun(["adastate"], ["trajectories", "--clips", "8"], JOB, "runs/a/slurm")
    assert not [word for word in paths if "ntasks" in word or "nodes" in word] and paths[-1] == "adastate"


def test_a_chosen_strategy_and_a_chosen_checkpoint_are_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("trainer: {strategy: {class_path: x.Y}}\n")
    for choice in (["--config", str(config)], [f"--config={config}"], ["--trainer.strategy=fsdp"]):
        words = process_group.srun([], ["fit", *choice, "--ckpt_path=b"], JOB, "logs")
        assert not [w for w in words if w.startswith((f"--trainer.strategy={process_group.STRATEGY}", "--ckpt_path"))]


def test_one_node_needs_no_name_server() -> None:
    assert process_group.process_environment({**JOB, "SLURM_NNODES": "1"})["MASTER_ADDR"] == "127.0.0.1"
    assert "MASTER_ADDR" not in process_group.process_environment(JOB)
    assert process_group.process_environment({"A": "b"}) == {"A": "b"}


STAGE = """\
import subprocess, sys
from adastate.launch import process_group
begin = subprocess.Popen
stage = "import time; print('up', flush=True); time.sleep(60)"
subprocess.Popen = lambda *_, **__: begin([sys.executable, "-c", stage])
print(process_group.run_command(["fit"]), process_group.run_command(["evaluate"]))
"""


def test_a_signal_to_the_pipeline_reaches_its_stage_and_no_other_begins() -> None:
    process = subprocess.Popen([sys.executable, "-c", STAGE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0].split() == ["-15", "75"]


@pytest.mark.parametrize(
    ("argv", "code", "told"), [("fit", 75, 75), ("fit", 143, 1), ("trajectories", 143, 1), ("shards", 143, 143)]
)
def test_a_task_that_failed_does_not_pass_for_one_that_was_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: str, code: int, told: int
) -> None:
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\nexit {code}\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert process_group.run_command([argv]) == told


def test_the_command_that_starts_the_job_passes_on_what_make_was_given(tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\necho 7\n')
    sbatch.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "RUN": str(tmp_path / "r")}
    env |= {
        "NODES": "2",
        "GPUS": "8",
        "TIME": "1:00",
        "PARTITION": "p",
        "ACCOUNT": "a",
        "SBATCH": "--mem=0 --exclusive",
    }
    said = subprocess.check_output(["conf/slurm.sh", "submit", "train", "--run", "a b"], cwd=ROOT, env=env, text=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    wanted = "--nodes=2 --ntasks-per-node=8 --gres=gpu:8 --time=1:00 --partition=p --account=a --mem=0 --exclusive"
    assert set(wanted.split()) < set(asked)
    assert asked[-4:] == ["conf/slurm.sh", "train", "--run", "a b"] and "submitted job 7" in said
