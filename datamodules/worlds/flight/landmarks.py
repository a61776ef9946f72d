"""Balloons and towers: where they stand, what is seen of them, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.worlds.flight.atmosphere import Light
from datamodules.worlds.flight.biomes import RGB
from datamodules.worlds.flight.lattice import number, numbers
from datamodules.worlds.flight.terrain import ramp, terrain_height
from datamodules.worlds.flight.voyages import Voyage

COLOURS: dict[str, RGB] = {
    "red": (0.93, 0.10, 0.12),
    "yellow": (0.98, 0.86, 0.08),
    "blue": (0.12, 0.24, 0.92),
    "magenta": (0.92, 0.14, 0.80),
}
DRIFTER: RGB = (0.10, 0.88, 0.80)
"""Colour of the balloon that the wind carries; `Sight.colour` is then the number of colours."""

CELL, DENSITY = 32, 0.6
"""The land is a grid of cells of so many units; this share of them has a landmark."""

NEAREST, FARTHEST = 6.5, 75.0
PATCH = 34
"""Side of the square that is drawn about a landmark, in pixels."""

WIND = 0.18
"""Units a picture."""


@dataclass(frozen=True)
class Sight:
    """Landmarks near a flight, at each of its pictures.

    Attributes:
        side, ahead: units to the right of and along the view `[T, N]`.
        above: units above the camera `[T, N]`, of a balloon's middle or a tower's foot.
        colour: number of the colour `[N]`.
        balloon: `[N]`, otherwise it is a tower.
    """

    side: Tensor
    ahead: Tensor
    above: Tensor
    colour: Tensor
    balloon: Tensor

    @property
    def bearing(self) -> Tensor:
        """Radians to the right of the middle of the view `[T, N]`."""
        return torch.atan2(self.side, self.ahead)


def sight(voyage: Voyage, poses: Tensor) -> Sight:
    """The landmarks within `FARTHEST` of the poses `[T, 8]`."""
    xy = poses[:, :2]
    low, high = (torch.floor(edge / CELL).long().tolist() for edge in (xy.amin(0) - FARTHEST, xy.amax(0) + FARTHEST))
    gx, gy = (torch.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    gx, gy = (g.flatten() for g in torch.meshgrid(gx, gy, indexing="ij"))
    own = [numbers(voyage.seed, 20 + i, gx, gy) for i in range(5)]
    there = own[0] < (DENSITY if voyage.landmark != "nothing else" else 0)
    gx, gy, own = gx[there], gy[there], [o[there] for o in own]
    at = torch.stack([gx + 0.2 + 0.6 * own[1].double(), gy + 0.2 + 0.6 * own[2].double()], 1) * CELL
    balloons = voyage.landmark == "hot-air balloons"
    z = terrain_height(voyage.seed, voyage.biome, at) + (6 + 6 * own[3] if balloons else 0)
    place = torch.cat([at, z.double()[:, None]], 1).expand(len(poses), -1, -1)
    colour, balloon = (own[4] * len(COLOURS)).long(), torch.full((len(at),), balloons)
    if voyage.drifting:
        place = torch.cat([place, drifted(voyage, poses[:, 7])[:, None]], 1)
        colour, balloon = (torch.cat([x, torch.tensor([y])]) for x, y in ((colour, len(COLOURS)), (balloon, True)))
    away = place - poses[:, None, :3]
    sin, cos = poses[:, 3, None].sin(), poses[:, 3, None].cos()
    ahead = away[..., 0] * sin + away[..., 1] * cos
    side = away[..., 0] * cos - away[..., 1] * sin
    return Sight(side.float(), ahead.float(), away[..., 2].float(), colour, balloon)


def drifted(voyage: Voyage, clock: Tensor) -> Tensor:
    """Place `[T, 3]` of the balloon that the wind carries; at picture 0 it is before the start, to one side."""
    off = voyage.heading + 0.5 * (2 * number(voyage.seed, 30) - 1)
    wind = 2 * math.pi * number(voyage.seed, 31)
    x = voyage.start[0] + 26 * math.sin(off) + WIND * math.sin(wind) * clock
    y = voyage.start[1] + 26 * math.cos(off) + WIND * math.cos(wind) * clock
    at = torch.tensor([[voyage.start[0], voyage.start[1]]], dtype=torch.float64)
    z = float(terrain_height(voyage.seed, voyage.biome, at)) + 13.0
    return torch.stack([x, y, torch.full_like(x, z)], 1)


def drawn(
    seen: Sight, picture: Tensor, depth: Tensor, haze: Tensor, light: Light, reach: float, poses: Tensor, focal: float
) -> Tensor:
    """`picture` [T, 3, h, w] with the landmarks of `seen` in it, nearer ones before farther ones.

    Args:
        depth: of the land `[T, h, w]`, in units ahead; infinite in the sky.
        haze: `[T, 3, 1, w]`; reach: as in `Weather`.
        focal: pixels for a tangent of 1.
    """
    h, w = picture.shape[-2:]
    wide = seen.side.abs() < seen.ahead * (0.5 * w / focal) + 2.5
    frame, which = ((seen.ahead > NEAREST) & (seen.ahead < FARTHEST) & wide).nonzero(as_tuple=True)
    if not len(frame):
        return picture
    ahead = seen.ahead[frame, which]
    order = torch.argsort(frame * 4096 - ahead.double())  # picture by picture, the farthest first
    frame, which, ahead = frame[order], which[order], ahead[order]
    roll, level = (poses[frame, i].tan().float() for i in (5, 4))
    du, scale = seen.side[frame, which] / ahead, focal / ahead
    x = w / 2 - 0.5 + focal * du
    y = h / 2 - 0.5 - focal * (seen.above[frame, which] / ahead + roll * du - level)
    lift = torch.where(seen.balloon[which], 0.0, 3.0) * scale  # the middle of a tower is above its foot
    left, top = (x - PATCH / 2).round().long(), (y - lift - PATCH / 2).round().long()
    grid = torch.arange(PATCH)
    cols, rows = left[:, None, None] + grid, top[:, None, None] + grid[:, None]  # [K, 1, P], [K, P, 1]
    right, down = (cols - x[:, None, None]), (rows - y[:, None, None])
    upright = torch.cos(poses[frame, 5]).float()[:, None, None]
    sway = torch.sin(poses[frame, 5]).float()[:, None, None]
    unit = scale[:, None, None]
    px, py = (upright * right - sway * down) / unit, -(upright * down + sway * right) / unit
    cover, colour = _shapes(px, py, unit, seen.balloon[which], seen.colour[which])

    inside = (cols >= 0) & (cols < w) & (rows >= 0) & (rows < h)
    at = (frame[:, None, None] * h + rows.clamp(0, h - 1)) * w + cols.clamp(0, w - 1)
    free = depth.flatten()[at] > ahead[:, None, None] - 1
    fade = (1 - ramp(ahead, 58, FARTHEST)) * ramp(ahead, NEAREST, NEAREST + 1.5)
    cover = cover * fade[:, None, None] * (free & inside)
    veil = 1 - torch.exp(-((ahead / reach) ** 1.6))[:, None, None, None]
    tone = (0.6 * light.sun + light.shade + 0.12).clamp(max=1).expand(len(poses), -1, -1, -1)[frame]
    flat = picture.transpose(0, 1).flatten(1).clone()  # [3, T * h * w]
    air = haze[:, :, 0].transpose(0, 1).flatten(1)[:, frame[:, None, None] * w + cols.clamp(0, w - 1)].transpose(0, 1)
    colour = torch.lerp(colour * tone, air, veil)
    rank = torch.arange(len(frame)) - torch.searchsorted(frame, frame)
    for r in range(int(rank.max()) + 1):
        k = rank == r
        spot, share = at[k][inside[k]], cover[k][inside[k]]
        flat[:, spot] = torch.lerp(flat[:, spot], colour[k].transpose(0, 1)[:, inside[k]], share)
    return flat.view(3, len(poses), h, w).transpose(0, 1)


def _shapes(px: Tensor, py: Tensor, unit: Tensor, balloon: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Cover `[K, P, P]` and colour `[K, 3, P, P]` at offsets (units right of and above the landmark)."""
    paint = torch.tensor([*COLOURS.values(), DRIFTER])[colour][:, :, None, None]
    bag = ((px / 2.0).square() + ((py - 0.3) / 2.3).square()).sqrt()
    taper = ((px / (1.1 + 0.45 * (py + 2.6)).clamp(min=0.3)).abs() - 1) * 1.2
    skirt = torch.maximum(torch.maximum(taper, -2.6 - py), py + 0.8)
    basket = torch.maximum(px.abs() - 0.5, (py + 3.3).abs() - 0.45)
    edge = torch.minimum(torch.minimum((bag - 1) * 2.0, skirt), basket)
    shade = (0.84 + 0.13 * px / 2 + 0.15 * py / 2.3).clamp(0.4, 1.12)[:, None]
    gores = 1 - 0.12 * (torch.cos(px * 4.4 / (1 + 0.12 * py.square())) > 0.4)[:, None].float()
    air = torch.where((py > -2.75)[:, None], paint * shade * gores, torch.tensor(0.24))

    wall = torch.maximum(px.abs() - (0.85 - 0.045 * py), torch.maximum(py - 7.4, -2 - py))
    white = torch.tensor([0.93, 0.92, 0.90])[:, None, None] * (0.82 + 0.22 * px / 0.8).clamp(0.55, 1.05)[:, None]
    cap = ((py - 5.3) * unit + 0.5).clamp(0, 1)[:, None]
    stone = torch.lerp(white, paint, cap)

    up = balloon[:, None, None]
    cover = (0.5 - torch.where(up, edge, wall) * unit).clamp(0, 1)
    return cover, torch.where(up[:, None], air, stone)
