"""Pictures of a flight from its poses, column by column ("voxel space").

Along the ground under each column of the picture heights are sampled and projected; their running maximum is the
skyline of all that is nearer, and a search in it finds the place of land that each pixel shows. A bank tilts the
horizon and leaves columns upright (a shear), so bearings are exact: column `c` of `w` shows what lies
atan((c + 1/2 - w/2) / `focal`) to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as nnf

from datamodules.worlds.flight import landmarks, lens, veils
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS, lights, lit, sky
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.terrain import ALIGN, SIDE, ramp, snowed, window
from datamodules.worlds.flight.voyages import Voyage

SIZE = 64
VIEW = 1.4
"""Width of the view at a distance of 1: 70 degrees."""

NEAR, FAR, SAMPLES = 2.0, 84.0, 100
FINE = 2
"""Samples in the height of a pixel."""

SPAN = 34.0
"""A window of land serves poses that lie so close together: (SIDE - ALIGN - SPAN) / 2 is more than FAR."""

TOGETHER = 24
"""Pictures that are drawn at once."""


def render_flights(voyages: Sequence[Voyage], poses: Tensor | Sequence[Tensor], size: int = SIZE) -> Tensor:
    """Pictures `[B, T, 3, size, size]` in [-1, 1] of each flight at its poses `[B, T, 8]`."""
    return torch.stack([render_flight(v, p, size) for v, p in zip(voyages, poses, strict=True)])


def render_flight(voyage: Voyage, poses: Tensor, size: int = SIZE) -> Tensor:
    """Pictures `[T, 3, size, size]` in [-1, 1] at poses `[T, 8]`; each is the same whatever others are asked for."""
    across = float((poses[:, :2].amax(0) - poses[:, :2].amin(0)).max())
    if len(poses) > 1 and (len(poses) > TOGETHER or across > SPAN):
        half = len(poses) // 2
        return torch.cat([render_flight(voyage, poses[:half], size), render_flight(voyage, poses[half:], size)])
    return _together(voyage, poses.double(), size) * 2 - 1


def _together(voyage: Voyage, poses: Tensor, size: int) -> Tensor:
    """The same in [0, 1] for poses that are close together."""
    t, focal, weather = len(poses), size / VIEW, WEATHERS[voyage.weather]
    middle = (poses[:, :2].amin(0) + poses[:, :2].amax(0)) / 2
    cx, cy = (int(c) for c in ((middle - SIDE / 2) / ALIGN).round().long() * ALIGN)
    share = voyage.changed(poses[:, 6])
    height, maps = _maps(voyage, (cx, cy), bool((share > 0).any()))
    u = (torch.arange(size) + 0.5 - size / 2) / focal
    v = (size / 2 - (torch.arange(size * FINE) + 0.5) / FINE) / focal
    eye = (poses[:, :2] - torch.tensor([cx, cy])).float()
    heading = poses[:, 3, None]
    ray = torch.stack([heading.sin() + u * heading.cos(), heading.cos() - u * heading.sin()], -1).float()  # [T, w, 2]
    tilt = (poses[:, 4, None].tan() - poses[:, 5, None].tan() * u).float()[:, None]  # [T, 1, w]
    depth, solid = _depths(height, eye, ray, poses[:, 2].float(), v[:, None] + tilt)

    at = eye[:, None, None] + ray[:, None] * depth[..., None]  # [T, rows, w, 2]
    surface = _sampled(maps, at.flatten(0, 1)).view(-1, t, size, FINE, size)
    solid = solid.view(t, size, FINE, size).float()
    part = solid / solid.sum(2, keepdim=True).clamp(min=1)  # means are over samples that hit the land
    surface = (surface * part).sum(3).transpose(0, 1)
    depth, solid = (depth.view(t, size, FINE, size) * part).sum(2)[:, None], solid.mean(2)[:, None]

    light = lights(TIMES[voyage.time], TIMES[voyage.later], share)
    rise = v.view(size, FINE).mean(1)[:, None] + tilt[:, None]
    heaven, haze = sky(voyage.seed, light, weather, voyage.azimuth, poses, u, rise)
    colour = surface[:, :3]
    if len(maps) > 4:
        colour = torch.lerp(colour, surface[:, 4:], share.view(-1, 1, 1, 1))
    away = depth * (1 + u.square()).sqrt()
    mirror = surface[:, 3:4] * (0.15 + 0.5 * ramp(away, 10, 60))
    veil = torch.maximum(1 - torch.exp(-((away / weather.reach) ** 1.6)), ramp(away, 0.70 * FAR, 0.98 * FAR))
    picture = torch.lerp(torch.lerp(colour, haze, mirror), haze, veil)
    picture = torch.lerp(heaven, picture, solid)
    seen = landmarks.sight(voyage, poses)
    before = torch.where(solid > 0.5, depth, torch.inf)[:, 0]
    picture = landmarks.drawn(seen, picture, before, haze, light, weather.reach, poses, focal)
    if voyage.veils:
        white = (0.5 * light.horizon + 0.5 * light.day)[:, :, 0, 0].expand(t, 3)
        picture = veils.veiled(voyage.seed, picture, u, rise, poses, white)
    return lens.through_lens(voyage.lens, voyage.seed, picture.clamp(0, 1), poses[:, 7])


def _maps(voyage: Voyage, corner: tuple[int, int], changes: bool) -> tuple[Tensor, Tensor]:
    """Heights `[SIDE, SIDE]`; colour in the flight's light, what mirrors, and the colour after the change
    `[4 or 7, SIDE, SIDE]`."""
    land, glows = window(voyage.seed, voyage.biome, corner), BIOMES[voyage.biome].glows
    now = lit(land, land.matter, glows, TIMES[voyage.time], voyage.azimuth)
    mirror = torch.zeros_like(land.wet) if glows else land.wet
    if not changes:
        return land.height, torch.cat([now, mirror[None]])
    white = replace(land, matter=snowed(land.matter, land.steepness))
    return land.height, torch.cat(
        [now, mirror[None], lit(white, white.matter, glows, TIMES[voyage.later], voyage.azimuth)]
    )


def _depths(height: Tensor, eye: Tensor, ray: Tensor, z: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """Units ahead `[T, rows, w]` at which rays meet the land, and whether they do.

    Args:
        eye: place of the camera in the window `[T, 2]`; z: its height `[T]`.
        rise: of the rays `[T, rows, w]` for a unit ahead.
        ray: way over the ground `[T, w, 2]` of each column for a unit ahead.
    """
    far = NEAR * (FAR / NEAR) ** torch.linspace(0, 1, SAMPLES)
    at = eye[:, None, None] + ray[:, :, None] * far[:, None]  # [T, w, SAMPLES, 2]
    ground = _sampled(height[None], at.flatten(0, 1)).view(at.shape[:-1])
    skyline = ((ground - z[:, None, None]) / far).cummax(-1).values
    wanted = rise.transpose(1, 2).contiguous()
    index = torch.searchsorted(skyline, wanted)  # of the first sample that stands so high
    after, before = index.clamp(1, SAMPLES - 1), (index - 1).clamp(0, SAMPLES - 2)
    low, high = skyline.gather(-1, before), skyline.gather(-1, after)
    share = ((wanted - low) / (high - low).clamp(min=1e-5)).clamp(0, 1)
    return torch.lerp(far[before], far[after], share).transpose(1, 2), (index < SAMPLES).transpose(1, 2)


def _sampled(maps: Tensor, at: Tensor) -> Tensor:
    """Maps `[C, SIDE, SIDE]` at places `[n, m, 2]` (x, y) in them, between samples in a straight line: `[C, n, m]`."""
    place = at[None] * (2 / (SIDE - 1)) - 1
    return nnf.grid_sample(maps[None], place, mode="bilinear", padding_mode="border", align_corners=True)[0]
