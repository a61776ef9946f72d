"""Streams whose memory lies in preallocated places equal those whose memory is made anew with every commit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adastate.models.wan.fused import Streamer
from adastate.stream import PromptSwitch, StateCache, StreamSpec, SwitchPolicy, kv_slab
from adastate.stream.kv_frames import TensorFrames
from adastate.stream.kv_slab import Slab, SlabFrames, SlabMemory
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, VARIANTS, Drawn, named, normal, random_net, read_system, spec

SYSTEMS = ("adastate", "adastate_s1_w6", "adastate_s3_w9", "causal_forcing", "causvid", "infinity_rope", "longlive",
           "longlive_slot", "memrope", "reward_forcing", "rolling_forcing", "self_forcing")  # fmt: skip
SWITCHES = ("keep", "recache", "flush", "cut")


def both(
    s: StreamSpec, chunks: int = 8, switches: dict[int, SwitchPolicy] | None = None
) -> tuple[list[Any], StateCache]:
    """The same stream from the same noise without and with a slab; a switch brings a new prompt."""
    net = random_net(replace(SIZE, rope_max_frames=2048))
    prompts = [normal(2, SIZE.text_tokens, SIZE.text_width, seed=seed) for seed in (7, 8)]
    with torch.no_grad():
        first, second = (Streamer(net, net.text_keys(text)) for text in prompts)
        made = []
        for layers in (None, SIZE.layers):
            cache = StateCache(s, layers=layers)
            at = {k: PromptSwitch(second, v) for k, v in (switches or {}).items()}
            stream = rollout(first, Drawn(batch=2), cache, chunks, SHAPE, switches=at)
            made.append([torch.cat([c.content, *([] if c.state is None else [c.state])], 1) for c in stream])
    return made, cache


def off(made: list[Any]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(*made, strict=True))


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_streams_with_a_state(variant: dict[str, Any]) -> None:
    made, cache = both(spec(**variant))
    assert off(made) < 2e-5
    assert isinstance(cache.anchor, SlabFrames)


@pytest.mark.parametrize("system", SYSTEMS)
def test_compared_systems(system: str) -> None:
    made, cache = both(read_system(system), 11)
    assert off(made) < 5e-5
    assert isinstance(cache.window, SlabFrames)


@pytest.mark.parametrize("kind", SWITCHES)
@pytest.mark.parametrize("anchor", ["keep", "reset"])
@pytest.mark.parametrize("system", ["adastate", "adastate_s3_w9", "longlive_slot", "infinity_rope"])
def test_prompt_switches(system: str, anchor: Any, kind: Any) -> None:
    s = read_system(system)
    made, _ = both(
        s, 9, {4: SwitchPolicy(kind, 2 if kind in ("flush", "cut") else None, anchor), 6: SwitchPolicy(kind, 0, anchor)}
    )
    assert off(made) < 5e-5


@pytest.mark.parametrize("past", [2, 5])
def test_flushes_before_the_window_is_full_and_soon_after_one_another(past: int) -> None:
    s = replace(read_system("infinity_rope"), past_frames=past)
    assert off(both(s, 8, {at: s.switch for at in (1, 4, 5)})[0]) < 5e-5


def test_an_average_without_static_frames() -> None:
    assert off(both(replace(read_system("memrope"), state_frames=0), 9)[0]) < 5e-5


def test_a_stream_that_restarts() -> None:
    s = replace(read_system("causvid"), restart_frames=12, restart_overlap=3)
    assert off(both(s, 9)[0]) < 5e-5


def test_an_average_that_changes_and_stays_at_its_place_is_turned_anew() -> None:
    """Without a window nothing else moves that would have its keys turned."""
    s = replace(read_system("reward_forcing"), past_frames=0, decay=(0.5,))
    made, cache = both(s, 5)
    assert off(made) < 2e-5
    assert isinstance(cache.anchor, SlabFrames)


def test_ping_pong_shows_a_frame_twice_and_keeps_to_frames_of_its_own() -> None:
    made, cache = both(read_system("rolling_sink"), 9)
    assert off(made) == 0
    assert isinstance(cache.window, TensorFrames)


@pytest.mark.parametrize("system", ["adastate", "adastate_s3_w9", "longlive", "memrope", "infinity_rope"])
def test_nothing_is_allocated_and_nothing_is_hidden_once_the_window_is_full(system: str) -> None:
    s = read_system(system)
    net, text = random_net(), normal(1, SIZE.text_tokens, SIZE.text_width)
    where, masks, shown = set(), set(), set()

    with torch.no_grad():
        passes = Streamer(net, net.text_keys(text))

        def student(x: torch.Tensor, t: torch.Tensor, view: Any) -> torch.Tensor:
            flow = passes(x, t, view)
            if view.slab_memory is not None and cache.generated > 8:
                slab = view.slab_memory.slab
                where.add((slab.keys.data_ptr(), slab.values.data_ptr(), slab.keys.shape))
                masks.add(view.visible)
                shown.add(view.slab_memory.shown)
            return flow

        cache = StateCache(s, layers=SIZE.layers)
        list(rollout(student, Drawn(), cache, 40, SHAPE))
    assert len(where) == 1
    assert masks == {None}
    assert shown == {s.places}


@torch.no_grad()
def test_what_a_switch_forgets_leaves_its_places_at_once() -> None:
    """They are there for the next pass, so that a switch costs no room."""
    s, net = spec(past_frames=6), random_net()
    cache = StateCache(s, layers=SIZE.layers)
    student = Streamer(net, net.text_keys(normal(1, SIZE.text_tokens, SIZE.text_width)))
    list(rollout(student, Drawn(), cache, 4, SHAPE))
    cache.forget(2, anchor=True)
    assert cache.window is not None and cache.anchor is None
    others = cache._slab.free(s.places - 2)
    assert {*others, *cache.window.places} == set(range(s.places))


def test_what_a_flush_leaves_out_gives_its_places_up_at_once() -> None:
    s = replace(read_system("infinity_rope"), past_frames=5)
    _, cache = both(s, 5)
    cache.flush_to_last_places(2)
    held = {*cache.anchor.places, *cache.window.places, *cache.last_places.places}
    free = cache._slab.free(s.places)
    assert not held & set(free) and max(free) < len(held) + s.places


@torch.no_grad()
def test_a_pass_over_a_whole_slab_notes_where_its_own_keys_are() -> None:
    """Else the next pass would rotate keys that are in their places, or would take others for such."""
    s, net = spec(), random_net()
    cache = StateCache(s, layers=SIZE.layers)
    student = Streamer(net, net.text_keys(normal(1, SIZE.text_tokens, SIZE.text_width)))
    list(rollout(student, Drawn(), cache, 6, SHAPE))
    memory = cache.view(s.chunk_frames, cache.state_queries).slab_memory
    assert memory is not None and memory.slab_tensors(lambda k, at: k, False) is not None
    assert [memory.slab._at[place] for place in memory.own] == list(memory.indices)


def test_rows_that_inference_asked_for_first_serve_training() -> None:
    with torch.inference_mode():
        rows = kv_slab._index((5, 2), 3, torch.device("cpu"))
    assert rows.tolist() == [15, 16, 17, 6, 7, 8] and not rows.is_inference()


@pytest.mark.parametrize("learning", ["keys", "values"])
def test_passes_with_gradient_are_refused(learning: str) -> None:
    slab = Slab(1, 2, rotates=True)
    k, v = (torch.zeros(1, 4, 1, 2, requires_grad=name == learning) for name in ("keys", "values"))
    with pytest.raises(RuntimeError, match="a slab changes in place"):
        SlabMemory(slab, {}, (0,), (0,)).join(0, k, k, v, lambda x, at: x)


def test_room_grows_without_losing_what_is_there() -> None:
    s = spec(anchor="static", position="absolute", past_frames=None)
    made, cache = both(s, 12)
    assert off(made) < 2e-5 and s.places == 4 * s.chunk_frames
    assert cache.window is not None
    assert cache.window.count + cache.anchor.count == 36
    assert cache._slab.places == 4 * 12, "room for four passes to begin with, then twice as much each time"
