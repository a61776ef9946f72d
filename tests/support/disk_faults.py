"""Whole command-line runs in which one call on the disk fails after another: `python -m tests.support.disk_faults`.

A library that is preloaded (faulty_disk.c) sees every open, write, fsync, rename and unlink on the run folder, on
TMPDIR and on the data, and every read of the data. The undisturbed run is recorded; then, call by call, a run is
started in which that call fails with ENOSPC or EIO, those on the data with ESTALE, ETIMEDOUT or ENOENT as well; or in
which the process dies there, or from which on the disk stays full. Every run is then gone on with, without faults, to
its end. Runs are forked from a process that has imported everything.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_port
from tests.support.run_laws import ROTTEN, checkpoints, copy_of_the_oldest, digest, left, lost, rot, unkept, unsynced

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("faulty_disk.c")
LIMIT_S = 240
"""A run that takes longer hangs."""

KINDS = {"full": (errno.ENOSPC, 0), "broken": (errno.EIO, 0), "dead": (0, 0), "full from there on": (errno.ENOSPC, 1)}
"""What happens at a call: (its error, or 0 for a kill; 1 if later calls of its kind fail as well, 2 if those on its
path do)."""

READING = {
    "broken": (errno.EIO, 0), "stale": (errno.ESTALE, 0), "timed out": (errno.ETIMEDOUT, 0), "gone": (errno.ENOENT, 0),
    "dead": (0, 0), "stale from there on": (errno.ESTALE, 2), "gone from there on": (errno.ENOENT, 2),
}  # fmt: skip
"""What happens at a call on the data, which is only read."""

SMALL = """
size: {width: 32, layers: 1, heads: 2, ffn: 32}
latent_size: [4, 4]
rollout: {frames: 2}
teacher: {weights: null}
critic: {weights: null}
preview: {every: 0, long: 0}
run: {save_every: 1, iterations: 4}
model:
  init_args:
    global_batch: 2
    save_every: 2
    schedule: {critic_first: 0, critic_updates: 1}
    student: {init_args: {weights: null}}
trainer: {accelerator: cpu, log_every_n_steps: 1, precision: 32-true}
"""
"""A distillation of four iterations, saved after each."""

STAGE = ["base", "sizes/tiny", "stages/distill", "stages/distill_tiny"]

CLIPS = """
size: {width: 32, layers: 1, heads: 2, ffn: 32}
latent_size: [4, 4]
rollout: {frames: 2}
preview: {every: 0, long: 0}
run: {save_every: 1}
training: {teacher: {batch: 2, steps: 4}}
data: {init_args: {shards: SHARDS, memory_gb: 0}}
model: {init_args: {weights: null}}
trainer: {accelerator: cpu, log_every_n_steps: 1, precision: 32-true}
"""
"""A teacher on six shards of two clips, of which every process and epoch reads each; four steps, saved after each."""


ONE_SAVE = re.compile(r"(write|fsync|rename) 0/(\w+/checkpoints/|\.student.* 1$)")
"""Calls whose failure costs a save and nothing more: those on checkpoints, and on the first of the student's files; the
last file is what the run is made for."""


@dataclass(frozen=True)
class Fault:
    """The `nth` call of a name, on rank `rank`, and what happens there."""

    call: str
    nth: int
    kind: str
    rank: int = 0


@dataclass(frozen=True)
class Found:
    """What became of a run: `wrong` is what it should not have done, in words; empty if it ended as documented."""

    fault: Fault
    codes: list[int]
    wrong: str


def build(folder: Path) -> Path | None:
    """The library, or None where there is no compiler for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made = folder / "faulty_disk.so"
    told = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, SOURCE, "-ldl"], capture_output=True)
    return made if told.returncode == 0 else None


def campaign(folder: Path, strategy: str, share: float = 1.0, only: str = "", timeout: float = 7200) -> dict[str, Any]:
    """Runs this module with the library loaded; what it printed, see `main`."""
    library = build(folder)
    assert library is not None
    command = [sys.executable, "-m", "tests.support.disk_faults", str(folder), strategy, "--share", str(share)]
    env = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    told = subprocess.run(
        [*command, "--only", only], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert told.returncode == 0, told.stderr[-3000:]
    return dict(json.loads((folder / "found.json").read_text()))


class Runs:
    """Runs of one kind, each in a folder of its own below `folder`."""

    def __init__(self, folder: Path, strategy: str) -> None:
        self.folder, self.strategy, self.world = folder, strategy, 1 if strategy in ("one", "shards") else 2
        self.disk = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "prompts.txt").write_text("a red ball\nslow snow\n")
        (self.data / "small.yaml").write_text(SMALL)
        self.found: list[Found] = []
        self.expected, self.last, self.stage = "", "", "teacher" if strategy == "shards" else "distill"
        if strategy == "shards":
            (self.data / "small.yaml").write_text(CLIPS.replace("SHARDS", str(self.data / "clips")))
            clips(self.data / "clips")
        else:
            small = yaml.safe_load(SMALL)
            small["trainer"]["callbacks"] = monitored()
            (self.data / "small.yaml").write_text(yaml.safe_dump(small))

    def words(self, run: Path) -> list[str]:
        files = [*STAGE, *([f"strategy/{self.strategy}"] if self.world > 1 else [])]
        if self.strategy == "shards":
            files = ["base", "sizes/tiny", "stages/teacher", "recipes/teacher_latents"]
        config = [word for file in files for word in ("--config", f"conf/{file}.yaml")]
        config += ["--config", f"{self.data}/small.yaml"]
        more = [f"--run.dir={run}", f"--trainer.devices={self.world}"]
        if self.strategy != "shards":
            more += [f"--data.file={self.data}/prompts.txt", f"--data.batch={2 // self.world}"]
        return ["fit", *config, *more]

    def start(self, run: Path, *more: str, fault: Fault | None = None, record: Path | None = None) -> list[int]:
        """The exit codes of a run, by rank; -9 for a kill, of this or of a rank that waited for a dead one."""
        temporary = run.with_name(f"{run.name}.tmp")
        temporary.mkdir(parents=True, exist_ok=True), run.mkdir(exist_ok=True)
        port = free_port()
        children = {}
        for rank in range(self.world):
            child = os.fork()
            if child == 0:
                os.setsid()
                code = self._child(run, temporary, rank, port, [*self.words(run), *more], fault, record)
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
            children[child] = rank
        return self._wait(children)

    def _child(
        self,
        run: Path,
        temporary: Path,
        rank: int,
        port: int,
        words: list[str],
        fault: Fault | None,
        record: Path | None,
    ) -> int:
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        from adastate.main import main

        rank_zero_only.rank = rank  # which a process of its own would have read when it imported this
        log = os.open(run.with_name(f"{run.name}.log{rank}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        gc.freeze()
        if self.world > 1:
            os.environ |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "NODE_RANK": "0",
                "LOCAL_RANK": str(rank),
            }
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        for watched in (run, temporary, self.data):
            self.disk.faulty_watch(os.fsencode(watched))
        if record is not None:
            self.disk.faulty_record(os.fsencode(f"{record}{rank}"))
        elif fault is not None and fault.rank == rank:
            code, ever = kinds(fault.call)[fault.kind]
            self.disk.faulty_fail(fault.call.encode(), fault.nth, code, ever)
        try:
            main(words)
            return 0
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
                return 1
            return int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            return 1

    def _wait(self, children: dict[int, int]) -> list[int]:
        codes, left, began, patience = [0] * self.world, dict(children), time.monotonic(), float(LIMIT_S)
        while left:
            for child in list(left):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[left.pop(child)] = code = os.waitstatus_to_exitcode(status)
                    if code:  # the others wait for it: a launcher ends them
                        patience = min(patience, time.monotonic() - began + 10)
            if left and time.monotonic() - began > patience:
                for child in left:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[left[child]] = -9 if patience < LIMIT_S else 99
                left = {}
            time.sleep(0.005)
        return codes

    def record(self) -> list[Fault]:
        """Every call of the undisturbed run, of a run that goes on included; sets what runs have to end with."""
        run = self.folder / "straight"
        assert self.start(run, record=self.folder / "calls") == [0] * self.world, tail(run)
        self.expected, self.last = digest(run), checkpoints(run / self.stage)[-1].name
        if wrong := unsynced(self.folder / "calls0"):
            self.found.append(Found(Fault("rename", 1, "power"), [], wrong))
        return [fault for rank in range(self.world) for fault in sampled((self.folder / f"calls{rank}"), rank)]

    def trial(self, fault: Fault, rotten: tuple[str, int] | None = None) -> Found:
        """A run with a fault, gone on with; beside a user's copy of a checkpoint, and with a `rotten` one."""
        run = self.folder / "run"
        codes = self.start(run, fault=fault)
        wrong = self.judge(run, fault, codes)
        if not wrong:
            copied = copy_of_the_oldest(run / self.stage)
            if rotten is not None:
                rot(run / self.stage, *rotten)
            again = self.start(run, "--ckpt_path=auto")
            if again != [0] * self.world:
                wrong = f"cannot be gone on with: {again}; {tail(run)}"
            elif digest(run) != self.expected:
                wrong = "gone on with, it ends otherwise than undisturbed"
            else:
                wrong = unkept(run / self.stage, self.last, copied) or lost(run / self.stage)
        for path in self.folder.glob("run*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return Found(fault if rotten is None else Fault("manifest", rotten[1], f"{rotten[0]} rotten"), codes, wrong)

    def judge(self, run: Path, fault: Fault, codes: list[int]) -> str:
        """What a run should not have done, as its files and its exit codes show."""
        said = tail(run)
        if 99 in codes:
            return f"hangs; {said}"
        if "Traceback" in said or "terminate called" in said:
            return f"ends in a traceback: {said[-400:]}"
        if fault.kind != "dead" and any(codes) and "adastate: " not in said:
            return f"ends with {codes} and no sentence; {said[-400:]}"
        if any(codes) and fault.kind in ("full", "broken") and ONE_SAVE.search(f"{fault.call} {fault.nth}"):
            return f"a disk that does not take one save ends the run: {said[-400:]}"
        return lost(run / self.stage) or left(run)


def sampled(calls: Path, rank: int) -> list[Fault]:
    """The first, the middle and the last of the calls whose names differ in the iteration alone; and of all others."""
    counts, sites = Counter[str](), dict[str, list[Fault]]()
    for call in calls.read_text().splitlines():
        counts[call] += 1
        sites.setdefault(re.sub(r"\d{8}", "", call), []).append(Fault(call, counts[call], "", rank))
    return [site[i] for site in sites.values() for i in sorted({0, len(site) // 2, len(site) - 1})]


def tail(run: Path) -> str:
    return "\n".join(p.read_text(errors="replace")[-1500:] for p in sorted(run.parent.glob(f"{run.name}.log*")))


def kinds(call: str) -> dict[str, tuple[int, int]]:
    """What can happen at a call, which is on the data or on what the run writes."""
    return READING if call.split()[1].startswith("2") else KINDS


def monitored() -> list[Any]:
    """The callbacks of conf/base.yaml, of which Checkpoints keeps the best as well."""
    config = yaml.safe_load((ROOT / "conf/base.yaml").read_text())
    for node in config["trainer"]["callbacks"]:
        if node["class_path"] == "callbacks.Checkpoints":
            node["init_args"]["monitor"] = "critic/loss"
    return list(config["trainer"]["callbacks"])


def clips(folder: Path) -> None:
    """Six shards of two clips."""
    import torch

    from datamodules.shards.shard_writer import ShardWriter, npy

    with ShardWriter(folder, 2) as writer:
        for i in range(12):
            latents = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(i))
            writer.add(f"clip-{i:03d}", {"latent.npy": npy(latents), "txt": b"a red ball"})


def faults(calls: list[Fault], share: float, only: str) -> Iterator[Fault]:
    """All kinds at all calls, or an even share of them; a disk that stays full matters to what writes."""
    made = [
        Fault(c.call, c.nth, kind, c.rank)
        for c in calls
        for kind in kinds(c.call)
        if kind != "full from there on" or c.call[0] == "w"
    ]
    made = [f for f in made if re.search(only, f"{f.call} {f.kind}")]
    wanted = min(len(made), max(1, round(share * len(made))))
    yield from (made[i * len(made) // wanted] for i in range(wanted))


def main() -> None:
    """Writes `found.json`: how many calls there are, how many runs were made, and which did not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("strategy", choices=("one", "ddp", "zero2", "shards"))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    import lightning.pytorch.cli  # noqa: F401
    import torch

    import datamodules.prompts  # noqa: F401
    from tests.support.kills import _import_deepspeed

    if args.strategy == "zero2":
        _import_deepspeed()
    torch.set_num_threads(1)
    runs = Runs(args.folder, args.strategy)
    calls, found = runs.record(), runs.found
    trials: list[tuple[Fault, tuple[str, int] | None]] = [(f, None) for f in faults(calls, args.share, args.only)]
    if args.strategy != "shards" and re.search(args.only, "rot"):
        late = next(c for c in calls if f"unfinished-{runs.last}" in c.call)  # the two before are there then
        died = Fault(late.call, late.nth, "dead", late.rank)
        trials += [(died, (which, at)) for which, where in ROTTEN.items() for at in range(len(where))]
    write_found(args.folder, len(calls), found)
    for trial in trials:
        found.append(runs.trial(*trial))
        write_found(args.folder, len(calls), found)
        fault = found[-1].fault
        print(f"{fault.kind:20} {fault.nth:3} {fault.call:60} {found[-1].codes} {found[-1].wrong[:150]!r}", flush=True)


def write_found(folder: Path, calls: int, found: list[Found]) -> None:
    told = {"calls": calls, "runs": len(found), "wrong": [asdict(f) for f in found if f.wrong]}
    (folder / "found.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
