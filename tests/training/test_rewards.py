"""Rewards need no download and reward what they should."""

from __future__ import annotations

import torch

from adastate.training.rewards import MotionReward
from tests.support.tiny import normal


def test_what_moves_is_rewarded_and_what_stands_or_flickers_is_not() -> None:
    picture = normal(1, 3, 16, 16)[0]
    still = picture.expand(6, 3, 16, 16)
    moving = torch.stack([picture.roll(i, -1) for i in range(6)])
    flicker = torch.stack([picture if i % 2 else -picture for i in range(6)])
    calm, moves, flickers = MotionReward()(torch.stack([still, moving, flicker])).tolist()
    assert calm == 0 and flickers < 1e-6 < moves
    assert MotionReward(2.0)(moving[None]).item() == 2 * moves
