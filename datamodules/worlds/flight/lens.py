"""What a camera does to its pictures: constants of a flight that no prompt tells, so that errors can gather in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datamodules.worlds.flight.lattice import number, numbers

PIVOT = 0.45
"""The brightness that contrast leaves as it is."""


@dataclass(frozen=True)
class Lens:
    """Exposure (a factor on light), contrast (a factor about `PIVOT`) and grain (a deviation, in [0, 1] light)."""

    exposure: float = 1.0
    contrast: float = 1.0
    grain: float = 0.0


PLAIN_LENS = Lens()


def own_lens(seed: int, tinted: bool = True, grainy: bool = True) -> Lens:
    """Drawn from the flight's seed: `tinted`, exposure .8 to 1.25 and contrast .85 to 1.2; `grainy`, grain 0 to .02."""
    e, c, g = (number(seed, 70 + i) for i in range(3))
    own = Lens(0.8 * (1.25 / 0.8) ** e, 0.85 + 0.35 * c) if tinted else PLAIN_LENS
    return replace(own, grain=0.02 * g) if grainy else own


def through_lens(lens: Lens, seed: int, light: Tensor, clock: Tensor) -> Tensor:
    """Light `[T, 3, h, w]` in [0, 1] as the camera records it at picture numbers `clock` [T] (whole)."""
    if lens == PLAIN_LENS:
        return light
    light = (light * (lens.exposure * lens.contrast) + PIVOT * (1 - lens.contrast)).clamp(0, 1)
    if lens.grain:
        h, w = light.shape[-2:]
        place = torch.arange(h * w).view(h, w)
        one, two = (numbers(seed, c, clock.long()[:, None, None], place) for c in (73, 74))
        light = light + (lens.grain * 6**0.5) * (one + two - 1)[:, None]  # a triangle of unit deviation
    return light.clamp(0, 1)
