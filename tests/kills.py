"""Runs that are killed and go on: the real Distill at its smallest, saved after every iteration.

Processes are forked from one that has imported everything, so that a start costs a fraction of a second and hundreds
of kills fit into minutes. `make faults` does many, tests/test_resume.py a few.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from adastate.encoders import TinyCodec, TinyText
from adastate.teacher import Teacher
from adastate.types import Batch
from callbacks import Checkpoints
from callbacks.checkpoints import at_boundary, newest
from datamodules.prompts import PromptData
from datamodules.shards import ShardData
from datamodules.writer import ShardWriter
from tests.rig import WORDS, tiny_distill
from tests.tiny import GRID, SHAPE, SIZE

LIMIT_S = 240
"""A run that takes longer hangs."""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        stage: `distill`, or one with one network and Lightning's own optimisation: `teacher`.
        strategy: `one` process, `ddp`, or a stage of ZeRO (`zero1`, `zero2`, `zero3`) on `world` processes.
        data: `prompts`, or `shards` with latents.
        workers: of the loader.
        iterations: of the whole run.
        every: iterations between checkpoints.
    """

    strategy: str = "one"
    world: int = 1
    stage: str = "distill"
    data: str = "prompts"
    workers: int = 0
    iterations: int = 8
    every: int = 1
    global_batch: int = 4


class Digest(pl.Callback):
    """Taken while the strategy still holds the weights."""

    value = ""

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.value = digest(pl_module, trainer)


class Consumed(pl.Callback):
    """Writes down which samples every finished iteration used, a line each, so that a killed run leaves them."""

    def __init__(self, path: Path) -> None:
        self.path, self.waiting, self.last = path, list[int](), -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.last = pl_module.iteration

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.waiting += batch.index.tolist()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if at_boundary(pl_module) and pl_module.iteration > self.last:
            self.last = pl_module.iteration
            with self.path.open("a") as file:
                file.write(json.dumps([pl_module.iteration, self.waiting]) + "\n")
            self.waiting = []


def train(plan: Plan, folder: Path, rank: int, port: int) -> None:
    """One process of the run; goes on from the newest whole checkpoint and leaves `done.<rank>` with a digest."""
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "DS_ACCELERATOR": "cpu",
    }
    warnings.filterwarnings("ignore")
    pl.seed_everything(0, verbose=False)
    module = network(plan)
    batch = plan.global_batch // plan.world
    data: pl.LightningDataModule
    if plan.data == "prompts":
        data = PromptData(batch=batch, workers=plan.workers)
    else:
        data = ShardData(str(folder.parent / "shards"), batch=batch, workers=plan.workers, seed=3)
    taken = Digest()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=plan.world,
        strategy=strategy(plan),
        max_epochs=-1,
        max_steps=plan.iterations if plan.stage != "distill" else -1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[
            Checkpoints(str(folder / "checkpoints"), every=plan.every, keep=2),
            Consumed(folder / f"consumed.{rank}"),
            taken,
        ],
    )
    start = newest(folder / "checkpoints")
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True if start else None)
    # Lightning ends a run that was killed after its last step without the hooks of an end.
    (folder / f"done.{rank}").write_text(taken.value or digest(module, trainer))


def network(plan: Plan) -> Any:
    if plan.stage == "teacher":
        torch.manual_seed(1)
        codec, text = (
            TinyCodec(None, width=4, channels=SIZE.channels, group=2),
            TinyText(SIZE.text_tokens, SIZE.text_width),
        )
        return Teacher(SIZE, codec=codec, text=text, grid=GRID, rollout_frames=6, lr=1e-3, ema=0.9, warmup=1)
    return tiny_distill(iterations=plan.iterations, student_every=2, global_batch=plan.global_batch)


def make_shards(folder: Path, clips: int = 40) -> None:
    """Shards of clips of random latents, for the data `shards`."""
    writer = ShardWriter(folder / "shards", per_shard=7)
    for i in range(clips):
        latents, file = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(i)), io.BytesIO()
        np.save(file, latents.numpy().astype(np.float16))
        words = f"{WORDS[i % 8]} {WORDS[(3 * i + 1) % 8]}".encode()
        writer.add(f"{i:05d}", {"latent.npy": file.getvalue(), "txt": words, "json": b"{}"})
    writer.close()


def strategy(plan: Plan) -> Any:
    if plan.strategy == "one":
        return "auto"
    if plan.strategy == "ddp":
        return "ddp_find_unused_parameters_true"
    from adastate.zero import ZeroStrategy

    return ZeroStrategy(stage=int(plan.strategy.removeprefix("zero")))


def digest(module: Any, trainer: pl.Trainer) -> str:
    """Of weights, averages, optimisers, counters and the place in the data; all ranks call it."""
    if hasattr(trainer.strategy, "whole_weights"):
        tensors: list[Tensor] = []
        for name in module.trained:
            tensors += [v for _, v in sorted(trainer.strategy.whole_weights(name).items())]
        tensors += list(module.student.ema.whole().state_dict().values())
    else:
        tensors = [v for _, v in sorted(module.state_dict().items()) if isinstance(v, Tensor)]
        for optimizer in trainer.optimizers:
            for state in optimizer.state_dict()["state"].values():
                tensors += [v for _, v in sorted(state.items()) if isinstance(v, Tensor)]
    made = hashlib.sha256()
    for tensor in tensors:
        made.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    made.update(json.dumps([module.iteration, getattr(module, "student", module).ema.updates]).encode())
    made.update(json.dumps(trainer.datamodule.state_dict(), sort_keys=True).encode())
    return made.hexdigest()


def launch(plan: Plan, folder: Path) -> list[int]:
    """Process ids of a start of the run, one a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(plan.world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setsid()  # its loader's workers die with it
                log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1), os.dup2(log, 2)
                train(plan, folder, rank, port)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return children


def wait(children: list[int], until: float, folder: Path) -> bool:
    """Whether all have ended by themselves, and well, before `until`; then they are reaped."""
    left = dict.fromkeys(children)
    while left and time.monotonic() < until:
        for child in list(left):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                left.pop(child)
                if status:
                    kill([*left])
                    raise RuntimeError(f"a process ended with {status}:\n" + tail(folder))
        time.sleep(0.005)
    return not left


def kill(children: list[int]) -> None:
    """SIGKILL to every process and whatever it started."""
    for child in children:
        try:
            os.killpg(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
    for child in children:
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            continue


def tail(folder: Path) -> str:
    return "\n".join(p.read_text(errors="replace")[-2000:] for p in sorted(folder.glob("log.*")))


def straight(plan: Plan, folder: Path) -> tuple[str, float]:
    """(digest, seconds) of the run without a fault."""
    began = time.monotonic()
    if not wait(launch(plan, folder), began + LIMIT_S, folder):
        raise RuntimeError(f"the undisturbed run hangs:\n{tail(folder)}")
    return result(plan, folder), time.monotonic() - began


def result(plan: Plan, folder: Path) -> str:
    digests = {(folder / f"done.{rank}").read_text() for rank in range(plan.world)}
    if len(digests) != 1:
        raise RuntimeError(f"ranks ended differently: {digests}")
    return digests.pop()


def killed(plan: Plan, folder: Path, kills: int, seconds: float, seed: int) -> tuple[str, int]:
    """(digest, kills that met a living run) of a run killed at random moments of its `seconds`."""
    dice = random.Random(seed)
    done = 0
    while done < kills:
        children = launch(plan, folder)
        if wait(children, time.monotonic() + dice.uniform(0.02, seconds), folder):
            break  # it reached its end before
        kill(children)
        done += 1
    if not (folder / "done.0").is_file():
        children = launch(plan, folder)
        if not wait(children, time.monotonic() + LIMIT_S, folder):
            kill(children)
            raise RuntimeError(f"the resumed run hangs:\n{tail(folder)}")
    return result(plan, folder), done


def samples(plan: Plan, folder: Path) -> dict[int, list[int]]:
    """Global sample numbers of every finished iteration over all ranks; a repeated iteration has to repeat them.

    What an iteration after the last checkpoint used is used again, so the last entry counts.
    """
    found: dict[int, list[int]] = {}
    for rank in range(plan.world):
        mine: dict[int, list[int]] = {}
        for line in (folder / f"consumed.{rank}").read_text().splitlines():
            try:
                iteration, used = json.loads(line)
            except json.JSONDecodeError:
                continue  # the half line of a killed process
            assert mine.get(iteration, used) == used, f"iteration {iteration} used other samples the second time"
            mine[iteration] = used
        for iteration, used in mine.items():
            found.setdefault(iteration, []).extend(used)
    return {iteration: sorted(used) for iteration, used in sorted(found.items())}
