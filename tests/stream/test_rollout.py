"""The loop: its passes and draws, where it may start and stop, and where gradients go (law 9)."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import PlacedNoise, RecordedNoise, SampleNoise
from adastate.models.masks import teacher_forcing
from adastate.models.wan import DiT
from adastate.stream import Exits, StateCache, StreamSpec, prefill
from adastate.stream.rollout import rollout
from adastate.stream.teacher_forcing import teacher_forced_chunks
from adastate.types import Chunk, Memory
from tests.support.tiny import SHAPE, Drawn, Marked, NetStudent, TaggedStudent, normal, random_net, slots, spec

LEVELS = {"denoising_steps": (1000, 750, 250)}
STAIRS = {"schedule": "staircase", "anchor": "none", "state_frames": 0, "past_frames": 9, "position": "absolute"}


class Still:
    """Velocity 0 at any levels, with keys of one number."""

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        memory.stage(0, torch.zeros(1, x.shape[1], 1, 1), torch.zeros(1, x.shape[1], 1, 1))
        return torch.zeros_like(x)


def run(student: Any, s: StreamSpec, chunks: int, **kwargs: Any) -> list[Chunk]:
    return list(rollout(student, Drawn(), StateCache(s), chunks, SHAPE, **kwargs))


# ---- passes and draws


@pytest.mark.parametrize("exit_level", [0, 1, 2, None])
def test_exit_level(student: NetStudent, exit_level: int | None) -> None:
    s, noise = spec(**LEVELS), Drawn()
    last = 2 if exit_level is None else exit_level
    chunks = list(rollout(student, noise, StateCache(s), 2, SHAPE, Exits(exit_level)))
    assert [c.passes for c in chunks] == [last + 2] * 2
    times = [float(t[0, 0]) for _, t, _, _ in student.passes]
    assert times == [*s.timesteps[: last + 1], 0.0] * 2
    assert noise.asked == [(4, *SHAPE)] * (2 * (last + 1)), "fresh noise over [state | chunk], once a level"
    assert [memory.keeps for _, _, memory, _ in student.passes] == ([False] * (last + 1) + [True]) * 2
    for chunk, (x, t, _, v) in zip(chunks, student.passes[last :: last + 2], strict=True):
        assert torch.equal(chunk.content, flow.to_x0(x, v, t, s.timestep_shift)[:, 1:])


@pytest.mark.parametrize("exit_level", [-1, 3])
def test_an_exit_level_that_does_not_exist(student: NetStudent, exit_level: int) -> None:
    with pytest.raises(ValueError, match=f"exit level {exit_level} does not exist: the schedule has 3 levels for it"):
        run(student, spec(**LEVELS), 1, exits=Exits(exit_level))


def test_levels_are_consistency_sampling(student: NetStudent) -> None:
    """x0 of each level, re-noised with fresh noise to the next; the clean pass takes x0 as it is."""
    s = spec(**LEVELS)
    draws = [normal(1, 4, *SHAPE, seed=i) for i in range(3)]
    with torch.no_grad():
        (chunk,) = rollout(student, RecordedNoise(draws), StateCache(s), 1, SHAPE)
    x = draws[0]
    for (got, t, _, v), draw, then in zip(student.passes[:2], draws[1:], s.timesteps[1:], strict=True):
        assert torch.equal(got, x)
        x = flow.add_noise(flow.to_x0(x, v, t, s.timestep_shift), draw, torch.full((1, 4), then), s.timestep_shift)
    assert chunk.state is not None
    assert torch.equal(student.passes[3][0], torch.cat([chunk.state, chunk.content], 1))


def test_context_renoise_takes_one_more_draw(student: NetStudent) -> None:
    s = spec(context_renoise=True, context_noise=20.0)
    noise = Drawn()
    (chunk,) = rollout(student, noise, StateCache(s), 1, SHAPE)
    assert len(noise.asked) == 3
    x, t, _, _ = student.passes[-1]
    assert float(t[0, 0]) == 20
    again = Drawn()
    draw = [again.normal(*shape) for shape in noise.asked][-1]
    clean = torch.cat([chunk.state, chunk.content], 1) if chunk.state is not None else chunk.content
    assert torch.equal(x, flow.add_noise(clean, draw, t, s.timestep_shift))


class Places(PlacedNoise):
    """Notes the places that are drawn from: (chunk, level, kind)."""

    def __init__(self) -> None:
        super().__init__(0, [0])
        self.asked: list[tuple[int, int, str]] = []

    def at(self, chunk: int, level: int, kind: str) -> SampleNoise:
        self.asked.append((chunk, level, kind))
        return super().at(chunk, level, kind)


@pytest.mark.parametrize("variant", [{}, {"anchor": "none", "state_frames": 0}, STAIRS], ids=str)
@torch.no_grad()
def test_every_draw_of_a_stream_has_a_place_of_its_own(variant: dict[str, Any]) -> None:
    """Noise of the clean pass, too, which is of no level. The same numbers twice would tie frames to each other."""
    noise, s = Places(), spec(context_renoise=True, context_noise=20.0, **variant)
    list(rollout(Still(), noise, StateCache(s), 3, (1, 1, 1)))
    assert len(noise.asked) == len(set(noise.asked)) == 3 * 3 * (2 if s.anchor == "state" else 1)
    assert {level for _, level, _ in noise.asked} == {0, 1, -1}


def test_context_noise_alone_leaves_the_input(student: NetStudent) -> None:
    (chunk,) = run(student, spec(context_noise=20.0), 1)
    x, t, _, _ = student.passes[-1]
    assert float(t[0, 0]) == 20 and torch.equal(x[:, 1:], chunk.content)


def test_recorded_noise_must_last(student: NetStudent) -> None:
    draws = [normal(1, 4, *SHAPE, seed=i) for i in range(3)]
    with pytest.raises(ValueError, match=r"draw 3 of shape \(4, 4, 4, 6\) was not recorded: only 3 were"):
        list(rollout(student, RecordedNoise(draws), StateCache(spec()), 2, SHAPE))
    with pytest.raises(
        ValueError, match=r"recorded draw 0 is \(3, 4, 4, 6\) a row, the rollout asks for \(4, 4, 4, 6\)"
    ):
        list(rollout(student, RecordedNoise([normal(1, 3, *SHAPE)]), StateCache(spec()), 1, SHAPE))


def test_a_chunk_is_shown_before_its_clean_pass() -> None:
    tagged, cache = TaggedStudent(), StateCache(spec())
    chunks = rollout(tagged, Drawn(), cache, 2, (1, 1, 1))
    next(chunks)
    assert (len(tagged.times), cache.chunks) == (2, 0)
    next(chunks)
    assert (len(tagged.times), cache.chunks) == (5, 1)
    assert next(chunks, None) is None
    assert (len(tagged.times), cache.chunks, cache.frames) == (6, 2, 6)


def test_the_last_clean_pass_can_be_spared() -> None:
    tagged, cache = TaggedStudent(), StateCache(spec())
    list(rollout(tagged, Drawn(), cache, 2, (1, 1, 1), finish=False))
    assert (len(tagged.times), cache.chunks) == (5, 1)


@pytest.mark.parametrize("variant", [{}, STAIRS], ids=str)
def test_chunks_are_numbered_along_the_stream(variant: dict[str, Any]) -> None:
    chunks = run(Still(), spec(chunk_frames=2, **variant), 3)
    assert [(c.index, c.start, c.frames) for c in chunks] == [(0, 0, 2), (1, 2, 2), (2, 4, 2)]


# ---- clocks of the state


@pytest.mark.parametrize("init", ["denoised", "first_frame"])
@torch.no_grad()
def test_a_frame_of_the_state_stays_until_its_clock_strikes(student: NetStudent, init: str) -> None:
    s = spec(state_frames=3, past_frames=3, state_update_every=(1, 4, 100), state_init=init)
    for cache in (StateCache(s), StateCache(s, layers=len(student.net.blocks))):
        written, first = [], None
        for chunk in rollout(student, Drawn(), cache, 7, SHAPE):
            if not chunk.index:  # which is emitted before its clean pass
                continue
            assert cache.anchor is not None
            written.append(cache.anchor.written)
            last = cache.anchor.drop_first(2).keys[0]
            first = last if first is None else first
            assert torch.equal(last, first), "as the first chunk left it"
        assert written == [(c, c // 4 * 4, 0) for c in range(6)]


@torch.no_grad()
def test_clocks_that_all_strike_at_every_chunk_change_nothing(student: NetStudent) -> None:
    plain, ticking = spec(state_frames=2), spec(state_frames=2, state_update_every=(1, 1))
    for a, b in zip(*(rollout(student, Drawn(), StateCache(s), 4, SHAPE) for s in (plain, ticking)), strict=True):
        assert torch.equal(a.content, b.content)


# ---- given frames


@pytest.mark.parametrize(
    ("frames", "first_alone", "blocks"), [(6, False, [3, 3]), (7, True, [1, 3, 3]), (1, True, [1])]
)
def test_given_frames_are_cached_in_blocks(frames: int, first_alone: bool, blocks: list[int]) -> None:
    tagged, cache = TaggedStudent(), StateCache(spec(context_noise=50.0))
    prefill(tagged, cache, torch.zeros(1, frames, 1, 1, 1), first_alone)
    assert [len(view.places.chunk) for view in tagged.views] == blocks
    assert tagged.times == [0.0] * len(blocks), "at t = 0, whatever the context noise"
    assert all(view.places.state == () for view in tagged.views)
    assert (cache.frames, cache.chunks) == (frames, len(blocks))


@pytest.mark.parametrize(
    ("variant", "first", "second"),
    [
        ({}, "0@1 1@2 2@3", "S@0 3@1 4@2 5@3"),
        ({"state_init": "first_frame"}, "0@0 1@2 2@3", "S@0 3@1 4@2 5@3"),
        ({"anchor": "static"}, "0@0 1@2 2@3", "0@0 3@1 4@2 5@3"),
        ({"past_frames": 2}, "1@1 2@2", "S@0 4@1 5@2"),
    ],
)
def test_what_stands_where_after_given_frames(variant: dict[str, Any], first: str, second: str) -> None:
    """Right-aligned; the state's slot stays empty until one is denoised, unless the first frame is the state."""
    tagged, cache = TaggedStudent(), StateCache(spec(denoising_steps=(1000,), **variant))
    prefill(tagged, cache, torch.zeros(1, 3, 1, 1, 1))
    list(rollout(tagged, Drawn(), cache, 2, (1, 1, 1)))
    denoising = tagged.views[1::2]
    assert [" ".join(slots(view)) for view in denoising] == [first, second]
    if cache.spec.anchor == "state":
        assert {view.places.state for view in denoising} == {(0,)}


def test_frames_that_do_not_divide_are_an_error_with_both_numbers() -> None:
    for frames, first_alone in ((4, False), (6, True), (0, True)):
        with pytest.raises(ValueError, match=f"{frames} given frames do not divide into blocks of 3"):
            prefill(TaggedStudent(), StateCache(spec()), torch.zeros(1, frames, 1, 1, 1), first_alone)


@torch.no_grad()
def test_given_frames_stand_for_streamed_ones(student: NetStudent) -> None:
    """What was streamed, given to a fresh stream, is gone on with as if nothing had happened."""
    s = spec(anchor="static", position="absolute", past_frames=4)
    noise, cache = Drawn(), StateCache(s)
    chunks = list(rollout(student, noise, cache, 3, SHAPE))
    resumed, replay = StateCache(s), Drawn()
    for shape in noise.asked[:4]:
        replay.normal(*shape)
    prefill(student, resumed, torch.cat([c.content for c in chunks[:2]], 1))
    (again,) = rollout(student, replay, resumed, 1, SHAPE)
    assert again.start == 6 and torch.equal(again.content, chunks[2].content)


def test_given_frames_leave_no_graph(student: NetStudent) -> None:
    cache = StateCache(spec())
    prefill(student, cache, normal(1, 3, *SHAPE))
    assert cache.window is not None and not cache.window.keys[0].requires_grad


# ---- gradients


def reach(variant: dict[str, Any], exit_level: int, chunks: int = 4) -> list[set[str]]:
    """For every chunk the passes on which its content hangs, as "exit 0" or "clean 1" (the chunk of the pass)."""
    student = Marked(random_net())
    s = spec(**variant)
    out = run(student, s, chunks, exits=Exits(exit_level), grad=True)
    names = [f"level {i} of {c}" for c in range(chunks) for i in (*range(exit_level), "exit", "clean")]
    names = [n.replace("level exit of", "exit").replace("level clean of", "clean") for n in names]
    found = []
    for chunk in out:
        loss = chunk.content.square().sum()
        grads = torch.autograd.grad(loss, student.marks, retain_graph=True, allow_unused=True)
        found.append({n for n, g in zip(names, grads, strict=True) if g is not None and g != 0})
    return found


exits = pytest.mark.parametrize("exit_level", [0, 1])


@exits
@pytest.mark.parametrize(
    "variant", [{}, {"state_visibility": "replace"}, {"anchor": "none", "state_frames": 0}], ids=str
)
def test_law_9_detached_no_gradient_crosses_chunks(variant: dict[str, Any], exit_level: int) -> None:
    assert reach(variant, exit_level) == [{f"exit {c}"} for c in range(4)]


@exits
def test_law_9_straight_through_reaches_the_exit_passes_before(exit_level: int) -> None:
    variant = {"cache_grad": "straight_through", "past_frames": 3}
    assert reach(variant, exit_level, 3) == [{"exit 0"}, {"exit 0", "exit 1"}, {"exit 0", "exit 1", "exit 2"}]


@exits
@pytest.mark.parametrize("k", [1, 2])
def test_law_9_state_grad_reaches_the_previous_state_s_clean_pass(k: int, exit_level: int) -> None:
    found = reach({"state_grad": k}, exit_level)
    assert {"exit 0", "clean 0", "exit 1"} <= found[1], "chunk 1 teaches the state of chunk 0"


@exits
@pytest.mark.parametrize("k", [1, 2])
def test_law_9_state_grad_is_truncated_after_k_chunks(k: int, exit_level: int) -> None:
    """Backpropagation through time reaches k chunks back and no farther, or a long rollout would not fit in memory."""
    for chunk, passes in enumerate(reach({"state_grad": k}, exit_level)):
        assert all(int(name.split()[-1]) >= chunk - k for name in passes), f"chunk {chunk} hangs on {sorted(passes)}"


def test_law_9_only_the_state_stays_attached(student: NetStudent) -> None:
    cache = StateCache(spec(state_grad=1))
    list(rollout(student, Drawn(), cache, 1, SHAPE, grad=True))
    assert cache.anchor is not None and cache.window is not None
    assert all(k.requires_grad for k in cache.anchor.keys)
    assert not any(k.requires_grad for k in (*cache.window.keys, *cache.window.values))


@pytest.mark.parametrize("variant", [{}, {"cache_grad": "straight_through"}, {"state_grad": 1}], ids=str)
@exits
def test_law_9_the_values_do_not_depend_on_the_gradient(variant: dict[str, Any], exit_level: int) -> None:
    """Training sees what inference shows: the modes differ in their graphs only."""

    def frames(s: StreamSpec, grad: bool) -> Tensor:
        chunks = run(NetStudent(random_net()), s, 3, exits=Exits(exit_level), grad=grad)
        assert all(c.content.requires_grad == grad for c in chunks)
        return torch.cat([c.content for c in chunks], 1).detach()

    assert torch.allclose(frames(spec(**variant), True), frames(spec(), False), atol=1e-6)


@pytest.mark.parametrize("variant", [{}, {"cache_grad": "straight_through"}, {"state_grad": 1}], ids=str)
@exits
def test_law_9_checkpointing_changes_no_gradient(variant: dict[str, Any], exit_level: int) -> None:
    """Recomputation reads the memory again, after the stream has gone on."""

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        net = random_net(checkpointing=checkpointing)
        chunks = run(NetStudent(net), spec(**variant), 3, exits=Exits(exit_level), grad=True)
        torch.cat([c.content for c in chunks], 1).square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    plain, saving = gradients(False), gradients(True)
    assert plain.keys() == saving.keys()
    for name, g in plain.items():
        assert torch.allclose(g, saving[name], rtol=1e-5, atol=1e-5 * float(g.abs().max())), name


@pytest.mark.parametrize("learnt_from", [True, False])
def test_a_graph_that_nothing_goes_back_through_is_let_go(learnt_from: bool) -> None:
    """A pass that would be run again holds its memory; if that held the pass's keys in turn, both would stay for ever,
    with all activations: once an iteration for the last state, which teaches nobody."""
    cache = StateCache(spec(state_grad=1))
    chunks = list(rollout(NetStudent(random_net(checkpointing=True)), Drawn(), cache, 2, SHAPE, grad=True))
    if learnt_from:
        torch.cat([c.content for c in chunks], 1).square().sum().backward()
    latest = weakref.ref(cache.latest)
    del cache, chunks
    gc.collect()
    assert latest() is None


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_the_consumer_keeps_his_grad_mode(student: NetStudent, outside: bool, grad: bool) -> None:
    chunks = rollout(student, Drawn(), StateCache(spec()), 3, SHAPE, grad=grad)
    with torch.set_grad_enabled(outside):
        for chunk in chunks:
            assert torch.is_grad_enabled() == outside
            assert chunk.content.requires_grad == grad, "and the stream keeps its own"
        assert torch.is_grad_enabled() == outside


def test_leaving_a_stream_early_leaves_the_grad_mode(student: NetStudent) -> None:
    chunks = rollout(student, Drawn(), StateCache(spec()), 3, SHAPE)
    next(chunks)
    chunks.close()
    assert torch.is_grad_enabled()


@exits
def test_only_the_exit_pass_runs_with_gradient(exit_level: int) -> None:
    student = Marked(random_net())
    run(student, spec(), 2, exits=Exits(exit_level), grad=True)
    assert student.graph == ([False] * exit_level + [True, False]) * 2


# ---- teacher forcing through the cache


@pytest.mark.parametrize("past", [None, 2, 3])
@torch.no_grad()
def test_forced_is_the_masked_forward(net: DiT, past: int | None) -> None:
    s = spec(anchor="none", state_frames=0, chunk_frames=2, past_frames=past, position="absolute")
    clean, noisy = normal(1, 8, *SHAPE, seed=1), normal(1, 8, *SHAPE, seed=2)
    t = torch.tensor([[900.0, 500, 20, 700]]).repeat_interleave(2, 1)
    student = NetStudent(net)
    got = torch.cat(
        list(teacher_forced_chunks(student, StateCache(s), noisy.split(2, 1), clean.split(2, 1), t.split(2, 1))), 1
    )
    times = torch.cat([torch.zeros_like(t), t], 1)
    both = torch.cat([clean, noisy], 1)
    positions = [*range(8)] * 2
    expected = net(both, times, student.text, positions=positions, visible=teacher_forcing(8, 2, past))[:, 8:]
    assert torch.allclose(got, expected, atol=2e-5)
    if past is not None:
        other = net(both, times, student.text, positions=positions, visible=teacher_forcing(8, 2))[:, 8:]
        assert not torch.allclose(got, other, atol=1e-3), "the window matters"


@torch.no_grad()
def test_forced_sees_what_a_stream_sees(net: DiT) -> None:
    """Fed with a stream's own states and chunks it predicts the stream's own flows."""
    student, again, s = NetStudent(net), NetStudent(net), spec(state_visibility="replace")
    run(student, s, 4)
    noisy, clean = student.passes[1::3], student.passes[2::3]
    flows = list(
        teacher_forced_chunks(again, StateCache(s), [p[0] for p in noisy], [p[0] for p in clean], [p[1] for p in noisy])
    )
    for got, (*_, expected) in zip(flows, noisy, strict=True):
        assert torch.equal(got, expected)


def test_forced_has_gradient_in_the_noisy_passes_only(net: DiT) -> None:
    student = Marked(net)
    x, t = [normal(1, 4, *SHAPE, seed=i) for i in range(2)], [torch.full((1, 4), 500.0)] * 2
    assert all(v.requires_grad for v in teacher_forced_chunks(student, StateCache(spec()), x, x, t))
    assert student.graph == [True, False] * 2


def test_what_no_pass_has_left_is_not_committed() -> None:
    cache = StateCache(spec())
    for keep in (True, False):  # before its pass has run, and for one that keeps nothing
        with pytest.raises(RuntimeError, match="commit needs a view made with keep=True, after its pass has run"):
            cache.commit(cache.view(3, 1, clean=True, keep=keep))
