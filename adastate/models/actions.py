"""Actions as a network takes them: the columns of a latent frame, and a last one that says whether they are given.

All zeros is "not given": the layer that takes them has no bias, so that nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor


def given(actions: Num[Tensor, "B F A"]) -> Float[Tensor, "B F A1"]:
    """Actions with the column that says so, float32."""
    return torch.cat([actions.float(), actions.new_ones(*actions.shape[:-1], 1, dtype=torch.float32)], -1)


def not_given(flagged: Float[Tensor, "B F A1"], dropped: Bool[Tensor, " B"]) -> Float[Tensor, "B F A1"]:
    """`flagged`, taken back in the samples that are `dropped`."""
    return flagged * (~dropped).to(flagged)[:, None, None]


def check_actions(flagged: Float[Tensor, " ..."], columns: int, batch_frames: Sequence[int]) -> None:
    """Raises ValueError for actions that are not `[B, F, columns + 1]`; B and F may be 1 of `batch_frames`, or it."""
    if not columns:
        raise ValueError("this network cannot be steered: its size has no `actions`")
    fits = flagged.dim() == 3 and all(1 in (a, b) or a == b for a, b in zip(flagged.shape, batch_frames, strict=False))
    if not fits or flagged.shape[-1] != columns + 1:
        raise ValueError(
            f"actions of shape {list(flagged.shape)}, the network takes {columns} columns and their flag for each "
            f"frame: {[*batch_frames, columns + 1]}"
        )


class Steering:
    """How streams are steered: the actions of every latent frame, by its number in the stream, on the host.

    A frame has the same ones in every pass over it, whichever chunk it belongs to: denoised, written, or written again
    after a prompt switch or a restart. A state has no number and no actions. Nothing is given for frames before
    `first`; beyond the last row that row holds, as a stick does that nobody moves.

    Args:
        flagged: `[B, F, A + 1]`, see `given`; one row serves any number of streams.
        first: number of the frame of the first of F.
    """

    def __init__(self, flagged: Float[Tensor, "B F A1"], first: int = 0) -> None:
        self.flagged, self.first = flagged.detach().float().cpu(), first
        self._next = first
        """The first frame for which no pass has asked."""
        self._lock = Lock()

    @classmethod
    def of(cls, actions: Steering | Num[Tensor, "B F A"] | None, first: int = 0) -> Steering | None:
        """Of actions without a flag, all of them given; None of None, and what is one already stays it."""
        return actions if actions is None or isinstance(actions, Steering) else cls(given(actions), first)

    def rows(self, frames: Sequence[int | None]) -> Float[Tensor, "B n A1"] | None:
        """Of frames with these numbers, and of states (None), on the host; None where nothing is given."""
        with self._lock:
            flagged, first = self.flagged, self.first
            self._next = max([self._next, *(n + 1 for n in frames if n is not None)])
        last = flagged.shape[1] - 1
        told = {i: min(n - first, last) for i, n in enumerate(frames) if n is not None and n >= first and last >= 0}
        found = flagged.new_zeros(len(flagged), len(frames), flagged.shape[-1])
        found[:, list(told)] = flagged[:, list(told.values())]
        return found if bool(found.any()) else None

    def steer(self, flagged: Float[Tensor, "B F A1"]) -> int:
        """New actions from the first frame on for which no pass has asked yet; returns its number.

        Another thread may call it while a stream runs: a chunk that has begun is finished as it began.
        """
        flagged = flagged.detach().float().cpu()
        with self._lock:
            at = self._next - self.first
            if self.flagged.shape[1] == 0:
                self.flagged, self.first = flagged, self._next
            else:
                before = self.flagged[:, :at]
                held = before[:, -1:].expand(-1, at - before.shape[1], -1) if at else before
                self.flagged = torch.cat([before, held, flagged], 1)
            return self._next

    def forget(self, before: int) -> None:
        """Lets go of the actions of frames for which no pass will ask again, so that a stream without end may go on."""
        with self._lock:
            past = min(before - self.first, self.flagged.shape[1] - 1)
            if past > 0:
                self.flagged, self.first = self.flagged[:, past:].clone(), self.first + past

    def fork(self) -> Steering:
        """A second one that has told the same so far."""
        with self._lock:
            other = Steering(self.flagged, self.first)
            other._next = self._next
            return other

    def saved(self) -> dict[str, Any]:
        """Plain data for `restored`."""
        with self._lock:
            return {"flagged": self.flagged, "first": self.first, "next": self._next}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Steering:
        made = cls(state["flagged"], state["first"])
        made._next = state["next"]
        return made
