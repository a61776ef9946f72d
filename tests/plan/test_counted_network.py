"""What is counted on the meta device is what the formulas say of Wan, and what a plan says of any other network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from adastate.models import backbones
from adastate.models.video_network import Backbone, Size
from adastate.models.wan import DiT
from adastate.plan.cost import CountedPass, parameters, pass_flops, text_flops
from adastate.plan.counted_network import counted

TINY = Size(text_tokens=8)
TOKENS = 12


def test_wan_is_counted_as_its_formulas_say() -> None:
    size = replace(TINY, layers=5)
    found = counted(size, TOKENS)
    work = CountedPass(frames=3, seen=4)
    assert found.parameters == parameters(size)
    assert found.text == text_flops(size).forward
    assert found.forward(3, work.pairs) == pytest.approx(pass_flops(size, TOKENS, work).forward, rel=1e-3)


class WithMore(DiT):
    """A network of which no formula knows a part."""

    def __init__(self, size: Size, **options: object) -> None:
        super().__init__(size, **options)  # type: ignore[arg-type]
        self.more = nn.Linear(size.channels, size.channels, bias=False)

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return super().forward(self.more(x.movedim(2, -1)).movedim(-1, 2), *args, **kwargs)  # type: ignore[arg-type]


WITH_MORE = Backbone(WithMore)


def test_a_backbone_of_one_s_own_is_counted_without_a_formula() -> None:
    size = replace(TINY, backbone=f"{__name__}.WITH_MORE")
    with torch.device("meta"):
        assert parameters(size) == sum(p.numel() for p in backbones.build_network(size).parameters())
    assert parameters(size) == parameters(TINY) + 16 * 16
    work = CountedPass(frames=2)
    own, wan = (pass_flops(s, TOKENS, work).forward for s in (size, TINY))
    assert own - wan == pytest.approx(2 * 2 * TOKENS * 4 * 16 * 16, rel=0.01)  # four latents a token
