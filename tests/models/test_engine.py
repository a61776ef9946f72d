"""Engines for passes of fixed shape give what eager passes give, and serve an endless stream with two programs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adastate.models import engine
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import Scene, StateCache, StreamSpec, Switch, rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, normal, random_net, read_system, spec


@pytest.fixture(autouse=True)
def traced(monkeypatch: Any) -> None:
    """Everything that compiling does but for the generation of code, which takes half a minute a program."""
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    torch._dynamo.reset()


def streamed(s: StreamSpec, kind: Any, chunks: int = 8, switch: Switch | None = None) -> tuple[list[Any], Passes]:
    net = random_net()
    prompts = [normal(1, SIZE.text_tokens, SIZE.text_width, seed=seed) for seed in (7, 8)]
    with torch.no_grad():
        first = Streamer(net, net.text_keys(prompts[0]), engine=kind)
        scenes = {}
        if switch is not None:
            scenes[5] = Scene(Streamer(net, net.text_keys(prompts[1]), passes=first.passes), switch)
        made = list(rollout(first, Drawn(), StateCache(s, layers=SIZE.layers), chunks, SHAPE, scenes=scenes))
    return [torch.cat([c.content, *([] if c.state is None else [c.state])], 1) for c in made], first.passes


@pytest.mark.parametrize("system", ["adastate_s3_w9", "longlive_slot", "self_forcing"])
def test_compiled_passes_give_what_eager_ones_give(system: str) -> None:
    s = read_system(system)
    for a, b in zip(streamed(s, "eager")[0], streamed(s, "compile")[0], strict=True):
        assert torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("kind", ["recache", "cut"])
def test_prompt_switches(kind: Any) -> None:
    switch = Switch(kind, frames=None if kind == "recache" else 1)
    plain, _ = streamed(spec(), "eager", switch=switch)
    for a, b in zip(plain, streamed(spec(), "compile", switch=switch)[0], strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_two_programs_serve_an_endless_stream_and_both_prompts() -> None:
    torch._dynamo.utils.counters.clear()
    streamed(spec(), "compile", 12, Switch("keep"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_masked_passes_run_eagerly() -> None:
    s = spec(state_visibility="previous")
    torch._dynamo.utils.counters.clear()
    for a, b in zip(streamed(s, "eager")[0], streamed(s, "compile")[0], strict=True):
        assert torch.equal(a, b)
    assert not torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_an_engine_that_the_device_has_not_is_refused() -> None:
    with pytest.raises(
        ValueError, match="engine 'graph' on cpu: there are eager, compile, and graph, which needs a CUDA"
    ):
        Passes(random_net(), engine="graph")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("kind", ["graph", "compile"])
def test_on_a_gpu(kind: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "BACKEND", "inductor")
    s, net = spec(), random_net().cuda()
    text = [normal(1, SIZE.text_tokens, SIZE.text_width, seed=seed).cuda() for seed in (7, 8)]

    class Noise(Drawn):
        def normal(self, *shape: int) -> torch.Tensor:
            return super().normal(*shape).cuda()

    made = []
    with torch.no_grad():
        for k in ("eager", kind):
            first = Streamer(net, net.text_keys(text[0]), engine=k)
            scenes = {5: Scene(Streamer(net, net.text_keys(text[1]), passes=first.passes), Switch("recache"))}
            stream = rollout(first, Noise(), StateCache(s, layers=SIZE.layers), 10, SHAPE, scenes=scenes)
            made.append([c.content.clone() for c in stream])
    for a, b in zip(*made, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
