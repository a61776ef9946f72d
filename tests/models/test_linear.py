"""Products in FP8: as far off as their rounding, with a scale for every token and every output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adastate.models.linear import Linear, apply, in_fp8
from adastate.models.wan import DiT
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, normal, random_net, spec

ROUNDING = 2.0**-4
"""Half a step of three bits of mantissa: what a number in FP8 is off by at most, relative to itself."""


def layer(outputs: int = 64, inputs: int = 32) -> Linear:
    weight = normal(outputs, inputs, seed=1) * torch.logspace(-3, 3, outputs)[:, None]
    return Linear(normal(outputs, seed=2).bfloat16(), weight.bfloat16().t())


def test_one_large_token_or_output_does_not_drown_the_others() -> None:
    x = (normal(48, 32, seed=3) * torch.logspace(-4, 4, 48)[:, None]).bfloat16()
    exact = layer()
    made = apply(x, in_fp8(exact)).double()
    truth = torch.addmm(exact.bias.double(), x.double(), exact.weight.double())
    both = 2.2 * ROUNDING * (x.double().abs() @ exact.weight.double().abs())
    assert ((made - truth).abs() <= both + 0.01 * truth.abs()).all(), "of x, of the weight, and of the result in bf16"


def test_what_is_nothing_stays_nothing() -> None:
    bias = layer().bias
    assert torch.equal(apply(torch.zeros(3, 32, dtype=torch.bfloat16), in_fp8(layer())), bias.expand(3, -1))


def test_the_largest_number_of_a_row_is_kept() -> None:
    rounded = in_fp8(layer())
    assert rounded.scale is not None and not rounded.weight.float().isnan().any()
    largest = (rounded.weight.float() * rounded.scale).abs().amax(0)
    assert torch.allclose(largest, layer().weight.float().abs().amax(0), rtol=1e-3)


def test_outputs_can_be_left_out() -> None:
    x, whole = normal(48, 32, seed=3).bfloat16(), in_fp8(layer())
    assert torch.equal(apply(x, whole.after(16)), apply(x, whole)[:, 16:])


def test_a_stream_in_fp8_is_as_far_off_as_its_products() -> None:
    net = random_net(replace(SIZE, width=32, ffn=64))
    text = normal(1, SIZE.text_tokens, SIZE.text_width)
    made = {}
    with torch.no_grad():
        keys = net.text_keys(text)
        for fp8 in (False, True):
            student = Streamer(net, keys, torch.bfloat16, fp8=fp8)
            stream = rollout(student, Drawn(), StateCache(spec(), layers=SIZE.layers), 6, SHAPE)
            made[fp8] = torch.cat([chunk.content for chunk in stream], 1)
    off = (made[True] - made[False]).norm() / made[False].norm()
    assert 1e-3 < off < 0.2


def wrong(net: DiT, dtype: torch.dtype) -> str:
    with pytest.raises(ValueError) as told:
        Passes(net, dtype, fp8=True)
    return str(told.value)


def test_what_it_cannot_do_is_told() -> None:
    assert "fp8 needs passes in bfloat16, but these are in torch.float32" in wrong(random_net(), torch.float32)
    narrow = random_net(replace(SIZE, width=24, heads=2))
    assert "multiples of 16; a layer of this network is 24 x 72" in wrong(narrow, torch.bfloat16)
