"""Types that are shared between modules, and the letters of tensor axes.

Legend of shapes, in docstrings and jaxtyping annotations:

    B batch   F latent frames   S state frames   C latent channels   H W latent grid
    L tokens  D width           N heads          K head dim          T video frames   h w pixels

Lq are the query tokens, where they differ from those of the keys. Other names are written in full, or explained where
they occur. Public functions have the annotations in this file, in diffusion, metrics, media/video.py,
training/rewards.py and, of models, in actions, activation, attention, modulation, norm and rope. Tests check every new
combination of shapes that passes there (tests/support/shapes.py); nothing is checked in production.

Latents are `[B, F, C, H, W]` and video is `[B, T, 3, h, w]` in [-1, 1] everywhere in this project.
Frame positions are host integers, so that no pass waits for the device to learn the position of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

Positions = tuple[int, ...]
"""One RoPE time index per latent frame."""

FrameMask = tuple[tuple[bool, ...], ...]
"""Which key frames each query frame sees: rows are queries, columns are keys."""

Rotate = Callable[[Float[Tensor, "*batch L N K"], Positions], Float[Tensor, "*batch L N K"]]
"""Rotates raw keys to the given frame positions."""

Probe = Callable[[int, Float[Tensor, "B Lq N K"], Float[Tensor, "B L N K"], FrameMask | None], None]
"""Receives (layer, rotated queries, rotated keys, frame mask) of every attention of a pass; for measurements."""


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def one_level(batch: int, frames: int, t: float, device: torch.device) -> Float[Tensor, "{batch} {frames}"]:
    """Timesteps, all equal to `t`. Read-only, because it is shared. `host_level` reads `t` without a device sync."""
    t = float(t)  # a file may say 100
    times = torch.full((batch, frames), t, device=device)
    times.host_level = t  # type: ignore[attr-defined]
    return times


def host_level(t: Num[Tensor, " ..."]) -> float | None:
    """The value of timesteps made by `one_level`; None for others."""
    return getattr(t, "host_level", None)


class SlabOwner(Protocol):
    """A stream's memory, which a captured pass may move to the tensors that it was captured on."""

    keys: Float[Tensor, "layers B L N K"] | None
    values: Float[Tensor, "layers B L N K"] | None
    raw: Float[Tensor, "layers B L N K"] | None


class SlabTensors(NamedTuple):
    """The tensors of a slab (adastate.stream.kv_slab), for passes that are compiled or captured once.

    All of their content is in view; the pass writes its own tokens to `rows`.
    """

    keys: Float[Tensor, "layers B L N K"]  # rotated
    values: Float[Tensor, "layers B L N K"]
    raw: Float[Tensor, "layers B L N K"] | None  # where raw keys are kept
    rows: Int64[Tensor, " own"]
    owner: SlabOwner


class Memory(Protocol):
    """What one network pass reads besides its own tokens, and where it writes its own keys and values."""

    @property
    def query_positions(self) -> Positions: ...

    @property
    def key_positions(self) -> Positions:
        """Positions of the pass's own keys: those of its queries, with rare exceptions."""

    @property
    def stream_frames(self) -> tuple[int | None, ...]:
        """Index in the stream of the frame of each query, regardless of restarts; None for a state."""

    @property
    def visible(self) -> FrameMask | None:
        """Columns are the frames in the order in which `join` gives them; None means all are seen."""

    @property
    def clean(self) -> bool:
        """Whether the pass only writes the cache, so that its velocity is not used."""

    @property
    def keeps(self) -> bool:
        """Whether `join` needs raw keys, to keep them."""

    def join(
        self,
        layer: int,
        raw: Float[Tensor, "B Lq N K"] | None,
        k: Float[Tensor, "B Lq N K"],
        v: Float[Tensor, "B Lq N K"],
        rotate: Rotate,
    ) -> tuple[Float[Tensor, "B L N K"], Float[Tensor, "B L N K"]]:
        """Stores a pass's own keys, raw and rotated, and values; returns those of all frames in view."""

    def slab_tensors(self, rotate: Rotate) -> SlabTensors | None:
        """The same memory for a pass that writes to it directly; None while its shape still changes."""

    @property
    def probe(self) -> Probe | None:
        """Called at every attention; usually None."""


class TokenSplit(Protocol):
    """How P ranks share the tokens of a pass over the same frames (adastate.distributed.sequence_split).

    A network begins a pass with `own`, attends between `heads` and `tokens`, and ends with `whole`.
    """

    @property
    def degree(self) -> int:
        """P."""

    def own(self, tokens: Num[Tensor, " ..."], frames: int, axis: int = 1) -> Num[Tensor, " ..."]:
        """This rank's share of every frame's tokens, which lie along `axis`."""

    def whole(self, tokens: Float[Tensor, "B own D"], frames: int) -> Float[Tensor, "B L D"]:
        """All tokens, of all ranks' shares."""

    def heads(self, frames: int, *parts: Float[Tensor, "B own N K"]) -> tuple[Float[Tensor, "B L heads K"], ...]:
        """All tokens of this rank's heads, `[B, L, N / P, K]` each, from all heads of its share of the tokens."""

    def tokens(self, x: Float[Tensor, "B L heads K"], frames: int) -> Float[Tensor, "B own N K"]:
        """The inverse of `heads`."""

    def all_heads(self, x: Float[Tensor, "B L heads K"]) -> Float[Tensor, "B L N K"]:
        """The same tokens with the heads of all ranks, for attention probes and for saving."""

    def own_heads(self, x: Float[Tensor, "B L N K"]) -> Float[Tensor, "B L heads K"]:
        """This rank's heads of all."""


@dataclass(frozen=True)
class Batch:
    """One batch as the datamodules return it; fields that a stage does not need are None.

    `index` is the global sample index of every row. Randomness is a function of it, so a batch gives the same gradients
    for any number of processes (law 11).
    """

    index: Int64[Tensor, " B"]
    prompts: list[str]
    latents: Float[Tensor, "B F C H W"] | None = None  # normalised
    video: Float[Tensor, "B T 3 h w"] | None = None  # in [-1, 1]
    trajectory: Float[Tensor, "B J F C H W"] | None = None  # J levels from noise to data
    levels: Float[Tensor, " J"] | None = None  # timesteps of `trajectory`, in [0, 1000]
    actions: Float[Tensor, "B F A"] | None = None  # keys that steer the camera, 0/1 per latent frame
    next_prompts: list[str] = field(default_factory=list)  # the next prompt of each stream in long tuning

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """Like Tensor.to, for every tensor except those that the host reads: index, levels and actions. Lightning moves
        batches with it. Copies from pinned memory are asynchronous."""
        moved = self._each(lambda x: x.to(*args, **{"non_blocking": x.is_pinned(), **kwargs}))
        return replace(moved, index=self.index, levels=self.levels, actions=self.actions)

    def pin_memory(self) -> Batch:
        """In page-locked memory; data loaders call it."""
        return self._each(lambda x: x.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {f.name: change(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **cast(dict[str, Any], changed))


@dataclass(frozen=True)
class Chunk:
    """One step of a stream: its content and the state that is carried on."""

    index: int  # counts generated chunks, not given frames
    start: int  # first latent frame of the chunk in the stream
    content: Float[Tensor, "B F C H W"]  # emitted
    state: Float[Tensor, "B S C H W"] | None  # carried and never emitted; None where no state was denoised
    passes: int  # network passes spent on this chunk, the clean one included

    @property
    def frames(self) -> int:
        return self.content.shape[1]
