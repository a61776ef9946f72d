"""The laws of a stream (docs/guide/method.md), a test each. Law 2: test_recorded_streams.py; law 8: test_cost.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.encoders import TinyCodec
from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.rope import rope_table
from adastate.models.rope import rotate as turn
from adastate.models.wan import DiT
from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.cache import PassMemory
from adastate.stream.rollout import rollout
from adastate.types import Chunk, Memory, Rotate
from tests.support.stream_rig import content, stream
from tests.support.tiny import (
    DOT,
    GRID,
    SHAPE,
    SIZE,
    VARIANTS,
    NetStudent,
    TaggedStudent,
    named,
    random_net,
    spec,
    visible,
)

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=named)


# ---- 1


def masked_flows(student: NetStudent, chunks: list[Chunk], size: int, levels: int) -> tuple[list[Tensor], list[Tensor]]:
    """What one masked forward gives for (each level over all chunks, all clean passes), and what the cache gave."""
    clean, frames = content(chunks), size * len(chunks)
    text, zeros = student.text, torch.zeros(1, frames)
    expected, got = [], []
    for level in range(levels):
        passes = student.passes[level :: levels + 1]
        noisy, t = torch.cat([p[0] for p in passes], 1), torch.cat([p[1] for p in passes], 1)
        both, times = torch.cat([clean, noisy], 1), torch.cat([zeros, t], 1)
        mask = teacher_forcing(frames, size)
        expected.append(student.net(both, times, text, positions=[*range(frames)] * 2, visible=mask)[:, frames:])
        got.append(torch.cat([p[3] for p in passes], 1))
    expected.append(student.net(clean, zeros, text, visible=block_causal(frames, size)))
    got.append(torch.cat([p[3] for p in student.passes[levels :: levels + 1]], 1))
    return expected, got


NO_STATE = {"anchor": "none", "state_frames": 0, "denoising_steps": (1000, 750, 250)}
ROOMY: dict[str, dict[str, Any]] = {
    "absolute": {"position": "absolute", "past_frames": None},
    "absolute, window just large enough": {"position": "absolute", "past_frames": 9},
    "growing slots": {"warmup": "growing", "past_frames": None},
    "fixed slots": {"warmup": "fixed", "past_frames": 12},
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("window", ROOMY)
@torch.no_grad()
def test_law_1_the_cache_equals_one_masked_forward(student: NetStudent, size: int, window: str) -> None:
    chunks = stream(student, StateCache(spec(**NO_STATE, chunk_frames=size, **ROOMY[window])), 4)
    for expected, got in zip(*masked_flows(student, chunks, size, 3), strict=True):
        assert torch.allclose(expected, got, atol=2e-5)


@torch.no_grad()
def test_law_1_fails_for_a_window_that_forgets(student: NetStudent) -> None:
    chunks = stream(student, StateCache(spec(**NO_STATE, position="absolute", past_frames=8)), 4)
    distances = [(a - b).abs().max() for a, b in zip(*masked_flows(student, chunks, 3, 3), strict=True)]
    assert min(distances) > 1e-3


# ---- 3


def aged(cache: StateCache, chunks: int) -> StateCache:
    """A cache with the same contents in the same order, so many chunks later."""
    older, frames = StateCache(cache.spec), chunks * cache.spec.chunk_frames

    def shift(f: Any) -> Any:
        source = tuple(s if s < 0 else s + frames for s in f.source)
        return replace(f, source=source, written=tuple(w + chunks for w in f.written))

    older.anchor = shift(cache.anchor) if cache.anchor is not None else None
    older.window = shift(cache.window) if cache.window is not None else None
    older.frames, older.chunks = cache.frames + frames, cache.chunks + chunks
    older.generated = cache.generated + chunks
    return older


@every_variant
@pytest.mark.parametrize("full", [0, 7], ids=["from the start", "window full"])
def test_law_3_the_same_contents_give_the_same_bits_a_hundred_chunks_later(
    student: NetStudent, variant: dict[str, Any], full: int
) -> None:
    cache = StateCache(spec(**variant))
    stream(student, cache, full)
    later = aged(cache, 100)
    here, there = stream(student, cache, 2, seed=1), stream(student, later, 2, seed=1)
    assert [c.index + 100 for c in here] == [c.index for c in there]
    assert [c.start + 100 * cache.spec.chunk_frames for c in here] == [c.start for c in there]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.content, b.content)
        assert (a.state is None and b.state is None) or torch.equal(a.state, b.state)


def test_law_3_does_not_hold_in_absolute_time(student: NetStudent) -> None:
    """A static anchor stays where it was, so the distance to it grows: this is what slots do away with."""
    cache = StateCache(spec(anchor="static", position="absolute"))
    stream(student, cache, 4)
    later = aged(cache, 100)
    assert later.anchor is not None and cache.anchor is not None
    later.anchor = replace(later.anchor, source=cache.anchor.source)
    here, there = stream(student, cache, 1, seed=1), stream(student, later, 1, seed=1)
    assert not torch.allclose(content(here), content(there), atol=1e-3)


@every_variant
def test_law_3_positions_shapes_and_keys_are_the_same_at_every_chunk(variant: dict[str, Any]) -> None:
    tagged, s = TaggedStudent(), spec(**variant)
    stream(tagged, StateCache(s), 30)
    per, warm = len(s.timesteps) + 1, 8 * 3  # no window here takes more than 8 chunks to fill
    for level in range(per):
        views: list[PassMemory] = tagged.views[warm + level :: per]
        assert len({(v.places, v.visible, len(visible(v))) for v in views}) == 1
    assert len({len(read) for read in tagged.read[warm:]}) <= 2, "the clean pass may see less, not more"


@torch.no_grad()
def test_absolute_time_ends_with_the_table_and_slots_do_not() -> None:
    student = NetStudent(random_net(replace(DOT, rope_max_frames=8)))
    with pytest.raises(ValueError, match="position 8 lies outside the 8 rows of the RoPE table: use slot positions"):
        stream(student, StateCache(spec(anchor="static", position="absolute")), 3)
    assert len(stream(student, StateCache(spec()), 9)) == 9


# ---- 4


class RotatedOnWrite:
    """Another cache, as Self-Forcing keeps it: keys are rotated when they are written and never again."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def memory(self, view: Any, clean: bool) -> Memory:
        kept, grid = self.kept, (GRID[0] // 2, GRID[1] // 2)

        class Pass:
            query_positions = key_positions = view.query_positions
            visible, probe, keeps = view.visible, None, True

            def join(self, layer: int, raw: Tensor, k: Tensor, v: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor]:
                view.stage(layer, raw, v)
                k = turn(raw, rope_table(view.query_positions, *grid, k.shape[-1], 1024, k.device))
                old = kept.get(layer)
                both = (k, v) if old is None else (torch.cat([old[0], k], 1), torch.cat([old[1], v], 1))
                if clean:
                    kept[layer] = both
                return both

        return Pass()


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-6), ("bfloat16", 5e-2)])
def test_law_4_rotating_on_read_is_rotating_on_write(dtype: str | None, tolerance: float) -> None:
    on_read, other = NetStudent(random_net(compute_dtype=dtype)), RotatedOnWrite()
    s = spec(anchor="none", state_frames=0, position="absolute", past_frames=None)

    def on_write(x: Tensor, t: Tensor, view: Memory) -> Tensor:
        return on_read.net(x, t, on_read.text, memory=other.memory(view, clean=float(t[0, 0]) == 0))

    a, b = content(stream(on_read, StateCache(s), 4)), content(stream(on_write, StateCache(s), 4))
    assert torch.allclose(a, b, atol=tolerance)
    assert sum(k.shape[1] for k, _ in other.kept.values()) == 4 * 3 * 6 * SIZE.layers


# ---- 5


def check_no_noisy_keys(tagged: TaggedStudent, s: StreamSpec, levels: int) -> None:
    """Every key read was made by the clean pass of the chunk that the cache says, at its own row of that pass."""
    clean_of = [n + 1 for n, t in enumerate(tagged.times) if t == s.context_noise]
    assert len(clean_of) * (levels + 1) == len(tagged.times)
    for read, view in zip(tagged.read, tagged.views, strict=True):
        assert len(read) == len(visible(view))
        for (maker, row), (source, _, written) in zip(read, visible(view), strict=True):
            assert maker == clean_of[written]
            queries = len(tagged.views[maker - 1].places.state)
            assert row == source - written * s.chunk_frames + queries if source >= 0 else row < queries


ANCHORS: tuple[dict[str, Any], ...] = (
    {"anchor": "none", "state_frames": 0},
    {"anchor": "static", "state_frames": 2, "past_frames": 4},
    {"anchor": "static", "state_frames": 2, "position": "absolute"},
    {"context_noise": 30.0, "context_renoise": True},
)


@pytest.mark.parametrize("variant", [*VARIANTS, *ANCHORS], ids=named)
@pytest.mark.parametrize("exit_level", [0, 1])
def test_law_5_no_key_outside_the_pass_is_noisy(variant: dict[str, Any], exit_level: int) -> None:
    tagged, s = TaggedStudent(), spec(**variant)
    stream(tagged, StateCache(s), 8, exits=Exits(exit_level))
    check_no_noisy_keys(tagged, s, exit_level + 1)


class KeepsNoisyKeys(StateCache):
    """Wrong on purpose: commits what the first denoising pass left."""

    def view(self, frames: int, state_queries: int, clean: bool = False, keep: bool = False) -> PassMemory:
        view = super().view(frames, state_queries, clean, keep=True)
        if not clean:
            self.noisy = view
        return view

    def commit(self, clean: PassMemory, exit: PassMemory | None = None) -> None:
        super().commit(self.noisy)


def test_law_5_sees_a_cache_that_keeps_noisy_keys() -> None:
    tagged, s = TaggedStudent(), spec()
    stream(tagged, KeepsNoisyKeys(s), 3)
    with pytest.raises(AssertionError):
        check_no_noisy_keys(tagged, s, 2)


@every_variant
def test_law_5_holds_in_the_net(net: DiT, variant: dict[str, Any]) -> None:
    """Poison: what a noisy pass left becomes nan when the pass is over. Nothing notices."""
    plain, poisoned = NetStudent(net), Poisoner(net)
    a, b = stream(plain, StateCache(spec(**variant)), 4), stream(poisoned, StateCache(spec(**variant)), 4)
    assert poisoned.spoilt == 4 * 2 * SIZE.layers
    assert torch.equal(content(a), content(b))


class Poisoner(NetStudent):
    """Spoils all keys and values that a noisy pass has handed over, after it."""

    spoilt = 0

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        left: list[tuple[Tensor, ...]] = []
        join = memory.join

        def watched(layer: int, raw: Tensor | None, k: Tensor, v: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor]:
            left.append((k, v) if raw is None else (raw, k, v))
            return join(layer, raw, k, v, rotate)

        memory.join = watched
        flow = super().__call__(x, t, memory)
        if float(t[0, 0]) > 0:
            self.spoilt += len(left)
            for layer in left:
                for own in layer:
                    own.fill_(float("nan"))
        return flow


# ---- 6


class WithoutStateQueries(StateCache):
    state_queries = 0


@pytest.mark.parametrize("warmup", ["fixed", "growing"])
@pytest.mark.parametrize(("frames", "past"), [(1, 3), (3, 3), (3, 6), (2, 2)])
def test_law_6_a_state_written_once_is_the_static_anchor(
    student: NetStudent, frames: int, past: int, warmup: str
) -> None:
    shared = {"state_frames": frames, "past_frames": past, "warmup": warmup}
    once = WithoutStateQueries(spec(**shared, state_init="first_frame"))
    static = StateCache(spec(**shared, anchor="static"))
    a, b = stream(student, once, 5), stream(student, static, 5)
    assert once.anchor is not None and once.anchor.source == tuple(range(frames)) and set(once.anchor.written) == {0}
    assert all(c.state is None for c in (*a, *b))
    assert torch.equal(content(a), content(b))


def test_law_6_fails_for_a_state_that_evolves(student: NetStudent) -> None:
    evolving = stream(student, StateCache(spec(state_init="first_frame")), 3)
    static = stream(student, StateCache(spec(anchor="static")), 3)
    assert torch.equal(evolving[0].content, static[0].content), "the first chunk has no state to see"
    assert not torch.allclose(evolving[2].content, static[2].content, atol=1e-3)


# ---- 7


def watch(net: DiT, variant: dict[str, Any], decode: bool) -> tuple[Tensor, list[Chunk]]:
    """Pictures of a stream, and the stream; with `decode` its states are decoded between the chunks, too."""
    torch.manual_seed(3)
    codec, hidden = TinyCodec(None, width=4, channels=SIZE.channels, group=2), 0
    shown, screen, chunks = codec.stream(), [], []
    noise = SampleNoise(5, 0, [0], "stream")
    torch.manual_seed(4)
    with torch.no_grad():
        for chunk in rollout(NetStudent(net), noise, StateCache(spec(**variant)), 4, SHAPE):
            screen.append(shown.decode(chunk.content))
            if decode and chunk.state is not None:
                hidden += codec.stream().decode(chunk.state).shape[1]
                torch.rand(7)  # whoever looks at the state may draw what he likes
            chunks.append(chunk)
    states = [c.state for c in chunks if c.state is not None]
    assert not decode or hidden == sum(s.shape[1] for s in states) * 2 > 0
    return torch.cat(screen, 1), chunks


@every_variant
def test_law_7_the_state_is_never_shown_and_decoding_it_changes_nothing(net: DiT, variant: dict[str, Any]) -> None:
    s = spec(**variant)
    video, chunks = watch(net, variant, decode=False)
    watched, _ = watch(net, variant, decode=True)
    assert torch.equal(video, watched)
    assert video.shape[1] == 4 * s.chunk_frames * 2, "video frames of the content alone"
    for c in chunks:
        assert c.frames == s.chunk_frames
        if c.state is not None:
            assert c.state.shape[1] == s.state_frames
            assert all(not torch.allclose(a, b, atol=1e-2) for a in c.content.unbind(1) for b in c.state.unbind(1))
    assert sum(c.state is None for c in chunks) == (1 if s.state_init == "first_frame" else 0)


def test_law_7_state_and_content_are_the_rows_of_the_last_denoising_pass(student: NetStudent) -> None:
    chunks = stream(student, StateCache(spec(state_frames=2)), 3)
    for chunk, clean in zip(chunks, student.passes[2::3], strict=True):
        assert chunk.state is not None
        assert torch.equal(torch.cat([chunk.state, chunk.content], 1), clean[0]), "the clean pass takes [state | chunk]"
