"""Names of the TensorBoard curves, in one place: those that callbacks log, and those expected of the modules."""

from __future__ import annotations

# Logged by Distill, shown in the overview.
STUDENT_LOSS = "student/loss"
CRITIC_LOSS = "critic/loss"
SCORE_GAP = "student/score_gap"
STUDENT_GRADIENT = "student/gradient_norm"
CRITIC_GRADIENT = "critic/gradient_norm"
CRITIC_LEVELS = ("critic/loss_low_noise", "critic/loss_middle_noise", "critic/loss_high_noise")

# Logged by the callbacks.
ITERATIONS_PER_S = "speed/iterations_per_s"
FRAMES_PER_S = "speed/latent_frames_per_s"
DATA_WAIT = "speed/data_wait_share"
HOST_MEMORY = "memory/host_peak_gib"
GPU_MEMORY = "memory/gpu_peak_gib"
PREVIEW_SECONDS = "preview/seconds"
PREVIEW_SHARE = "preview/share_of_time"
PREVIEW_FAILURES = "preview/failures"


def state_step(horizon: int) -> str:
    """Mean distance between successive states, divided by the norm of the newer one."""
    return f"state_{horizon}x/step"


def state_cosine(horizon: int) -> str:
    """Cosine between the last state of a rollout and its first."""
    return f"state_{horizon}x/cosine_last_to_first"


def attention(horizon: int, slot: str) -> str:
    """Mean share over the chunks of a rollout."""
    return f"attention_{horizon}x/{slot}"


def measured(horizon: int, what: str) -> str:
    """A measurement of the pictures of a rollout, see callbacks.previews.measurements."""
    return f"rollout_{horizon}x/{what}"


def measured_anywhere(what: str) -> str:
    """Pattern of the same measurement at all horizons."""
    return rf"^rollout_\d+x/{what}$"


LONGEST_PROMPT = 100
"""Longest part of a prompt in a tag, in characters."""


def media_tag(horizon: int, what: str, prompt: str = "") -> str:
    """Tag of media in the sub-run `media`, with the prompt if any; TensorBoard groups by the part before the slash."""
    told = prompt if len(prompt) <= LONGEST_PROMPT else f"{prompt[: LONGEST_PROMPT - 3]}..."
    return f"rollout_{horizon}x/{what}" + (f": {told}" if told else "")


def skipped(cause: str) -> str:
    """Samples skipped so far for one cause."""
    return f"data/skipped/{cause.replace(' ', '_')}"
