"""The current phase of an iteration: methods that begin one notify the recorder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adastate.rehearsal.recorder import DeviceRecorder

PREVIEW, PREVIEW_DECODE = "preview", "preview: decode"
"""Phases of a preview, which runs between iterations and is not part of one."""

ONCE = ("optimiser", "average", "warm-up", "between", PREVIEW, PREVIEW_DECODE)
"""Suffixes of phases that happen once per iteration; the others happen once per micro batch."""

ALL_PROMPTS = "all prompts"
"""The phase in which a distillation embeds the prompts of its whole iteration: its work grows with the micro batches,
but it moves the text encoder to the device only once."""


def run_as_phase(owner: Any, method: str, phase: str | Callable[..., str], recorder: DeviceRecorder) -> None:
    """Makes `owner.method` run as a phase from now on; its name may be a function of the arguments."""
    true = getattr(owner, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with recorder.within(phase if isinstance(phase, str) else phase(*args, **kwargs)):
            return true(*args, **kwargs)

    object.__setattr__(owner, method, watched)


def watch_training(module: Any, strategy: Any, recorder: DeviceRecorder) -> None:
    """Registers the phases of any stage, with the names of `adastate plan`."""
    student = getattr(module, "student", None)
    distills = hasattr(module, "updates") and hasattr(module, "sampler")
    for owner in (module, student):
        if owner is not None and hasattr(owner, "embed"):
            run_as_phase(owner, "embed", ALL_PROMPTS if distills else "prompts", recorder)
    if distills:
        run_as_phase(module, "student_sample", _rollout, recorder)
        run_as_phase(module, "student_loss", "student: scores", recorder)
        run_as_phase(module.critic, "loss", "critic: forward", recorder)
        run_as_phase(module.updates, "backward", lambda name, *rest: f"{name}: backward", recorder)
        run_as_phase(module.updates, "step", lambda name: f"{name}: optimiser", recorder)
    else:
        name = next(iter(getattr(module, "trained", {})), type(module).__name__.lower())
        run_as_phase(module, "optimizer_step", f"{name}: optimiser", recorder)
        run_as_phase(module, "training_step", f"{name}: forward", recorder)
        run_as_phase(strategy, "backward", f"{name}: backward", recorder)
    for network in getattr(module, "trained", {}).values():
        if network.average is not None:
            run_as_phase(network.average, "update", f"{network.name}: average", recorder)


def _rollout(part: Any, purpose: str, *rest: Any, **options: Any) -> str:
    return "student: rollout" if purpose == "student" else "critic: rollout"
