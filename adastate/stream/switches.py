"""A change of the prompt within a stream, and what happens to the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

P_co = TypeVar("P_co", covariant=True)

Kind = Literal["keep", "recache", "flush", "cut"]
Fate = Literal["keep", "reset"]
"""What happens to the anchor."""


@dataclass(frozen=True)
class SwitchPolicy:
    """What happens to the cache when the prompt changes within a stream; text keys are always recomputed.

    Attributes:
        kind: `keep` leaves the cache unchanged; `recache` encodes the last frames again with the new prompt, in one
            pass in which they see each other; `flush` drops the past except for its last frames; `cut` flushes, and
            places the first chunk with the new prompt at `position`, far from the past.
        frames: how many frames are encoded again (default: as many as the window has places) or kept (default 2).
        anchor: whether the anchor, a state too, stays or begins anew.
        position: slot of the first chunk after a cut.
        keeps: which frames a flush keeps. `newest`: the newest of the window. `last_places`: those in the last places
            that the full window has, as Infinity-RoPE's code takes them, with the first frame of a static anchor in
            front: what stood there when it was last full, and empty frames, of zeros, if it never was.
    """

    kind: Kind = "keep"
    frames: int | None = None
    anchor: Fate = "keep"
    position: int = 45
    keeps: Literal["newest", "last_places"] = "newest"

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 0:
            raise ValueError(f"switch.frames is {self.frames}; it counts latent frames")

    def turned(self, kind: Kind | None, anchor: Fate | None = None) -> SwitchPolicy:
        """This policy with another kind of switch, or another treatment of the anchor, where requested."""
        # counts that belong to another kind mean nothing to this one
        base = self if kind in (None, self.kind) else SwitchPolicy(kind=kind, keeps=self.keeps, anchor=self.anchor)
        return base if anchor is None else replace(base, anchor=anchor)

    @property
    def kept(self) -> int:
        """Past frames that a flush keeps."""
        return 2 if self.frames is None else self.frames


@dataclass(frozen=True)
class PromptSwitch(Generic[P_co]):
    """A new prompt within a stream. Mappings have it by its time, the first chunk that it applies to.

    Attributes:
        prompt: in the form that the stream's function takes: a network with the prompt bound for `rollout`, one text
            per row for `Student.stream`.
        policy: what happens to the cache; None takes the stream's own, `StreamSpec.switch`.
    """

    prompt: P_co
    policy: SwitchPolicy | None = None
