"""Heights of the land and the colours of its matter, on windows of whole units and at single places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.worlds.flight.biomes import BIOMES, RGB, Biome
from datamodules.worlds.flight.lattice import noise_at, noise_map

SIDE, ALIGN = 256, 32
"""Width of a window of land in units, and the grid on which its corner lies."""

OCTAVES = ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (32, 8))
"""Steps (x, y) of the lattices; the last one, long and narrow, blows the dunes."""

TREES = (0.055, 0.19, 0.075)
SNOW = (0.93, 0.95, 0.99)
DRY = -9.0


@dataclass(frozen=True)
class Window:
    """Land about one place.

    Attributes:
        corner: place (x, y) of the first sample.
        height: `[SIDE, SIDE]`, rows along y, units; where there is water, its surface.
        matter: its colour in white light `[3, SIDE, SIDE]`; what glows is in `fluid`.
        fluid: colour of the water or lava `[3, SIDE, SIDE]`.
        wet: share of fluid `[SIDE, SIDE]`, 0 to 1.
        steepness: 1 minus the normal's z `[SIDE, SIDE]`.
    """

    corner: tuple[int, int]
    height: Tensor
    matter: Tensor
    fluid: Tensor
    wet: Tensor
    steepness: Tensor


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    x = ((x - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)


def tint(colour: RGB) -> Tensor:
    return torch.tensor(colour)[:, None, None]


def relief(octaves: list[Tensor], biome: Biome) -> Tensor:
    """Height of the dry land, about 0 to 1, from its octaves of noise."""
    wide, half, small, fine, grain, blown = octaves
    if biome.shape == "rolling":
        return 0.47 + 0.17 * wide + 0.11 * half + 0.035 * small + 0.008 * fine
    if biome.shape == "ridged":
        crest = 1.05 - (0.75 * wide + 0.65 * half).abs()  # sharp where the sum changes its sign
        rugged = 0.15 * (0.6 - half.abs()) + 0.11 * (0.5 - small.abs()) + 0.035 * (0.5 - fine.abs()) + 0.008 * grain
        return 0.24 + 0.36 * crest.clamp(min=-0.6) + 0.12 * wide + (0.3 + 0.7 * crest.clamp(0, 1)) * rugged
    if biome.shape == "blown":
        wave = 1 - (blown + 0.45 * wide).abs()
        return 0.36 + 0.24 * wave + 0.10 * wide + 0.05 * half + 0.004 * fine
    mesa = 0.62 + 0.24 * torch.tanh(1.2 * wide + 0.5 * half) + 0.06 * small + 0.015 * fine
    gorge = torch.exp(-((0.8 * half + 0.5 * wide + 0.1 * small) / 0.42).square())  # along the noise's zero line
    steps = (mesa - 0.55 * gorge) * 5
    tread = steps.floor()
    return (tread + ((steps - tread - 0.5) * 3 + 0.5).clamp(0, 1) * 0.85 + 0.15 * (steps - tread)) / 5


def terrain_height(seed: int, kind: str, xy: Tensor) -> Tensor:
    """Height of land or water in units at places `xy` [..., 2] (float64)."""
    biome, flat = BIOMES[kind], xy.reshape(-1, 2)
    octaves = [noise_at(seed, i, flat, step) for i, step in enumerate(OCTAVES)]
    level = relief(octaves, biome).clamp(min=DRY if biome.sea is None else biome.sea)
    return (level * biome.height).view(xy.shape[:-1])


def window(seed: int, kind: str, corner: tuple[int, int]) -> Window:
    """The land of `SIDE` units from `corner` on, a multiple of `ALIGN`."""
    biome = BIOMES[kind]
    octaves = [noise_map(seed, i, corner, SIDE, step) for i, step in enumerate(OCTAVES)]
    _, half, small, fine, grain, _ = octaves
    dry = relief(octaves, biome)
    sea = DRY if biome.sea is None else biome.sea
    depth = sea - dry
    height = dry.clamp(min=sea) * biome.height
    dx, dy = slopes(height)
    steepness = 1 - (1 + dx.square() + dy.square()).rsqrt()
    patches = 0.055 * small + 0.045 * half + 0.03 * fine
    above = (dry - max(sea, 0.10)).clamp(min=0)
    matter = torch.lerp(tint(biome.low), tint(biome.mid), ramp(above + 0.6 * patches, 0.03, 0.15))
    matter = torch.lerp(matter, tint(biome.high), ramp(above + 0.8 * patches, 0.36, 0.47))
    matter = torch.lerp(matter, tint(biome.rock), 0.85 * ramp(steepness, 0.18, 0.40))
    matter = matter * (1 + 1.5 * patches + 0.07 * grain).clamp(0.6, 1.4)
    if biome.shape == "carved":  # strata
        matter = matter * (1 + 0.10 * torch.sin(height * 2.6 + 0.8 * half) * ramp(steepness, 0.02, 0.2))
    if biome.woods:
        trees = biome.woods * ramp(0.8 * small + 0.6 * fine + 0.5 * half, 0.35, 0.95)
        trees = trees * (1 - ramp(above, 0.26, 0.38)) * ramp(above, 0.02, 0.05) * (1 - ramp(steepness, 0.25, 0.4))
        matter = torch.lerp(matter, tint(TREES) * (1 + 0.35 * grain).clamp(0.4, 1.8), trees)
    fluid = torch.lerp(tint(biome.shore), tint(biome.deep), ramp(depth, 0.0, 0.13))
    if biome.glows:
        crust = ramp(0.8 * fine + 0.6 * small, 0.2, 1.2) * ramp(depth, 0.01, 0.05)
        fluid = torch.lerp(fluid, tint((0.16, 0.06, 0.05)), 0.8 * crust)
    else:
        foam = (1 - (depth * 38 - 0.3 * fine).abs()).clamp(min=0)
        fluid = torch.lerp(fluid, torch.ones(3, 1, 1), 0.45 * foam)
    return Window(corner, height, matter, fluid, torch.sigmoid(depth * 90), steepness)


def snowed(matter: Tensor, steepness: Tensor) -> Tensor:
    """`matter` [3, h, w] after snow has fallen: it lies where the ground is not steep."""
    return torch.lerp(matter, tint(SNOW), 0.92 * (1 - ramp(steepness, 0.22, 0.48)))


def slopes(height: Tensor) -> tuple[Tensor, Tensor]:
    """Rise per unit along x and along y."""
    dx, dy = ((torch.roll(height, -1, axis) - torch.roll(height, 1, axis)) / 2 for axis in (1, 0))
    return dx, dy
