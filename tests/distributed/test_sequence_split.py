"""A sample over several ranks is the same sample: flows, gradients, streams and what they remember.

Here the ranks are threads; tests/distributed/test_shared_samples.py has processes over gloo.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from adastate.distributed.sequence_split import SequenceSplit, make_split, split_networks
from adastate.models.masks import block_causal
from adastate.models.size import Size, check_degree
from adastate.stream import StateCache
from adastate.stream.attention_probe import AttentionShare
from adastate.stream.cache_state import restored_cache, saved
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from tests.support.sequence_worker import GRID, flat, relative
from tests.support.thread_ranks import on_ranks
from tests.support.tiny import SIZE, Drawn, normal, random_net, spec

STEERED = replace(SIZE, actions=2)
WAN_1_3B, WAN_14B = Size(width=1536, heads=12), Size(width=5120, heads=40)
LATENTS = (60, 104)


ONE_BY_ONE = Lock()
"""Networks are made from torch's own generator, which threads share."""


def shared_net(split: SequenceSplit, size: Size = STEERED, **options: Any) -> Any:
    with ONE_BY_ONE:
        net = random_net(size, **options)
    split_networks([net], split)
    return net


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("visible", [None, block_causal(6, 3)], ids=["all", "causal"])
def test_flow_and_gradients_of_a_clip_are_those_of_one_rank(degree: int, visible: Any) -> None:
    text, t, actions = normal(2, 4, 16, seed=7), torch.tensor([300.0, 700.0]), normal(2, 6, 3, seed=9)

    def clip(net: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        x = normal(2, 6, 4, *GRID, seed=3).requires_grad_()
        flow = net(x, t, text, visible=visible, actions=actions)
        (flow * normal(*flow.shape, seed=5)).sum().backward()
        assert x.grad is not None
        return flow.detach(), {k: p.grad for k, p in net.named_parameters() if p.grad is not None}, x.grad

    flow, gradients, of_input = clip(random_net(STEERED))
    made, _ = on_ranks(degree, lambda split: clip(shared_net(split, checkpointing=visible is not None)))
    assert max(relative(mine, flow) for mine, *_ in made) < 2e-5
    mean = {k: torch.stack([each[k] for _, each, _ in made]).mean(0) for k in gradients}
    assert relative(flat(mean), flat(gradients)) < 1e-4
    assert relative(torch.stack([each for *_, each in made]).mean(0), of_input) < 1e-4


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("degree", [2, 4])
def test_a_stream_is_that_of_one_rank_and_each_remembers_its_share(degree: int, fast: bool) -> None:
    text, net = normal(1, 4, 16, seed=7), random_net(STEERED)

    @torch.no_grad()
    def stream(net: Any) -> tuple[Tensor, int, dict[str, list[float]], StateCache]:
        share = AttentionShare()
        cache = share.cache = StateCache(spec(), share)
        made = rollout(PromptedNetwork(net, text, fast), Drawn(0), cache, 4, (4, *GRID))
        return torch.cat([c.content for c in made], 1), cache.bytes, share.shares, cache

    content, held, shares, cache = stream(net)
    whole = saved(cache)

    def shared(split: SequenceSplit) -> tuple[Tensor, int, dict[str, list[float]], dict[str, Any], StateCache]:
        *found, mine = stream(shared_net(split))
        return (*found, saved(mine, split), restored_cache(spec(), whole, split))  # type: ignore[return-value]

    made, _ = on_ranks(degree, shared)
    for mine, bytes_, mine_shares, mine_saved, again in made:
        assert relative(mine, content) < 2e-5
        assert bytes_ * degree == held
        for kind, values in shares.items():
            assert mine_shares[kind] == pytest.approx(values, abs=1e-5)
        for part in ("keys", "values"):
            for a, b in zip(mine_saved["window"][part], whole["window"][part], strict=True):
                assert relative(a, b) < 2e-5
        assert again.bytes * degree == held


def test_a_layer_exchanges_its_own_tokens_four_times_and_a_pass_its_flow() -> None:
    text, passes = normal(1, 4, 16, seed=7), []

    def stream(split: SequenceSplit) -> None:
        network = PromptedNetwork(shared_net(split), text)
        cache = StateCache(spec(), None, SIZE.layers)
        with torch.no_grad():
            made = list(rollout(network, Drawn(0), cache, 4, (4, *GRID)))
        if split.rank == 0:
            passes.append(sum(c.passes for c in made))

    _, desk = on_ranks(2, stream)
    chunks, queries, tokens = 4, 4, 8
    own = queries * tokens * SIZE.width // 2  # of a rank
    denoising = SIZE.layers * 4 * own + queries * tokens * SIZE.channels * 4 // 2 * 2
    clean = (SIZE.layers - 1) * 4 * own + 2 * own  # the last layer leaves keys and values alone
    assert passes == [3 * chunks]
    assert sum(desk.numbers) == chunks * (2 * denoising + clean) // 2


@pytest.mark.parametrize(
    ("size", "degree", "latents", "world", "said"),
    [
        (WAN_1_3B, 8, LATENTS, 8, "12 heads are not divisible by it: use one of 1, 2, 4$"),
        (WAN_14B, 3, LATENTS, 24, "40 heads are not divisible by it: use one of 1, 2, 4, 8$"),
        (WAN_14B, 16, LATENTS, 16, "40 heads are not divisible by it: use one of 1, 2, 4, 8$"),
        (WAN_14B, 8, (4, 6), 8, "frames of 6 tokens are not divisible by it: use one of 1, 2$"),
        (WAN_14B, 8, LATENTS, 4, "there are only 4 ranks: use one of 1, 2, 4$"),
        (WAN_14B, 4, LATENTS, 6, "6 ranks cannot be divided into groups of it: use one of 1, 2$"),
        (WAN_14B, 0, LATENTS, 4, "the number of ranks that share a sample is at least 1: use one of 1, 2, 4$"),
    ],
)
def test_a_degree_that_does_not_fit_is_refused_with_those_that_do(
    size: Size, degree: int, latents: tuple[int, int], world: int, said: str
) -> None:
    with pytest.raises(ValueError, match=f"sequence_parallel is {degree}, but {said}"):
        check_degree(degree, size.heads, size.tokens(latents), world)


@pytest.mark.parametrize("steered", [False, True])
def test_a_time_for_every_token_is_split_with_the_tokens(steered: bool) -> None:
    size, text = replace(STEERED, backbone="wan22"), normal(1, 4, 16, seed=7)
    x, t = normal(1, 3, 4, *GRID, seed=3), 1000 * normal(1, 3, 2, 4, seed=5).sigmoid()
    actions = normal(1, 3, 3, seed=9) if steered else None

    @torch.no_grad()
    def flow(net: Any) -> Tensor:
        return net(x, t, text, actions=actions)  # type: ignore[no-any-return]

    made, _ = on_ranks(2, lambda split: flow(shared_net(split, size)))
    assert max(relative(mine, flow(random_net(size))) for mine in made) < 2e-5


def test_a_network_that_knows_no_split_is_refused() -> None:
    split, net = SequenceSplit(cast(Any, None), 2, 0), random_net()
    net.can_split = False
    with pytest.raises(ValueError, match="a DiT cannot split its passes: leave sequence_parallel at 1"):
        split_networks([net], split)
    split_networks([net], None)


def test_degrees_that_fit_are_taken() -> None:
    for degree in (1, 2, 4, 8):
        check_degree(degree, WAN_14B.heads, WAN_14B.tokens(LATENTS), 8)
    assert make_split(1) is None
