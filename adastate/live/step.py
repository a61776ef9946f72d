"""What a session hands out for each chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Receipt:
    """What became of a control.

    Attributes:
        number: of the control in its session.
        kind: prompt or act.
        chunk: in which it took effect.
        seconds: from the request until that chunk's pictures were there.
    """

    number: int
    kind: str
    chunk: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """One chunk.

    Attributes:
        chunk: its number, counted from the first that was made.
        video: its pictures, uint8 `[T, h, w, 3]` on the CPU; what was given stands before those of chunk 0.
        state: the decoded hidden state of the same chunk, uint8 `[t, h, w, 3]`; None where none was denoised.
        attention: shares of the attention of its last denoising pass, by adastate.stream.attention_probe.KINDS; empty
            where the session does not measure them.
        prompt, keys: that were in force.
        denoise_s, decode_s: seconds for all sessions of the step, and for this one.
        receipts: of the controls that took effect.
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
