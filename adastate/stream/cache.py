"""StateCache: the anchor slot and the window of a stream. It is made by the caller and passed in.

Cached keys have three names. **Frames** (`CachedFrames`) are keys and values of some latent frames: in tensors of their
own (`TensorFrames`), or in places of a slab (`SlabFrames`). A **slab** (`Slab`) is preallocated room for such places. A
**memory** (`Memory`) is what one pass reads and where it leaves its own keys: here `PassMemory`, over a slab with the
help of `SlabMemory`.

Three verbs. `view` gives a network pass its memory; nothing that a memory refers to ever changes, so it stays right
under activation checkpointing, which reads again in backward.
`commit` takes what the clean pass left: the new state's keys and values replace the old state's, the chunk's
enter the window, the oldest frames leave it. `reset` forgets. Bookkeeping is host integers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adastate.stream.backward_order import after_output
from adastate.stream.kv_frames import HIDDEN, CachedFrames, TensorFrames, straight_through
from adastate.stream.kv_slab import Slab, SlabFrames, SlabMemory
from adastate.stream.positions import FramePositions, layout
from adastate.stream.spec import StreamSpec
from adastate.types import FrameMask, Positions, Probe, Rotate, SlabTensors

_Memo = dict[tuple[object, ...], tuple[Tensor, Tensor]]


class StateCache:
    """What a stream remembers.

    Args:
        spec: the stream's choices.
        probe: called at every attention of every pass, for measurements.
        layers: of a network that runs without gradient: its keys and values then have places in a Slab. Without,
            every commit makes new tensors, which a graph may hold on to.
    """

    def __init__(self, spec: StreamSpec, probe: Probe | None = None, layers: int | None = None) -> None:
        self.spec, self.probe, self.layers = spec, probe, layers
        self.state_phase = 0
        """Where `state_grad` cuts: see Exits."""
        self._slab: Slab | None = None
        if layers is not None and probe is None and spec.anchor_kind.in_slab:
            rotates = spec.anchor_kind.computed or spec.position != "absolute"
            self._slab = Slab(layers, spec.places, rotates)
        self.reset()

    def reset(self, origin: int = 0) -> None:
        """Forgets everything; the next frame counts as frame 0 again, and is frame `origin` of the stream."""
        self.anchor: CachedFrames | None = None
        self.window: CachedFrames | None = None
        if self._slab is not None:
            self._slab.reserve(())
        self.last_places: CachedFrames | None = None
        """With switch.keeps `last_places`: the newest frames of when the window was last full."""
        self.origin = origin
        self.frames = 0
        """Frames committed so far: the index of the next one."""
        self.chunks = 0
        """Commits so far."""
        self.generated = 0
        """Chunks generated so far, given frames not counted."""
        self.recent: Tensor | None = None
        """The last latents of the stream `[B, F, C, H, W]`, as many as the window has places."""
        self.shared_noise: Tensor | None = None
        self.cut: int | None = None
        """Slot of the next chunk, the first one after a cut."""
        self.latest: PassMemory | None = None
        """The view of the pass at hand, for probes."""
        self._rotated: _Memo = {}

    @property
    def state_queries(self) -> int:
        """State frames to be denoised with the next chunk."""
        queries = self.spec.anchor_kind.queries
        return 0 if queries is None else queries(self.spec, self.anchor is not None)

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in (self.anchor, self.window) if f is not None)

    @property
    def tokens(self) -> int:
        """Cached keys per layer and sample."""
        return sum(f.keys[0].shape[1] for f in (self.anchor, self.window) if f is not None)

    def view(
        self, frames: int, state_queries: int, clean: bool = False, keep: bool = False, recache: bool = False
    ) -> PassMemory:
        """Memory for one pass over [state_queries state frames | frames content frames].

        Args:
            clean: the clean pass, which may be barred from the old state.
            keep: keep what the pass stages, for `commit`.
            recache: the content takes the places of past frames.
        """
        k = self.spec.state_grad
        if self.anchor is not None and k and (self.chunks + self.state_phase) % (k + 1) == 0:
            # for all passes of the chunk, and for frames that stay in the anchor: one would carry the graph on
            self.anchor = self.anchor.detach()
        anchor = self.anchor
        if clean and not self.spec.clean_pass_sees_old_state and state_queries:
            anchor = None
        places = layout(
            self.spec,
            anchor.source if anchor else (),
            self.window.source if self.window else (),
            state_queries,
            self.frames,
            frames,
            clean,
            self.cut,
            recache,
        )
        self.latest = PassMemory(self.spec, anchor, self.window, places, self._rotated, keep, self.probe, self._slab)
        self.latest.recache, self.latest.clean = recache, clean
        first = self.origin + self.frames
        self.latest.stream_frames = (None,) * state_queries + tuple(range(first, first + frames))
        return self.latest

    def commit(self, clean: PassMemory, exit: PassMemory | None = None, counts: bool = True) -> None:
        """Takes what the clean pass staged.

        Args:
            exit: with straight-through gradients, the view of the exit pass, which begins with the same frames.
            counts: False for frames that are written again and not new.
        """
        written = clean.staged(self.frames, self.chunks)
        if exit is not None:
            written = straight_through(written, exit.staged(self.frames, self.chunks).first(written.count))
        elif not self.spec.state_grad:
            written = written.detach()
        for view in filter(None, (clean, exit)):
            view.let_go()
        queries = clean.state_queries
        state = written.first(queries) if queries else None
        chunk = written.drop_first(queries)
        if self.spec.state_grad:
            chunk = chunk.detach()
        grown = chunk if self.window is None else self.window.append(chunk)
        if self._slab is not None:
            self._slab.reserve((self.anchor, grown, state, self.last_places))
        if self.spec.switch.keeps == "last_places":
            held = grown.count + (self.anchor.count if self.anchor is not None else 0)
            if held >= (self.spec.window_frames or math.inf):
                self.last_places = grown.last(self.spec.switch.kept).compact()
        # here the new state takes the old one's place, and the oldest frames leave the window
        self.anchor, window = self.spec.anchor_kind.update(self.spec, self.anchor, state, grown)
        self.window = window.compact() if window.count else None
        self.anchor = self.anchor.compact() if self.anchor is not None else None
        self._settle()
        self.frames += chunk.count
        self.chunks += counts
        self.cut = None
        self._rotated = {}

    def remember(self, content: Tensor) -> None:
        """Keeps the newest latents `[B, F, C, H, W]`, which a prompt switch or a restart encodes again."""
        content = content.detach()
        grown = content if self.recent is None else torch.cat([self.recent, content], 1)
        places = self.spec.window_frames
        most = grown.shape[1] if places is None else max(places, self.spec.restart_overlap)
        self.recent = grown if grown.shape[1] <= most else grown[:, -most:].clone()  # no view that holds the others

    def forget(self, past: int, anchor: bool) -> None:
        """Drops all but the newest `past` frames of the window, and the anchor if told so."""
        if self.window is not None:
            kept = self.window.last(past)
            self.window = kept.compact() if kept.count else None
        if anchor:
            self.anchor = None
        self._settle()
        self._rotated = {}

    def flush_to_last_places(self, count: int) -> None:
        """Begins anew with the stream's first frame and the `count` last places of the window: see SwitchPolicy."""
        assert self.anchor is not None
        kept = self.last_places
        if kept is None:
            one = self.anchor.first(1)
            keys, values = (
                tuple(torch.zeros_like(x).repeat(1, count, 1, 1) for x in part) for part in (one.keys, one.values)
            )
            kept = TensorFrames(keys, values, (HIDDEN,) * count, (self.chunks,) * count)
            kept = kept if self._slab is None else self._slab.store(kept)
        anchor, window = self.spec.anchor_kind.update(
            self.spec, None, None, self.anchor.first(1).append(kept.last(count))
        )
        self.anchor = anchor.compact() if anchor is not None else None
        self.window = window.compact() if window.count else None
        self._settle()
        self._rotated = {}

    def _settle(self) -> None:
        """Gives everything that is kept its places, and all others up."""
        if self._slab is None:
            return
        if self.anchor is not None and not isinstance(self.anchor, SlabFrames):
            self._slab.reserve((self.window, self.last_places))  # an average may take the place of the one before it
            self.anchor = self._slab.store(self.anchor)
        self._slab.reserve((self.anchor, self.window, self.last_places))


class PassMemory:
    """The `Memory` of one pass (adastate.types)."""

    def __init__(
        self,
        spec: StreamSpec,
        anchor: CachedFrames | None,
        window: CachedFrames | None,
        places: FramePositions,
        rotated: _Memo,
        keep: bool,
        probe: Probe | None,
        slab: Slab | None = None,
    ) -> None:
        self._context: list[tuple[Any, tuple[int, ...], Positions]] = []
        if anchor is not None and places.anchor_frames:
            self._context.append((anchor, places.anchor_frames, places.anchor))
        if window is not None and places.past_frames:
            newest = tuple(range(window.count - places.past_frames, window.count))
            self._context.append((window, newest, places.past))
        self._where = (places.anchor_frames, places.anchor, places.past)
        self._rotated, self.keeps = rotated, keep
        self._staged: dict[int, tuple[Tensor, Tensor]] = {}
        self.places, self.probe = places, probe
        self.recache = self.clean = False
        """Whether it is for a pass over frames that are written again, and whether for a clean one."""
        self.stream_frames: tuple[int | None, ...] = ()
        self.visible = _visible(spec, places)
        self._grows = spec.past_frames is None
        self.slab_memory = self._slab_memory(slab) if slab is not None else None
        if self.slab_memory is not None and (self.visible is not None or not self.slab_memory.full):
            self.visible = self._by_place(self.slab_memory)

    @property
    def query_positions(self) -> Positions:
        return self.places.state + self.places.query

    @property
    def key_positions(self) -> Positions:
        return self.places.state + self.places.chunk

    @property
    def state_queries(self) -> int:
        return len(self.places.state)

    def join(self, layer: int, raw: Tensor | None, k: Tensor, v: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor]:
        if self.slab_memory is not None:
            return self.slab_memory.join(layer, raw if self.keeps else None, k, v, rotate)
        past = self.read(layer, rotate)
        if raw is not None:
            self.stage(layer, raw.to(k.dtype), v)  # which may come in the float32 of the norm
        return (k, v) if past is None else (torch.cat([past[0], k], 1), torch.cat([past[1], v], 1))

    def slab_tensors(self, rotate: Rotate) -> SlabTensors | None:
        if self.slab_memory is None or self.visible is not None or self._grows:
            return None
        return self.slab_memory.slab_tensors(rotate, self.keeps)

    def read(self, layer: int, rotate: Rotate) -> tuple[Tensor, Tensor] | None:
        """Rotated keys and values `[B, L, N, K]` of the remembered frames, or None if there are none."""
        if not self._context:
            return None
        # The passes of a chunk see the same cache at the same places: rotate once. Not where keys carry a graph: a
        # pass without gradient would leave copies that cut it, for the exit pass and for recomputation.
        attached = any(t.requires_grad for f, *_ in self._context for t in (f.keys[layer], f.values[layer]))
        memo = (layer, *self._where)
        if not attached and memo in self._rotated:
            return self._rotated[memo]
        raw, v = self.remembered(layer)
        k = rotate(raw, self.remembered_positions)
        if not attached:
            self._rotated[memo] = (k, v)
        return k, v

    def remembered(self, layer: int) -> tuple[Tensor, Tensor]:
        """Raw keys and values `[B, L, N, K]` of the remembered frames, of which there are some."""
        parts = [f.take(layer, which) for f, which, _ in self._context]
        return _join([k for k, _ in parts]), _join([v for _, v in parts])

    @property
    def remembered_positions(self) -> Positions:
        """RoPE indices of the remembered frames."""
        return tuple(i for *_, at in self._context for i in at)

    def stage(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Takes the pass's own raw keys and values `[B, L, N, K]`."""
        if self.keeps:
            self._staged.setdefault(layer, (k, v))  # not again when checkpointing recomputes the pass

    def staged(self, start: int, chunk: int) -> Any:
        """What the pass left, [state | chunk], as frames of the stream from `start` on."""
        state, content = len(self.places.state), len(self.places.chunk)
        source = (HIDDEN,) * state + tuple(range(start, start + content))
        if self.slab_memory is not None and self.keeps:
            return SlabFrames(self.slab_memory.slab, self.slab_memory.own, source, (chunk,) * len(source))
        if not self._staged:
            raise RuntimeError("commit needs a view made with keep=True, after its pass has run")
        layers = [self._staged[i] for i in range(len(self._staged))]
        return TensorFrames(tuple(k for k, _ in layers), tuple(v for _, v in layers), source, (chunk,) * len(source))

    def follow(self, output: Tensor) -> None:
        """Has what the pass left learn after its `output`, see adastate.stream.backward_order."""
        kept = after_output(output, [t for pair in self._staged.values() for t in pair])
        self._staged = dict(zip(self._staged, zip(kept[::2], kept[1::2], strict=True), strict=True))

    def let_go(self) -> None:
        """Of the graph: a pass that is run again holds this, and unless something goes back through it, for ever."""
        self._staged = {layer: (k.detach(), v.detach()) for layer, (k, v) in self._staged.items()}

    def _slab_memory(self, slab: Slab) -> SlabMemory:
        context = {
            frames.places[i]: index for frames, which, at in self._context for i, index in zip(which, at, strict=True)
        }
        return SlabMemory(slab, context, slab.free(len(self.key_positions)), self.key_positions)

    def _by_place(self, memory: SlabMemory) -> FrameMask | None:
        """The mask with its columns in the order in which keys lie; what is there and not in view is hidden."""
        order = (*memory.context, *memory.own)
        rows = self.visible or ((True,) * len(order),) * len(self.key_positions)
        lie = [{place: seen for place, seen in zip(order, row, strict=True) if seen} for row in rows]
        return tuple(tuple(place in seen for place in range(memory.shown)) for seen in lie)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _visible(spec: StreamSpec, places: FramePositions) -> FrameMask | None:
    """Rows [state | chunk] over columns [anchor | past | state | chunk]; None where all see all."""
    if not places.state or spec.state_visibility == "both":
        return None
    old, past, new, own = (len(p) for p in (places.anchor, places.past, places.state, places.chunk))
    state = (True,) * (old + past + new + own)
    if spec.state_visibility == "previous":
        chunk = (True,) * (old + past) + (False,) * new + (True,) * own
    else:
        chunk = (False,) * old + (True,) * (past + new + own)
    return (state,) * new + (chunk,) * own
