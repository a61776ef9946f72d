"""The preview of a trial: the streams and the decoding of callbacks.Rollouts, after the measured iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from adastate.rehearsal.recorder import DeviceRecorder
from adastate.rehearsal.training_phases import PREVIEW, PREVIEW_DECODE
from adastate.runtime.text_files import read_lines
from adastate.stream.action_schedule import parse_actions
from callbacks.previews.render import decode_rows, preview_actions, stream_rows
from callbacks.previews.rollouts import evaluating
from callbacks.protocols import Streams


def preview_settings(told: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of callbacks.Rollouts in a trainer's configuration; None if a run has no previews."""
    nodes = [n for n in told.get("callbacks") or () if str(n.get("class_path")).endswith(".Rollouts")]
    settings = (nodes[-1].get("init_args") or {}) if nodes else {}
    return dict(settings) if settings.get("prompts") and settings.get("every", 1) else None


def preview_trial(module: Any, trainer: pl.Trainer, settings: dict[str, Any], recorder: DeviceRecorder) -> None:
    """Runs a preview of one training horizon like the callback, with its passes and its decoding as phases.

    Longer previews need no more device memory: the passes with a full window are those of any later chunk. Files,
    curves and pictures on the host are left out.

    Args:
        settings: see `preview_settings`.
    """
    if not isinstance(module, Streams):
        return
    prompts = settings["prompts"]
    if isinstance(prompts, str):
        prompts = [line for line in read_lines(Path(prompts)) if line]
    actions = preview_actions(module, module.rollout_frames, parse_actions(settings.get("actions") or []))
    with evaluating(module):  # type: ignore[arg-type]
        with recorder.within(PREVIEW):
            made, _ = stream_rows(
                module, prompts, module.rollout_frames, int(settings.get("seed", 0)),
                trainer.precision_plugin.forward_context, bool(settings.get("attention", True)), actions,
            )  # fmt: skip
        if trainer.is_global_zero:
            with recorder.within(PREVIEW_DECODE):
                for part in made:
                    decode_rows(module.codec, part)
