"""A module with one network that learns, stepped by Lightning: what Teacher and Student have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from adastate.ema import EMA
from adastate.frozen import bring_back, leave_out
from adastate.net import DiT
from adastate.networks import shard_all
from adastate.optim import adamw
from adastate.weights import save


class OneNetwork(pl.LightningModule):
    """Optimisation, average, checkpoints and the file of weights; `training_step` is the heir's.

    Attributes:
        left_out: beginnings of the names of what no checkpoint holds.
        tag: under which the gradient's norm is logged.
        learning: name of the network, for strategies.
        clip_gradient: clips and returns the norm; a strategy may replace it.
        out: file of the averaged weights, written every `save_every` steps and at the end; None for none.
    """

    left_out: tuple[str, ...]
    tag: str
    net: DiT
    ema: EMA | None
    learning: str
    clip_gradient: Callable[[nn.Module, float], Tensor]
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    warmup: int
    decay_share: float
    out: str | None
    save_every: int

    @property
    def iteration(self) -> int:
        return self.ema.updates if self.ema is not None else 0

    @property
    def stream_fields(self) -> dict[str, Any] | None:
        """How the network was trained to stream, for the header of its file."""
        return None

    # ---- what strategies look at, see adastate.networks

    @property
    def trained(self) -> dict[str, DiT]:
        return {self.learning: self.net}

    @property
    def frozen(self) -> dict[str, DiT]:
        return {}

    @property
    def averages(self) -> dict[str, EMA]:
        return {} if self.ema is None else {self.learning: self.ema}

    @property
    def accumulate(self) -> int:
        return int(self.trainer.accumulate_grad_batches)

    def configure_model(self) -> None:
        shard_all(self)

    # ---- a step

    def configure_optimizers(self) -> Any:
        steps = self.trainer.max_steps
        return adamw(self.net, self.lr, self.betas, self.weight_decay, self.warmup, self.decay_share, steps)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log(f"{self.tag}/gradient_norm", self.clip_gradient(self.net, self.clip))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average moves with the step, before any callback can save the one without the other."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is None:
            return
        self.ema.update(self.net)
        if self.iteration % self.save_every == 0:
            self.save()

    # ---- what is kept

    def on_train_end(self) -> None:
        self.save()

    def save(self) -> None:
        """All processes call it: where weights are in pieces they are gathered from all."""
        if self.out is None:
            return
        net = self.net if self.ema is None else self.ema.whole()
        if self.trainer.is_global_zero:
            save(net, Path(self.out), stream=self.stream_fields)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(self, checkpoint, self.left_out)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        bring_back(self, checkpoint, self.left_out)
