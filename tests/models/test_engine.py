"""Engines for passes of fixed shape give what eager passes give, and serve an endless stream with two programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adastate.models import engine
from adastate.models.actions import Steering
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import PromptSwitch, StateCache, StreamSpec, SwitchPolicy
from adastate.stream.passes import VelocityNetwork
from adastate.stream.rollout import rollout
from adastate.types import Memory
from tests.support.tiny import SHAPE, SIZE, Drawn, normal, random_net, read_system, spec


@pytest.fixture(autouse=True)
def traced(monkeypatch: Any) -> None:
    """Everything that compiling does but for the generation of code, which takes half a minute a program."""
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    torch._dynamo.reset()


def streamed(s: StreamSpec, kind: Any, chunks: int = 8, switch: SwitchPolicy | None = None) -> tuple[list[Any], Passes]:
    net = random_net()
    prompts = [normal(1, SIZE.text_tokens, SIZE.text_width, seed=seed) for seed in (7, 8)]
    with torch.no_grad():
        first = Streamer(net, net.text_keys(prompts[0]), engine=kind)
        switches = {}
        if switch is not None:
            switches[5] = PromptSwitch(Streamer(net, net.text_keys(prompts[1]), passes=first.passes), switch)
        made = list(rollout(first, Drawn(), StateCache(s, layers=SIZE.layers), chunks, SHAPE, switches=switches))
    return [torch.cat([c.content, *([] if c.state is None else [c.state])], 1) for c in made], first.passes


@pytest.mark.parametrize(
    "system", ["adastate_s3_w9", *(pytest.param(s, marks=pytest.mark.slow) for s in ("longlive_slot", "self_forcing"))]
)
def test_compiled_passes_give_what_eager_ones_give(system: str) -> None:
    s = read_system(system)
    for a, b in zip(streamed(s, "eager")[0], streamed(s, "compile")[0], strict=True):
        assert torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("kind", ["recache", "cut"])
@pytest.mark.slow
def test_prompt_switches(kind: Any) -> None:
    switch = SwitchPolicy(kind, frames=None if kind == "recache" else 1)
    plain, _ = streamed(spec(), "eager", switch=switch)
    for a, b in zip(plain, streamed(spec(), "compile", switch=switch)[0], strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_two_programs_serve_an_endless_stream_and_both_prompts() -> None:
    torch._dynamo.utils.counters.clear()
    streamed(spec(), "compile", 12, SwitchPolicy("keep"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_masked_passes_run_eagerly() -> None:
    s = spec(state_visibility="previous")
    torch._dynamo.utils.counters.clear()
    for a, b in zip(streamed(s, "eager")[0], streamed(s, "compile")[0], strict=True):
        assert torch.equal(a, b)
    assert not torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_an_engine_that_the_device_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="engine 'graph' on cpu: use eager, compile, or, on a CUDA device, graph"):
        Passes(random_net(), engine="graph")


def steered(streamer: Streamer, columns: int) -> VelocityNetwork:
    """With other actions in every chunk, and none in the first ones."""
    flown = Steering((normal(1, 40, columns + 1, seed=5) > 0).float(), first=9)
    return lambda x, t, memory: streamer(x, t, memory, flown.rows(memory.stream_frames))


@pytest.mark.parametrize("kind", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_a_stream_may_begin_unsteered(kind: Any) -> None:
    """Both kinds of passes in turn, and each is right."""
    net, text = random_net(replace(SIZE, actions=3)), normal(1, SIZE.text_tokens, SIZE.text_width, seed=7)
    flown = Steering((normal(1, 40, 4, seed=5) > 0).float(), first=9)
    with torch.no_grad():
        fast = steered(Streamer(net, net.text_keys(text), engine=kind), 3)

        def plain(x: torch.Tensor, t: torch.Tensor, memory: Memory) -> torch.Tensor:
            return net(x, t, text, memory=memory, actions=flown.rows(memory.stream_frames))

        made = [
            list(rollout(network, Drawn(), StateCache(spec(), layers=layers), 8, SHAPE))
            for network, layers in ((fast, SIZE.layers), (plain, None))
        ]
    for a, b in zip(*made, strict=True):
        assert torch.allclose(a.content, b.content, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("kind", ["graph", "compile"])
@pytest.mark.parametrize("columns", [0, 3])
def test_on_a_gpu(kind: Any, columns: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "BACKEND", "inductor")
    s, net = spec(), random_net(replace(SIZE, actions=columns)).cuda()
    text = [normal(1, SIZE.text_tokens, SIZE.text_width, seed=seed).cuda() for seed in (7, 8)]

    class Noise(Drawn):
        def normal(self, *shape: int) -> torch.Tensor:
            return super().normal(*shape).cuda()

    made = []
    with torch.no_grad():
        for k in ("eager", kind):
            one = Streamer(net, net.text_keys(text[0]), engine=k)
            other = Streamer(net, net.text_keys(text[1]), passes=one.passes)
            first, second = (steered(streamer, columns) if columns else streamer for streamer in (one, other))
            switches = {5: PromptSwitch(second, SwitchPolicy("recache"))}
            stream = rollout(first, Noise(), StateCache(s, layers=SIZE.layers), 10, SHAPE, switches=switches)
            made.append([c.content.clone() for c in stream])
    for a, b in zip(*made, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
