"""One process of a test: `python -m tests.support.reading_worker RANK WORLD OUT [KIND ...]`.

Every strategy trains the three networks of files twice: read at once, as a module that is made by hand has them, and
read later, as `adastate fit` has them. Each time it notes the weights after two iterations, and the most memory that
the process held of its own, files not counted, while a larger network was made and set up.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from adastate.distributed.network_reader import NetworkReader
from adastate.encoders import TinyCodec, TinyText
from adastate.models import unread
from adastate.models.backbones import build_network
from adastate.models.video_network import Size
from adastate.optim.settings import AverageSettings
from adastate.training.critic import Critic
from adastate.training.distill import Distill
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.weights import save_weights
from tests.support.rig import DISTILL_BLOCKS, grouped
from tests.support.tiny import randomise, spec
from tests.support.zero_worker import NET, From, strategy, whole

LARGE = replace(NET, width=384, layers=6, ffn=1536)
KINDS = ("fsdp2", "zero2 bf16")
"""What a test runs; `zero3_teacher` and the others of zero_worker can be named by hand."""

NETWORKS = ("teacher", "student", "critic")


def write(folder: Path, size: Size) -> None:
    for seed, name in enumerate(NETWORKS):
        net = build_network(size)
        randomise(net, seed)
        save_weights(net, folder / f"{name}.safetensors")


def distill(folder: Path, size: Size) -> Distill:
    """Two chunks of two frames, of networks in files."""
    file = {name: str(folder / f"{name}.safetensors") for name in NETWORKS}
    codec, text = TinyCodec(None, width=4, channels=size.channels, group=2), TinyText(size.text_tokens, size.text_width)
    stream, average = spec(chunk_frames=2, past_frames=2), AverageSettings(0.9)
    student = Student(
        size,
        codec,
        text,
        stream,
        (2, 4),
        rollout_frames=4,
        average=average,
        checkpointing=True,
        weights=file["student"],
    )
    teacher = Teacher(size, latent_size=(2, 4), average=None, weights=file["teacher"])
    critic = Critic(size, checkpointing=True, weights=file["critic"])
    options = {"global_batch": 4, "student_every": 1, "student_lr": 1e-3, "critic_lr": 2e-3, "iterations": 2}
    return Distill(teacher, student, critic, DMD(), **grouped(options, DISTILL_BLOCKS))


class Held:
    """The most anonymous memory of this process, looked at every 5 ms: its own, and not that of files."""

    def __enter__(self) -> Held:
        self.before, self.most, self._done = _anonymous(), 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, _anonymous() - self.before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _anonymous() -> int:
    told = Path("/proc/self/status").read_text()
    return 1024 * int(told.split("RssAnon:")[1].split()[0])


class Ready(Exception):
    """A run whose networks are set up goes no further."""


class Stop(pl.Callback):
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise Ready


class Last(pl.Callback):
    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights = {name: whole(trainer, pl_module, name) for name in pl_module.trained}
        average = pl_module.student.ema.whole().state_dict()
        self.weights["average"] = {k: v.cpu().clone() for k, v in average.items()}
        frozen = pl_module.teacher.net.state_dict().items()
        self.weights["dtype"] = {str(v.dtype) for _, v in frozen}


def fit(kind: str, folder: Path, size: Size, later: bool, world: int, *callbacks: pl.Callback) -> None:
    name, _, half = kind.partition(" ")
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy=strategy(name), precision="bf16-mixed" if half else "32-true",
        callbacks=[*callbacks, NetworkReader()], max_steps=-1, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with unread.reading_later() if later else contextlib.nullcontext():
        module = distill(folder, size)
    trainer.fit(module, datamodule=From(2))


def main(rank: int, world: int, out: Path, kinds: Sequence[str]) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        for name, size in (("small", NET), ("large", LARGE)):
            (out / name).mkdir()
            write(out / name, size)
        (out / "written").touch()
    while not (out / "written").exists():
        threading.Event().wait(0.05)
    import deepspeed  # noqa: F401

    port = int(os.environ["MASTER_PORT"])
    for at, case in enumerate((kind, later) for kind in kinds for later in (False, True)):
        os.environ["MASTER_PORT"] = str(port + at)
        child = os.fork()
        if not child:  # of its own, for what a run leaves in memory
            code = 1
            try:
                one(*case, world, out, out / f"{case[0]} {'later' if case[1] else 'at once'} {rank}.pt")
                code = 0
            finally:
                os._exit(code)
        if status := os.waitpid(child, 0)[1]:
            print(case, "failed", flush=True)
            raise SystemExit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else 1)


def one(kind: str, later: bool, world: int, out: Path, into: Path) -> None:
    """One kind of run: held in memory first, then trained."""
    with Held() as held, contextlib.suppress(Ready):
        fit(kind, out / "large", LARGE, later, world, Stop())
    last = Last()
    fit(kind, out / "small", NET, later, world, last)
    torch.save({"weights": last.weights, "held": held.most}, into)
    print(kind, later, held.most / 2**20, flush=True)


if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = sys.argv[1]
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] or KINDS)
