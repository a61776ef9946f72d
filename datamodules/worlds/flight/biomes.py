"""Kinds of land: what shapes it and what colours it wears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RGB = tuple[float, float, float]
Shape = Literal["rolling", "ridged", "carved", "blown"]


@dataclass(frozen=True)
class Biome:
    """One kind of land. Colours are of matter in white light, in [0, 1].

    Attributes:
        shape: of the relief; see `terrain.relief`.
        height: units of a relief of 1.
        sea: level below which a fluid stands, as a relief; None: the land is dry.
        low, mid, high: colours from the valleys to the tops.
        rock: of steep slopes.
        shore, deep: of the fluid, from its edge to its depths.
        woods: how much of the low ground trees cover, 0 to 1.
        glows: whether the fluid shines by itself.
    """

    shape: Shape
    height: float
    sea: float | None
    low: RGB
    mid: RGB
    high: RGB
    rock: RGB
    shore: RGB = (0.3, 0.5, 0.5)
    deep: RGB = (0.1, 0.25, 0.4)
    woods: float = 0.0
    glows: bool = False


BIOMES: dict[str, Biome] = {
    "snowy mountains": Biome(
        "ridged", 28, None,
        low=(0.20, 0.30, 0.17), mid=(0.44, 0.43, 0.44), high=(0.96, 0.97, 1.00), rock=(0.33, 0.31, 0.34), woods=0.75,
    ),
    "green hills": Biome(
        "rolling", 16, 0.30,
        low=(0.53, 0.66, 0.22), mid=(0.29, 0.55, 0.17), high=(0.56, 0.64, 0.27), rock=(0.42, 0.42, 0.25),
        shore=(0.40, 0.57, 0.60), deep=(0.13, 0.31, 0.50), woods=1.0,
    ),
    "red canyons": Biome(
        "carved", 23, 0.10,
        low=(0.70, 0.47, 0.29), mid=(0.77, 0.35, 0.19), high=(0.88, 0.53, 0.32), rock=(0.52, 0.19, 0.12),
        shore=(0.36, 0.50, 0.40), deep=(0.16, 0.36, 0.36),
    ),
    "sand dunes": Biome(
        "blown", 12, None,
        low=(0.70, 0.45, 0.23), mid=(0.89, 0.64, 0.35), high=(0.98, 0.79, 0.49), rock=(0.78, 0.51, 0.27),
    ),
    "tropical islands": Biome(
        "rolling", 19, 0.50,
        low=(0.95, 0.86, 0.60), mid=(0.19, 0.50, 0.19), high=(0.31, 0.48, 0.22), rock=(0.43, 0.38, 0.31),
        shore=(0.24, 0.82, 0.77), deep=(0.03, 0.28, 0.54), woods=0.8,
    ),
    "lava fields": Biome(
        "ridged", 19, 0.24,
        low=(0.27, 0.21, 0.20), mid=(0.20, 0.17, 0.18), high=(0.37, 0.33, 0.34), rock=(0.13, 0.11, 0.12),
        shore=(1.00, 0.34, 0.04), deep=(1.00, 0.70, 0.18), glows=True,
    ),
}  # fmt: skip
