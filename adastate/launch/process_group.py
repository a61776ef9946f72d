"""Starts a command of adastate as a process of its own; inside a SLURM job of conf/slurm.sh, as one for each task.

The job runs `python -m adastate.launch.slurm_job COMMAND ...` once, on its first node, and this starts everything else
through srun: a training stage and trajectories on all tasks, anything else on one. While that one works the others do
not exist, so nobody waits in a collective for shards, rollouts or an evaluation.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise

from adastate.config.conf_files import conf_path
from adastate.runtime import plain_yaml, signals

LOGS = "ADASTATE_SLURM_LOGS"
"""Variable of the environment with the folder of the job's logs, set by conf/slurm.sh: use srun."""

EVERYWHERE = ("fit", "trajectories")
"""Commands that run on all tasks of a job."""

STRATEGY = "ddp_find_unused_parameters_true"
"""For several processes, unless the configuration names another: Distill trains one of two networks at a time."""


def run_command(argv: list[str]) -> int:
    """Runs `adastate ARGV` to its end and returns its exit code. Signals that ask to stop are passed on to it."""
    if signals.heard():
        return signals.AGAIN
    logs = os.environ.get(LOGS)
    command = [sys.executable, "-m", "adastate.main", *argv]
    words = srun(command, argv, os.environ, logs) if logs else command
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int) -> None:
        for child in children:
            child.send_signal(number)

    before = signals.listen(tell=pass_on)
    try:
        children.append(subprocess.Popen(words, env=process_environment(os.environ)))
        if signals.heard():  # while the process was being started, when nobody could pass it on
            children[0].send_signal(signal.SIGTERM)
        code = children[0].wait()
    finally:
        signals.set_handlers(before)
    # when a task fails srun ends the others with SIGTERM, and tells of them: nobody has asked the run to stop
    return 1 if logs and argv[0] in EVERYWHERE and code == 128 + signal.SIGTERM else code


def srun(command: list[str], argv: list[str], env: Mapping[str, str], logs: str) -> list[str]:
    """The words that start `command`, which is `adastate ARGV`, within the job that `env` tells of.

    Each task writes into `<logs>/<job>-<rank>.log`. The first task that fails ends the others.
    """
    words = ["srun", "--kill-on-bad-exit=1", "--open-mode=append", f"--output={logs}/%j-%t.log"]
    if "SLURM_CPUS_PER_TASK" in env:
        words.append(f"--cpus-per-task={env['SLURM_CPUS_PER_TASK']}")  # srun does not inherit it
    if argv[0] == "trajectories":
        return [*words, *command]  # every task writes its share
    if argv[0] not in EVERYWHERE:
        return [*words, "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", *command]
    nodes, tasks = int(env["SLURM_NNODES"]), int(env["SLURM_NTASKS_PER_NODE"])
    extra = [f"--trainer.num_nodes={nodes}", f"--trainer.devices={tasks}"]
    if nodes * tasks > 1 and not names_strategy(argv):
        extra.append(f"--trainer.strategy={STRATEGY}")
    again = int(env.get("SLURM_RESTART_COUNT", 0)) > 0  # it has begun anew already
    if again:
        command = [word for word in command if word != "--overwrite"]
    if not any(word.startswith("--ckpt_path") for word in argv) and (again or "--overwrite" not in argv):
        extra.append("--ckpt_path=auto")
    return [*words, *command, *extra]


def processes(argv: list[str], world: int) -> None:
    """Runs `adastate ARGV` as `world` processes of this machine, which know their ranks as torchrun would tell them.

    The first that fails ends the others.

    Raises:
        SystemExit: one has failed, or a signal has ended them.
    """
    command = [sys.executable, "-m", "adastate.main", *argv]
    children: list[subprocess.Popen[bytes]] = []

    def stop(number: int = signal.SIGTERM) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = signals.listen(tell=stop)
    failed: list[tuple[int, int]] = []  # (process, exit code), the first first
    try:
        for r in range(world):
            told = {**os.environ, "RANK": str(r), "WORLD_SIZE": str(world), "LOCAL_RANK": str(r)}
            children.append(subprocess.Popen(command, env=told))
        if signals.heard():  # while they were being started, when not all could be told
            stop()
        while (codes := [child.poll() for child in children]).count(None):
            if any(codes):
                failed = failed or [(r, code) for r, code in enumerate(codes) if code]
                stop()
            with suppress(subprocess.TimeoutExpired):
                children[codes.index(None)].wait(0.2)
    finally:
        stop()  # where this process itself is being ended
        signals.set_handlers(before)
    if signals.heard():
        raise SystemExit(signals.AGAIN)
    for rank, code in failed or [(r, code) for r, code in enumerate(codes) if code]:
        raise SystemExit(
            f"adastate {argv[0]}: process {rank} of {world} ended with {code}; completed work is kept, run the same "
            "command again to resume"
        )


def process_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Of the processes: on a single node they meet at an address that needs no name server."""
    here = {"MASTER_ADDR": "127.0.0.1"} if env.get(LOGS) and env.get("SLURM_NNODES") == "1" else {}
    return {**env, "PYTHONUNBUFFERED": "1", **here} if env.get(LOGS) else dict(env)


def names_strategy(argv: list[str]) -> bool:
    """Whether a command line, or a config file in it, chooses the strategy."""
    files = [b for a, b in pairwise(argv) if a in ("--config", "-c")]
    files += [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    configs = [plain_yaml.load_yaml(f.read_text(encoding="utf-8")) or {} for f in map(conf_path, files) if f.is_file()]
    return any(word.startswith("--trainer.strategy") for word in argv) or any(
        "strategy" in (config.get("trainer") or {}) for config in configs
    )
