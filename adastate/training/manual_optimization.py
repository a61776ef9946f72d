"""Backward passes and optimiser steps of a module that steps by itself, each looked at before it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

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

    def begin(self) -> None:
        """A new iteration."""
        self.skip_reason, self.stepped = "", False
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
        """Judges a loss before its backward, and logs it."""
        self.stop_if_asked()
        module = self.module
        self._judge(f"{name} loss", module.trainer.strategy.reduce(loss.detach(), reduce_op="mean"))
        module.log(f"{name}/loss", loss.detach().float(), prog_bar=True, batch_size=module.micro_batch)
        # Lightning would draw the curves over its own step count; `step` overrides it.
        module.log_dict({**found, "step": float(module.iteration)}, batch_size=module.micro_batch)

    def step(self, name: str) -> None:
        """One optimiser step, of the gradients of the whole global batch; logs their norm before it is clipped."""
        self.stop_if_asked()
        module, at = self.module, [*self.module.trained].index(name)
        optimizer, schedule = module.optimizers()[at], module.lr_schedulers()[at]
        wrong = ""

        def permit(norm: Tensor) -> bool:
            nonlocal wrong
            wrong = self.guard.check({f"{name} gradient norm": float(norm)})
            return not wrong

        norm = steps_of(module.trainer.strategy).clipped_step(module.trained[name], optimizer, permit)
        if wrong:
            raise BadUpdateError(wrong)
        self.stepped = True
        schedule.step()
        module.log(f"{name}/gradient_norm", norm, batch_size=module.micro_batch)

    def _judge(self, name: str, value: Tensor | Any) -> None:
        wrong = self.guard.check({name: float(value)})
        if wrong:
            raise BadUpdateError(wrong)

    def skip(self, wrong: str) -> None:
        """Drops the gradients of an iteration that the guard stopped.

        Raises:
            RuntimeError: when it has stopped too many in a row, with the last good checkpoint.
        """
        module = self.module
        self._drop_gradients()
        self.skip_reason = f"iteration {module.iteration}: {wrong}; the update is left out"
        rank_zero_warn(self.skip_reason)
        module.log("guard/skipped", float(self.guard.skipped), batch_size=module.micro_batch)
        if self.guard.exhausted:
            last = getattr(module.trainer.checkpoint_callback, "last_good", None)
            whole = module.out if module.out and Path(module.out).is_file() else None
            raise RuntimeError(
                f"{self.guard.in_a_row} bad updates in a row, the last at {self.skip_reason}; "
                + (f"the last good checkpoint is {last}" if last else "there is no checkpoint yet")
                + (f", whole weights are in {whole}" if whole else "")
                + ": lower the learning rates, or look at the data"
            )

    def _drop_gradients(self) -> None:
        for network in self.module.trained.values():
            network.net.zero_grad()

    def finish_iteration(self) -> None:
        """The iteration is over."""
        if not self.skip_reason:
            self.guard.reset()
