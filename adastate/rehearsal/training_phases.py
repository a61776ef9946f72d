"""Which part of an iteration is running: the methods that begin one tell the recorder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adastate.rehearsal.recorder import DeviceRecorder

PREVIEW, PREVIEW_DECODE = "preview", "preview: decode"
"""Phases of a preview, which comes between iterations and is no part of one."""

ONCE = ("optimiser", "average", "warm-up", "between", PREVIEW, PREVIEW_DECODE)
"""Phases, by the end of their names, that an iteration has once; the others come once a micro batch."""

ALL_PROMPTS = "all prompts"
"""The phase in which a distillation embeds what its whole iteration is told: its work grows with the micro batches,
while it brings the text encoder to the device once."""


def run_as_phase(owner: Any, method: str, phase: str | Callable[..., str], recorder: DeviceRecorder) -> None:
    """From here on `owner.method` runs as a phase, whose name may be a function of its arguments."""
    true = getattr(owner, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with recorder.within(phase if isinstance(phase, str) else phase(*args, **kwargs)):
            return true(*args, **kwargs)

    object.__setattr__(owner, method, watched)


def watch_training(module: Any, strategy: Any, recorder: DeviceRecorder) -> None:
    """Phases of any stage, as `adastate plan` names them."""
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
