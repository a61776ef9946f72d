"""Samples shared by ranks in a plan: what a rank sends and holds, and from which degree that is faster."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from adastate.config.schema import ConfigError
from adastate.distributed.sequence_split import SequenceSplit
from adastate.main import main
from adastate.models.wan import DiT
from adastate.plan import memory
from adastate.plan.cost import CountedPass
from adastate.plan.exchange import (
    NETWORKS,
    Network,
    degrees,
    exchange,
    layer_bytes,
    pass_bytes_sent,
    pays_from,
    seconds,
)
from adastate.plan.planning import memory_layout
from adastate.plan.runs import RunSetting
from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from tests.distributed.test_sequence_split import shared_net
from tests.support.plan_rig import WAN, arguments, configured
from tests.support.sequence_worker import GRID
from tests.support.thread_ranks import on_ranks
from tests.support.tiny import SIZE, Drawn, normal, spec

WAN_14B = replace(WAN, width=5120, heads=40, layers=40, ffn=13824)
TOKENS = 1560
CHUNK = CountedPass(4, seen=4)


def test_degrees_divide_heads_and_tokens() -> None:
    assert degrees(WAN, TOKENS) == [1, 2, 3, 4, 6]
    assert degrees(WAN_14B, TOKENS) == [1, 2, 4, 5, 8]


def test_bytes_of_a_denoising_pass_are_those_that_ranks_exchange() -> None:
    def one_pass(split: Any) -> None:
        with torch.no_grad():
            stream = rollout(
                PromptedNetwork(shared_net(split), normal(1, 4, 16, seed=7)), Drawn(0),
                StateCache(spec(denoising_steps=(1000,)), None, SIZE.layers), 1, (4, *GRID), finish=False,
            )  # fmt: skip
            list(stream)

    for degree in (2, 4):
        _, desk = on_ranks(degree, one_pass)
        counted = pass_bytes_sent(replace(SIZE, actions=2), 8, 4, 1, 4, degree)
        assert 4 * sum(desk.numbers) == counted


def test_a_pass_is_shared_and_a_slow_network_pays_late() -> None:
    flops = 316e12
    found = exchange(WAN, TOKENS, CHUNK, 1, 2, flops)
    alone = found["seconds a pass"]["NVLink"][1]
    assert alone == found["seconds a pass"]["100 Gbit/s a GPU"][1]
    assert found["bytes a layer"][1] == 0
    assert found["bytes a layer"][2] == layer_bytes(WAN, TOKENS, 4, 1, 2, 2) == 4 * 4 * TOKENS * 1536 * 2 / 4
    assert found["pays from"]["NVLink"] == 2
    slow = Network("slow", 4e9, 0.0)
    times = {d: seconds(WAN, TOKENS, CHUNK, 1, 2, d, flops, slow) for d in degrees(WAN, TOKENS)}
    assert times[2] > times[1] and pays_from(times) == next(d for d in times if times[d] < times[1]) > 2
    assert pays_from({1: 1.0, 2: 2.0}) is None
    assert [n.name for n in NETWORKS] == list(found["pays from"])


@pytest.mark.parametrize("stage", ["distill", "teacher", "init"])
def test_a_rank_holds_less_the_more_share_a_sample(stage: str) -> None:
    run = configured("14B" if stage == "distill" else "1.3B", f"stages/{stage}.yaml")
    at = RunSetting("3", 8, 1, run.checkpointing)
    every = [memory_layout(run, replace(at, shared=degree)) for degree in (1, 2, 4)]
    peaks = [found["peak"] for found in every]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > peaks[1] > peaks[2]
    if stage == "distill":
        caches = [found["phases"]["student: rollout"]["parts"]["KV cache"] for found in every]
        assert caches[0] == 2 * caches[1] == 4 * caches[2]
        streams = [run.stream(replace(at, shared=degree)) for degree in (1, 2, 4)]
        assert streams[0] == 2 * streams[1] == 4 * streams[2]


@pytest.mark.slow
def test_the_command_knows_the_degree_of_the_strategy(capsys: Any) -> None:
    words = [*arguments("14B", "stages/distill.yaml", "strategy/zero3_teacher.yaml"), "--gpus", "8"]
    degree = "--trainer.strategy.init_args.sequence_parallel="
    main(["plan", *words, f"{degree}4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["shared"]["degree"] == 4
    assert found["accumulation"] * found["micro batch"] * 2 == found["global batch"]
    assert found["memory"]["3_teacher"]["peak"] == found["shared"]["peak"]["4"] < found["shared"]["peak"]["1"]
    for wrong, said in ((3, "8 ranks cannot be divided into groups of it"), (8, "12 heads are not divisible by it")):
        with pytest.raises((ConfigError, SystemExit), match=said):
            main(["plan", *words, f"{degree}{wrong}"])


@dataclass(frozen=True)
class Silent(SequenceSplit):
    """Exchanges nothing, for shapes alone."""

    def _exchange(self, parts: Tensor) -> Tensor:
        return parts.contiguous().clone()


@pytest.mark.slow
@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_what_a_clip_of_14b_keeps_for_backward_is_what_is_planned(degree: int) -> None:
    """Two of its layers with checkpointing, on torch's meta device, where nothing is computed."""
    size, kept = replace(WAN_14B, layers=2), dict[int, Tensor]()
    with torch.device("meta"):
        net = DiT(size, checkpointing=True).to(torch.bfloat16)
        x, t, text = torch.zeros(1, 21, 16, 60, 104), torch.zeros(1), torch.zeros(1, 512, 4096)
    net.split = None if degree == 1 else Silent(cast(Any, None), degree, 0)
    weights = {p.untyped_storage()._cdata for p in net.parameters()}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in weights:
            kept[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        net(x, t, text)
    planned = memory.pass_bytes(size, TOKENS // degree, CountedPass(21, grad=True), 1, memory.BFLOAT16, True)
    planned += memory.text_bytes(size, 1, memory.BFLOAT16)
    assert sum(x.untyped_storage().nbytes() for x in kept.values()) == pytest.approx(planned, rel=0.05)
