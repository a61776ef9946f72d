"""What a session returns for each chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Receipt:
    """When a control took effect.

    Attributes:
        number: number of the control in its session.
        kind: prompt or act.
        chunk: chunk in which it took effect.
        seconds: time from the request until the frames of that chunk were ready.
    """

    number: int
    kind: str
    chunk: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """One chunk.

    Attributes:
        chunk: its number, counted from the first generated chunk.
        video: its frames, uint8 `[T, h, w, 3]` on the CPU; given frames precede those of chunk 0.
        state: the decoded hidden state of the same chunk, uint8 `[t, h, w, 3]`; None if none was denoised.
        attention: shares of the attention of its last denoising pass, by adastate.stream.attention_probe.KINDS; empty
            if the session does not measure them.
        prompt, keys: those in effect.
        denoise_s, decode_s: seconds for all sessions of the step, and for this one.
        receipts: the controls that took effect.
    """

    chunk: int
    video: Tensor
    state: Tensor | None
    attention: dict[str, float]
    prompt: str
    keys: str
    denoise_s: float
    decode_s: float
    receipts: tuple[Receipt, ...]
