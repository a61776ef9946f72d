"""Streams that are steered: every pass has the actions of its own frames, and the fast passes equal the plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.models import engine
from adastate.models.actions import Steering, given
from adastate.models.wan import DiT
from adastate.stream import Exits, PromptSwitch, StateCache, StreamSpec, SwitchPolicy, prefill
from adastate.stream.passes import ExitPass
from adastate.stream.rollout import replay_rollout, rollout
from adastate.training.prompted_network import PromptedNetwork
from adastate.types import Memory
from tests.support.tiny import SHAPE, SIZE, VARIANTS, Drawn, named, normal, random_net, read_system, spec

STEERED = replace(SIZE, actions=3, rope_max_frames=2048)
TEXT = normal(2, SIZE.text_tokens, SIZE.text_width, seed=7)
FLOWN = (normal(2, 40, 3, seed=5) > 0).float()
"""Actions of two streams."""
SYSTEMS = ("causvid", "longlive", "longlive_slot", "rolling_forcing", "reward_forcing", "infinity_rope", "memrope",
           "rolling_sink", "adastate_s3_w9")  # fmt: skip


class Noted(PromptedNetwork):
    """Notes what every pass is told: numbers, and actions on the host."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[tuple[tuple[int | None, ...], Tensor | None]] = []

    def actions(self, x: Tensor, memory: Memory) -> Tensor | None:
        found = super().actions(x, memory)
        self.told.append((memory.stream_frames, found))
        return found


def steering(rows: Tensor = FLOWN, first: int = 0) -> Steering:
    return Steering(given(rows), first)


@torch.no_grad()
def made(network: Any, s: StreamSpec, chunks: int = 6, batch: int = 2, **kwargs: Any) -> Tensor:
    before = kwargs.pop("before", None)
    cache = StateCache(s, layers=kwargs.pop("layers", None))
    if before is not None:
        prefill(network, cache, before)
    switches = {k: PromptSwitch(network, v) for k, v in kwargs.pop("switches", {}).items()}
    stream = rollout(network, Drawn(batch=batch), cache, chunks, SHAPE, switches=switches, **kwargs)
    return torch.cat([torch.cat([c.content, *([] if c.state is None else [c.state])], 1) for c in stream], 1)


# ---- numbers


def check(told: Sequence[tuple[tuple[int | None, ...], Tensor | None]], first: int = 0) -> None:
    """States are told nothing, and frame n the actions of n."""
    flagged = given(FLOWN)
    for numbers, rows in told:
        assert rows is not None
        for i, n in enumerate(numbers):
            expected = torch.zeros(2, 4) if n is None or n < first else flagged[:, n - first]
            assert torch.equal(rows[:, i], expected), (numbers, n)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_pass_of_a_system_has_the_actions_of_its_own_frames(system: str) -> None:
    s = read_system(system)
    network = Noted(random_net(STEERED), TEXT, steering=steering())
    made(network, s, 9)
    check(network.told)
    content = [[n for n in numbers if n is not None] for numbers, _ in network.told]
    assert all(numbers == [*range(numbers[0], numbers[0] + len(numbers))] for numbers in content)
    assert {n for numbers in content for n in numbers} == set(range(27))
    assert max(len(numbers) for numbers in content) == (15 if s.schedule == "staircase" else 3)


def test_a_restart_writes_its_frames_again_under_their_own_numbers() -> None:
    network = Noted(random_net(STEERED), TEXT, steering=steering())
    made(network, read_system("causvid"), 9)
    again = [i for i, (numbers, _) in enumerate(network.told) if numbers == (18, 19, 20)][-1]
    assert network.told[again + 1][0] == (21, 22, 23), "the restart comes before the chunk that has no room"
    check(network.told)


def test_a_recache_writes_its_frames_again_under_their_own_numbers() -> None:
    network = Noted(random_net(STEERED), TEXT, steering=steering())
    made(network, read_system("longlive"), 6, switches={5: None})
    longest = max((numbers for numbers, _ in network.told), key=len)
    assert len(longest) > 3 and longest[-1] == 14
    check(network.told)


def test_given_frames_come_first() -> None:
    network = Noted(random_net(STEERED), TEXT, steering=steering(first=6))
    made(network, spec(), 3, before=normal(2, 6, *SHAPE))
    numbers, rows = zip(*network.told, strict=True)
    assert numbers[:2] == ((0, 1, 2), (3, 4, 5)) and rows[:2] == (None, None)
    assert numbers[2] == (None, 6, 7, 8)
    check(network.told[2:], first=6)


# ---- laws


def passes(net: DiT, fast: bool, rows: Tensor | None = FLOWN) -> PromptedNetwork:
    return PromptedNetwork(net, TEXT, fast=fast, steering=None if rows is None else steering(rows))


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_fast_passes_equal_plain_ones(variant: dict[str, Any]) -> None:
    net = random_net(STEERED)
    assert off(made(passes(net, True), spec(**variant)), made(passes(net, False), spec(**variant))) < 2e-5


@pytest.mark.parametrize("system", SYSTEMS)
def test_fast_passes_of_compared_systems_equal_plain_ones(system: str) -> None:
    net, s = random_net(STEERED), read_system(system)
    assert off(made(passes(net, True), s, 9), made(passes(net, False), s, 9)) < 5e-5


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_not_given_changes_no_bit_and_what_is_given_does(fast: bool) -> None:
    net, plain = random_net(STEERED), random_net(replace(STEERED, actions=0))
    without = made(passes(plain, fast, None), spec())
    assert torch.equal(made(passes(net, fast, None), spec()), without)
    nothing = PromptedNetwork(net, TEXT, fast=fast, steering=Steering(torch.zeros(2, 40, 4)))
    assert torch.equal(made(nothing, spec()), without)
    assert off(made(passes(net, fast), spec()), without) > 1e-2
    assert net.action_embedding is not None
    with torch.no_grad():
        net.action_embedding.weight.zero_()
    assert off(made(passes(net, fast), spec()), without) <= (2e-5 if fast else 0)


@pytest.mark.parametrize("fast", [True, False])
def test_a_chunk_depends_on_no_later_action(fast: bool) -> None:
    net, other = random_net(STEERED), FLOWN.clone()
    other[:, 6:] = 1 - other[:, 6:]
    a, b = made(passes(net, fast), spec(), 4), made(passes(net, fast, other), spec(), 4)
    assert torch.equal(a[:, :8], b[:, :8]), "two chunks of three frames and their states"
    assert off(a[:, 8:12], b[:, 8:12]) > 1e-3


@pytest.mark.parametrize("fast", [True, False])
def test_streams_are_steered_alike_alone_and_together(fast: bool) -> None:
    """One row of actions for all is the same row for each; and a row of a batch is that stream by itself."""
    net = random_net(STEERED)
    one = made(passes(net, fast, FLOWN[:1]), spec())
    assert torch.equal(one, made(passes(net, fast, FLOWN[:1].expand(2, -1, -1)), spec()))

    class Second(Drawn):
        def normal(self, *shape: int) -> Tensor:
            return super().normal(*shape)[1:]

    alone = PromptedNetwork(net, TEXT[1:], fast=fast, steering=steering(FLOWN[1:]))
    with torch.no_grad():
        stream = rollout(alone, Second(batch=2), StateCache(spec()), 6, SHAPE)
        found = torch.cat([torch.cat([c.content, c.state], 1) for c in stream if c.state is not None], 1)
    assert off(made(passes(net, fast), spec())[1:], found) < 1e-5


def test_a_stick_that_is_held_costs_one_modulation_a_level() -> None:
    network = passes(random_net(STEERED), True, FLOWN[:, :1])
    made(network, spec(), 6)
    assert network._passes is not None
    levels = [level for level, _ in network._passes._steered]
    assert sorted(levels) == sorted([*spec().timesteps, 0.0])
    many = passes(random_net(STEERED), True)
    made(many, spec(), 9)
    assert many._passes is not None and len(many._passes._steered) <= 8, "those of past chunks are given up"


@pytest.mark.parametrize("system", ["adastate_s3_w9", pytest.param("longlive_slot", marks=pytest.mark.slow)])
def test_engines_serve_steered_passes_with_two_programs(system: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net, s = random_net(STEERED), read_system(system)

    def stream(kind: Any) -> Tensor:
        network = PromptedNetwork(net, TEXT, engine=kind, steering=steering())
        return made(network, s, 8, layers=SIZE.layers)

    assert off(stream("eager"), stream("compile")) < 2e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_replay_has_the_actions_of_its_rollout_and_its_gradient() -> None:
    net, record = random_net(STEERED), list[ExitPass]()

    def gradient(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        net.zero_grad()
        sum((x.square().sum() for x in outputs), torch.zeros(())).backward()
        return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}

    network = passes(net, True)
    chunks = list(rollout(network, Drawn(batch=2), StateCache(spec()), 3, SHAPE, Exits(1), grad=True, finish=False))
    whole = gradient([torch.cat([c.state, c.content], 1) for c in chunks if c.state is not None])
    with torch.no_grad():
        list(rollout(network, Drawn(batch=2), StateCache(spec()), 3, SHAPE, Exits(1), record=record, finish=False))
    again = PromptedNetwork(net, TEXT, share=False, steering=steering())
    cache = StateCache(spec())
    parts = gradient(list(replay_rollout(again, cache, record)))
    assert cache.generated == 3, "the stream may go on from there"
    assert "action_embedding.weight" in whole and whole.keys() == parts.keys()
    for name, g in whole.items():
        assert torch.allclose(g, parts[name], rtol=1e-3, atol=1e-3 * float(g.abs().max())), name


def test_a_stream_is_steered_while_it_runs() -> None:
    """The chunk at hand is finished as it began; from the next one on the new actions hold."""
    net, hand = random_net(STEERED), steering(FLOWN[:, :1])
    network, turned = PromptedNetwork(net, TEXT, steering=hand), 1 - FLOWN[:, :1]
    parts = []
    with torch.no_grad():
        for chunk in rollout(network, Drawn(batch=2), StateCache(spec()), 4, SHAPE):
            parts.append(chunk.content)
            if chunk.index == 1:
                assert hand.steer(given(turned)) == 6
        known = torch.cat([FLOWN[:, :1].expand(-1, 6, -1), turned], 1)
        told = PromptedNetwork(net, TEXT, steering=steering(known))
        expected = [c.content for c in rollout(told, Drawn(batch=2), StateCache(spec()), 4, SHAPE)]
    assert torch.equal(torch.cat(parts, 1), torch.cat(expected, 1))


def test_a_prompt_switch_of_every_kind_keeps_the_fast_passes_right() -> None:
    net = random_net(STEERED)
    for kind in ("keep", "recache", "flush", "cut"):
        switches = {3: SwitchPolicy(kind, None if kind == "recache" else 1)}  # type: ignore[arg-type]
        assert (
            off(made(passes(net, True), spec(), switches=switches), made(passes(net, False), spec(), switches=switches))
            < 5e-5
        )
