"""Actions in a network's format: the columns of a latent frame, and a last column that says whether they are given.

All zeros means "not given": the layer that takes them has no bias, so nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor


def given(actions: Num[Tensor, "B F A"]) -> Float[Tensor, "B F A1"]:
    """Actions with the added flag column, set to given; float32."""
    return torch.cat([actions.float(), actions.new_ones(*actions.shape[:-1], 1, dtype=torch.float32)], -1)


def not_given(flagged: Float[Tensor, "B F A1"], dropped: Bool[Tensor, " B"]) -> Float[Tensor, "B F A1"]:
    """`flagged`, reset to not given in the samples that are `dropped`."""
    return flagged * (~dropped).to(flagged)[:, None, None]


def check_actions(flagged: Float[Tensor, " ..."], columns: int, batch_frames: Sequence[int]) -> None:
    """Raises ValueError for actions that are not `[B, F, columns + 1]`; B and F must be 1 or equal `batch_frames`."""
    if not columns:
        raise ValueError("this network cannot be steered: its size has no `actions`")
    fits = flagged.dim() == 3 and all(1 in (a, b) or a == b for a, b in zip(flagged.shape, batch_frames, strict=False))
    if not fits or flagged.shape[-1] != columns + 1:
        raise ValueError(
            f"actions of shape {list(flagged.shape)}, the network takes {columns} columns and their flag for each "
            f"frame: {[*batch_frames, columns + 1]}"
        )


class Steering:
    """How streams are steered: the actions of every latent frame, by its index in the stream, on the host.

    A frame has the same actions in every pass over it, whichever chunk it belongs to: denoised, written, or written
    again after a prompt switch or a restart. A state has no index and no actions. Nothing is given for frames before
    `first`; frames beyond the last row use that row, like a stick that is held.

    Args:
        flagged: `[B, F, A + 1]`, see `given`; a single row serves any number of streams.
        first: index of the first of the F frames.
    """

    def __init__(self, flagged: Float[Tensor, "B F A1"], first: int = 0) -> None:
        self.flagged, self.first = flagged.detach().float().cpu(), first
        self._next = first
        """The first frame that no pass has requested."""
        self._lock = Lock()

    @classmethod
    def of(cls, actions: Steering | Num[Tensor, "B F A"] | None, first: int = 0) -> Steering | None:
        """From actions without a flag, all of them given; None stays None, and a Steering is returned unchanged."""
        return actions if actions is None or isinstance(actions, Steering) else cls(given(actions), first)

    def rows(self, frames: Sequence[int | None]) -> Float[Tensor, "B n A1"] | None:
        """For frames with these indices, and for states (None), on the host; None if nothing is given."""
        with self._lock:
            flagged, first = self.flagged, self.first
            self._next = max([self._next, *(n + 1 for n in frames if n is not None)])
        last = flagged.shape[1] - 1
        told = {i: min(n - first, last) for i, n in enumerate(frames) if n is not None and n >= first and last >= 0}
        found = flagged.new_zeros(len(flagged), len(frames), flagged.shape[-1])
        found[:, list(told)] = flagged[:, list(told.values())]
        return found if bool(found.any()) else None

    def steer(self, flagged: Float[Tensor, "B F A1"]) -> int:
        """Sets new actions from the first frame that no pass has requested yet; returns its index.

        May be called from another thread while a stream runs: a chunk that has begun is finished with its old actions.
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
        """Discards the actions of frames that no pass will request again, to bound the memory of endless streams."""
        with self._lock:
            past = min(before - self.first, self.flagged.shape[1] - 1)
            if past > 0:
                self.flagged, self.first = self.flagged[:, past:].clone(), self.first + past

    def fork(self) -> Steering:
        """A second Steering with the same actions so far."""
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
