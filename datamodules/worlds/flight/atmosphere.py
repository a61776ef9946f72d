"""Times of day and weathers: the light on the land, the sky, its clouds and the haze."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as nnf

from datamodules.worlds.flight.biomes import RGB
from datamodules.worlds.flight.lattice import noise_map
from datamodules.worlds.flight.terrain import Window, ramp, slopes

DECK = 26.0
"""Height of the clouds above the camera, in units."""

MAP = 128
"""Side of the map of clouds, which repeats, in its own samples of two units."""


@dataclass(frozen=True)
class Tone:
    """One time of day: colours of the sky overhead and at the horizon, of the sun's light on what faces it and of the
    rest of the light, of the glow about the sun; the sun's height (radians)."""

    zenith: RGB
    horizon: RGB
    sun: RGB
    shade: RGB
    glow: RGB
    height: float


TIMES: dict[str, Tone] = {
    "sunrise": Tone(
        (0.30, 0.44, 0.72), (0.99, 0.80, 0.60), (1.05, 0.74, 0.46), (0.38, 0.40, 0.50), (0.36, 0.24, 0.02), 0.19
    ),
    "noon": Tone(
        (0.17, 0.41, 0.85), (0.74, 0.86, 0.97), (0.72, 0.69, 0.62), (0.40, 0.45, 0.53), (0.12, 0.10, 0.06), 0.85
    ),
    "sunset": Tone(
        (0.27, 0.17, 0.46), (0.96, 0.48, 0.37), (1.02, 0.54, 0.36), (0.42, 0.34, 0.47), (0.42, 0.26, 0.05), 0.12
    ),
    "night": Tone(
        (0.03, 0.05, 0.16), (0.16, 0.23, 0.42), (0.38, 0.46, 0.62), (0.20, 0.24, 0.36), (0.15, 0.17, 0.19), 0.36
    ),
}


@dataclass(frozen=True)
class Weather:
    """Distance at which haze takes 63% of what is seen, in units, and how much of the sky clouds cover, 0 to 1."""

    reach: float
    cover: float


WEATHERS: dict[str, Weather] = {
    "clear sky": Weather(95.0, 0.0),
    "scattered clouds": Weather(80.0, 1.0),
    "thick haze": Weather(34.0, 0.15),
}


@dataclass(frozen=True)
class Light:
    """A time of day at each picture: the colours of `Tone` as `[T, 3, 1, 1]`, the height `[T, 1, 1, 1]`."""

    zenith: Tensor
    horizon: Tensor
    sun: Tensor
    shade: Tensor
    glow: Tensor
    height: Tensor

    @property
    def day(self) -> Tensor:
        """Light on level ground `[T, 3, 1, 1]`."""
        return 0.45 * self.sun + self.shade


def lights(early: Tone, late: Tone, share: Tensor) -> Light:
    """From `early` to `late`, by `share` [T] of the way."""

    def between(name: str) -> Tensor:
        a, b = (torch.tensor(getattr(tone, name)).view(1, -1, 1, 1) for tone in (early, late))
        return torch.lerp(a, b, share.view(-1, 1, 1, 1))

    return Light(**{f.name: between(f.name) for f in fields(Tone)})


def lit(land: Window, matter: Tensor, glows: bool, tone: Tone, azimuth: float) -> Tensor:
    """Colour of the land `[3, SIDE, SIDE]` under a sun at `azimuth`: facing, cast shadows, hollows, water by day."""
    height = land.height
    dx, dy = slopes(height)
    up = 1 - land.steepness
    low = max(tone.height, 0.36)  # of the light on slopes: a lower sun would leave all in shadow
    sx, sy, sz = math.sin(azimuth) * math.cos(low), math.cos(azimuth) * math.cos(low), math.sin(low)
    facing = ((sz - dx * sx - dy * sy) * up).clamp(min=0)
    shadow = torch.zeros(())
    for far in (2, 4, 7, 11, 16):
        over = torch.roll(height, (-round(far * math.cos(azimuth)), -round(far * math.sin(azimuth))), (0, 1))
        shadow = torch.maximum(shadow, (over - height - far * math.tan(low)) / (0.25 * far + 0.5))
    facing = facing * (1 - 0.8 * shadow.clamp(0, 1))
    around = torch.roll(height, 5, 0) + torch.roll(height, -5, 0) + torch.roll(height, 5, 1) + torch.roll(height, -5, 1)
    open_ = 1 - ((around / 4 - height) * 0.10).clamp(-0.3, 0.5)
    sun, shade = (torch.tensor(c)[:, None, None] for c in (tone.sun, tone.shade))
    dry = matter * (sun * facing + shade * open_)
    fluid = land.fluid if glows else land.fluid * (0.45 * sun + shade)
    return torch.lerp(dry, fluid, land.wet)


def cloud_map(seed: int) -> Tensor:
    """Thickness of clouds `[MAP + 1, MAP + 1]`; the last row and column are the first again."""
    octaves = [noise_map(seed, 60 + i, (0, 0), MAP, (step, step), MAP // step) for i, step in enumerate((32, 16, 8, 4))]
    thick = sum(weight * octave for weight, octave in zip((0.75, 0.6, 0.35, 0.16), octaves, strict=True))
    return nnf.pad(torch.as_tensor(thick)[None], (0, 1, 0, 1), mode="circular")[0]


def sky(
    seed: int, light: Light, weather: Weather, azimuth: float, poses: Tensor, u: Tensor, rise: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours of the sky `[T, 3, h, w]` and of the haze `[T, 3, 1, w]` at the pixels.

    Args:
        azimuth: of the sun.
        poses: `[T, 8]` (see `camera_path`).
        u: columns `[w]` as tangents from the middle of the view.
        rise: `[T, 1, h, w]` of a ray for each unit ahead.
    """
    across = (1 + u.square()).rsqrt()
    steep = rise * across  # tangent of a ray's elevation
    turn = (azimuth - poses[:, 3]).float().view(-1, 1, 1, 1)
    level = (turn.sin() * u + turn.cos()) * across  # cosine of the angle to the sun along the horizon [T, 1, 1, w]
    near = (level * light.height.cos() + steep * light.height.sin()) * (1 + steep.square()).rsqrt()
    halo = torch.exp((near - 1) * 9)
    base = torch.lerp(light.zenith, light.horizon, torch.exp(-3.1 * steep.clamp(min=0)))
    haze = light.horizon + 0.7 * light.glow * torch.exp((level - 1) * 5)
    bright = light.glow * halo
    base = base + bright
    cloud = torch.zeros(())
    if weather.cover:
        far = DECK / steep.clamp(min=0.07) * across
        heading = poses[:, 3].float().view(-1, 1, 1)
        at = torch.stack(
            [
                (poses[:, 0] % (2 * MAP)).float().view(-1, 1, 1) + far[:, 0] * (heading.sin() + u * heading.cos()),
                (poses[:, 1] % (2 * MAP)).float().view(-1, 1, 1) + far[:, 0] * (heading.cos() - u * heading.sin()),
            ],
            -1,
        )
        at = (at / (2 * MAP)) % 1 * 2 - 1
        thick = nnf.grid_sample(cloud_map(seed)[None, None], at.flatten(0, 1)[None], align_corners=True)
        thick = thick.view(len(poses), 1, *rise.shape[-2:])
        cloud = weather.cover * ramp(thick, -0.1, 1.0) * ramp(steep, 0.04, 0.20)
        top = (0.4 * light.horizon + 0.6 * (light.sun + light.shade)).clamp(max=1)
        under = torch.lerp(top, 0.75 * light.shade + 0.35 * light.horizon, 0.8 * ramp(thick, 0.5, 1.9))
        base = torch.lerp(base, under + 0.5 * bright, cloud)
    disc = torch.sigmoid((near - math.cos(0.07)) * 2500)
    core = (0.5 * light.sun + 0.65).clamp(max=1)
    return torch.lerp(base, core, disc * (1 - 0.7 * cloud)), haze
