"""The fast passes equal the plain ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adastate.models.rope import rope_table
from adastate.models.video_network import is_whole
from adastate.models.wan.fused import Streamer
from adastate.stream import PromptSwitch, StateCache, StreamSpec, SwitchPolicy
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, VARIANTS, Drawn, NetStudent, named, normal, random_net, read_system, spec

SYSTEMS = ("causvid", "longlive", "longlive_slot", "rolling_forcing", "reward_forcing", "infinity_rope", "memrope",
           "rolling_sink", "adastate_s3_w9")  # fmt: skip


def both(s: StreamSpec, chunks: int = 6, batch: int = 2, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    """The same stream with plain and with fast passes, from the same noise."""
    net = random_net(replace(SIZE, rope_max_frames=2048))
    text = normal(batch, SIZE.text_tokens, SIZE.text_width, seed=7)
    plain = NetStudent(net, text)
    with torch.no_grad():
        fast = Streamer(net, net.text_keys(text), dtype)
        made = []
        for student in (plain, fast):
            switches = {k: PromptSwitch(student, v) for k, v in kwargs.get("switches", {}).items()}
            chunks_ = rollout(student, Drawn(batch=batch), StateCache(s), chunks, SHAPE, switches=switches)
            made.append([torch.cat([c.content, *([] if c.state is None else [c.state])], 1) for c in chunks_])
    return made


def off(made: Any) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(*made, strict=True))


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_streams_with_a_state(variant: dict[str, Any]) -> None:
    assert off(both(spec(**variant))) < 2e-5


@pytest.mark.parametrize("system", SYSTEMS)
def test_compared_systems(system: str) -> None:
    assert off(both(read_system(system), 9)) < 5e-5


def test_a_cut_and_a_flush_where_queries_stand_apart_from_their_keys() -> None:
    s = replace(read_system("infinity_rope"), past_frames=5)
    assert off(both(s, 8, switches={4: SwitchPolicy("flush", 2), 6: SwitchPolicy("cut", 2)})) < 5e-5


def test_bfloat16_is_within_rounding() -> None:
    plain, fast = both(spec(denoising_steps=(1000,)), 2, dtype=torch.bfloat16)
    for a, b in zip(plain, fast, strict=True):
        assert 0 < (a - b).norm() / a.norm() < 2e-2


def test_one_timestep_a_pass_is_known_without_asking_the_device() -> None:
    net = random_net()
    text = normal(1, SIZE.text_tokens, SIZE.text_width)
    fast = Streamer(net, net.text_keys(text))
    cache = StateCache(spec())
    list(rollout(fast, Drawn(), cache, 3, SHAPE))
    assert set(fast.passes._levels) == {*cache.spec.timesteps, 0.0}


def test_pieces_of_weights_are_not_taken_for_whole_ones() -> None:
    net = random_net()
    assert is_whole(net)
    net.head.head.bias.data = torch.empty(0)
    assert not is_whole(net)


@pytest.mark.parametrize("slab", [False, True])
def test_what_a_stream_makes_and_remembers_can_be_part_of_a_graph(slab: bool) -> None:
    """Passes run in inference mode, whose tensors no graph may keep: none of them gets out."""
    rope_table.cache_clear()  # the first to ask is the stream
    net = random_net()
    text = normal(1, SIZE.text_tokens, SIZE.text_width)
    cache = StateCache(spec(), layers=SIZE.layers if slab else None)
    with torch.no_grad():
        keys = net.text_keys(text)
        made = list(rollout(Streamer(net, keys), Drawn(), cache, 3, SHAPE))
    for chunk in made:
        assert not chunk.content.is_inference() and chunk.state is not None and not chunk.state.is_inference()
    assert cache.window is not None and cache.anchor is not None
    assert not any(t.is_inference() for kept in (cache.window, cache.anchor) for t in (*kept.keys, *kept.values))
    if not slab:  # which refuses gradients
        x = torch.cat([made[0].state, made[0].content], 1)
        view = cache.view(spec().chunk_frames, spec().state_frames)
        net(x, torch.full(x.shape[:2], 500.0), keys, memory=view).square().sum().backward()
        assert all(block.self_attn.k.weight.grad is not None for block in net.blocks)
