"""Backward passes and optimiser steps of a module that steps by itself, each looked at before it happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from adastate.distributed.protocol import TrainedNetwork, steps_of
from adastate.optim.spike_guard import SpikeGuard


class BadUpdateError(RuntimeError):
    """What the guard forbids, in a few words."""


class StopAskedError(RuntimeError):
    """The run was asked to stop, and nothing of the iteration has been updated yet."""


class Learner(Protocol):
    """What is asked of the module: Lightning's own, and what strategies look at as well (see Distill)."""

    @property
    def out(self) -> str | None: ...

    @property
    def trainer(self) -> Any: ...

    @property
    def trained(self) -> Mapping[str, TrainedNetwork]: ...

    @property
    def accumulate(self) -> int: ...

    @property
    def iteration(self) -> int: ...

    @property
    def micro_batch(self) -> int: ...

    def log(self, name: str, value: Any, *, prog_bar: bool = ..., batch_size: int | None = ...) -> None: ...

    def log_dict(self, dictionary: Any, *, batch_size: int | None = ...) -> None: ...

    def manual_backward(self, loss: Tensor, *, network: TrainedNetwork) -> None: ...

    def optimizers(self) -> Any: ...

    def lr_schedulers(self) -> Any: ...


class Noted(NamedTuple):
    """Of one micro batch, on its device.

    Attributes:
        loss: a scalar.
        found: scalars to log by name; what is not a number is not logged.
    """

    loss: Tensor
    found: dict[str, Tensor]


class GuardedOptimizer:
    """Runs backward passes and optimiser steps of `module`, unless the spike guard rejects them, and logs both.

    Attributes:
        skip_reason: what the guard said of the last iteration; empty if it let all of it pass.
        stepped: whether this iteration has updated anything.
        asked_to_stop: asked between two passes, on all ranks together, as long as nothing has been updated; an
            iteration can take minutes, which a cluster that wants its machines back does not wait for. None: not asked.
    """

    def __init__(self, module: Learner, guard: SpikeGuard) -> None:
        self.module, self.guard = module, guard
        self.skip_reason, self.stepped = "", False
        self.asked_to_stop: Callable[[], bool] | None = None
        self._guard_then = guard.state_dict()
        self._noted: dict[str, list[Noted]] = {}

    def begin(self) -> None:
        """A new iteration."""
        self.skip_reason, self.stepped, self._noted = "", False, {}
        self._guard_then = self.guard.state_dict()

    def stop_if_asked(self) -> None:
        """Between two passes.

        Raises:
            StopAskedError: the run shall stop, and nothing of this iteration has been updated: `give_up`.
        """
        if self.asked_to_stop is not None and not self.stepped and self.asked_to_stop():
            raise StopAskedError

    def give_up(self) -> None:
        """As if the iteration had not begun: its gradients are dropped, and the guard has seen nothing of it."""
        self._drop_gradients()
        self.guard.load_state_dict(self._guard_then)

    def backward(self, name: str, loss: Tensor, found: dict[str, Tensor]) -> None:
        """Of one micro batch, for the network `name`."""
        self.note(name, loss, found)
        self.module.manual_backward(loss / self.module.accumulate, network=self.module.trained[name])

    def note(self, name: str, loss: Tensor, found: dict[str, Tensor]) -> None:
        """Keeps a loss and curves for the step, which waits once for the device to judge and to log them all."""
        self.stop_if_asked()
        self._noted.setdefault(name, []).append(Noted(loss.detach(), found))

    def step(self, name: str) -> None:
        """One optimiser step, of the gradients of the whole global batch, unless the guard rejects their norm or any of
        the losses; logs all of them, the norm as it was before it was clipped."""
        self.stop_if_asked()
        module, at = self.module, [*self.module.trained].index(name)
        optimizer, schedule = module.optimizers()[at], module.lr_schedulers()[at]
        noted, wrong, norm_was = self._noted.pop(name, []), "", math.nan

        def permit(norm: Tensor) -> bool:
            nonlocal wrong, norm_was
            losses, logged, norm_was = self._read(noted, norm)
            for judged in ({f"{name} loss": loss} for loss in losses):
                wrong = wrong or self.guard.check(judged)
            wrong = wrong or self.guard.check({f"{name} gradient norm": norm_was})
            if not wrong:
                self._log(name, logged)
            return not wrong

        steps_of(module.trainer.strategy).clipped_step(module.trained[name], optimizer, permit)
        if wrong:
            raise BadUpdateError(wrong)
        self.stepped = True
        schedule.step()
        module.log(f"{name}/gradient_norm", norm_was, batch_size=module.micro_batch)

    def _read(
        self, noted: list[Noted], norm: Tensor
    ) -> tuple[list[float], list[tuple[float, dict[str, float]]], float]:
        """(losses as the mean of all processes, (loss, curves) of this one by micro batch, norm), in one transfer."""
        if not noted:
            return [], [], float(norm)
        own = torch.stack([each.loss.double() for each in noted])
        shared = self.module.trainer.strategy.reduce(own.clone(), reduce_op="mean")
        curves = [torch.as_tensor(value).detach() for each in noted for value in each.found.values()]
        rest = [value.to(own, non_blocking=True).reshape(1) for value in (*curves, norm.detach())]
        values = iter(torch.cat([shared, own, *rest]).tolist())
        losses, own_losses = ([next(values) for _ in noted] for _ in range(2))
        logged = [
            (loss, {key: next(values) for key in each.found}) for loss, each in zip(own_losses, noted, strict=True)
        ]
        return losses, logged, next(values)

    def _log(self, name: str, logged: list[tuple[float, dict[str, float]]]) -> None:
        module = self.module
        for loss, curves in logged:
            module.log(f"{name}/loss", loss, prog_bar=True, batch_size=module.micro_batch)
            told = {key: value for key, value in curves.items() if not math.isnan(value)}
            # Lightning would draw the curves over its own step count; `step` overrides it.
            module.log_dict({**told, "step": float(module.iteration)}, batch_size=module.micro_batch)

    def skip(self, wrong: str) -> None:
        """Drops the gradients of an iteration that the guard stopped.

        Raises:
            RuntimeError: when it has stopped too many in a row, with the last good checkpoint.
        """
        module = self.module
        self._drop_gradients()
        self.skip_reason = f"iteration {module.iteration}: {wrong}; the update is skipped"
        rank_zero_warn(self.skip_reason)
        module.log("guard/skipped", float(self.guard.skipped), batch_size=module.micro_batch)
        if self.guard.exhausted:
            last = getattr(module.trainer.checkpoint_callback, "last_good", None)
            whole = module.out if module.out and Path(module.out).is_file() else None
            raise RuntimeError(
                f"{self.guard.in_a_row} bad updates in a row, the last at {self.skip_reason}; "
                + (f"the last good checkpoint is {last}" if last else "there is no checkpoint yet")
                + (f", complete weights are in {whole}" if whole else "")
                + ": lower the learning rates, or inspect the data"
            )

    def _drop_gradients(self) -> None:
        for network in self.module.trained.values():
            network.net.zero_grad()

    def finish_iteration(self) -> None:
        """The iteration is over."""
        if not self.skip_reason:
            self.guard.reset()
