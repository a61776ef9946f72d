"""The tiny world: an endless, seeded, procedural flyover whose every frame is known.

A camera flies over a plain strewn with discs; new ones enter for ever, because what lies in a cell is a hash of
(seed, cell). A ball may bounce in the view. A flight is seven small facts, its caption says them in plain words,
and a rollout can therefore be *measured* against its prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.worlds.kinds import Kind as Kind

VIEW = 32
"""Height and width of a picture, in pixels."""

CELL = 16
"""The plain is a grid of cells of so many pixels, each with at most one disc."""

FPS = 8

HEADINGS: dict[str, tuple[int, int]] = {  # camera motion (dx, dy); y points down, so north is -1
    "north": (0, -1),
    "north-east": (1, -1),
    "east": (1, 0),
    "south-east": (1, 1),
    "south": (0, 1),
    "south-west": (-1, 1),
    "west": (-1, 0),
    "north-west": (-1, -1),
}
SPEEDS = {"slow": 1, "fast": 2}  # pixels a picture
PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {  # ground, two colours of discs
    "green meadow": ((60, 140, 70), (20, 70, 40), (225, 205, 80)),
    "yellow desert": ((220, 190, 120), (140, 85, 50), (70, 150, 150)),
    "blue ocean": ((40, 80, 160), (215, 215, 190), (40, 165, 120)),
    "pale snow": ((190, 205, 225), (90, 110, 150), (40, 60, 80)),
    "dark lava": ((85, 35, 40), (240, 130, 30), (35, 15, 30)),
    "violet city": ((55, 40, 100), (225, 90, 190), (80, 200, 220)),
}
MOVERS: dict[str, tuple[int, int, int] | None] = {
    "a white ball bounces": (255, 250, 250),
    "a red ball bounces": (235, 30, 45),
    "nothing else moves": None,
}
BALL_RADIUS = 3.2
TEMPLATES = (
    "a {speed} flight {heading} over a {palette}, {mover}",
    "flying {heading} over a {palette}, {speed}, {mover}",
    "a {palette} seen from above, {speed} flight {heading}, {mover}",
)


@dataclass(frozen=True)
class Flight:
    """Everything that is true of a clip. `camera(t)` and the pictures follow from it."""

    seed: int
    heading: str
    speed: str
    palette: str
    mover: str
    start: tuple[int, int]
    ball: tuple[float, float, float, float]  # start (x, y) on the unfolded track, velocity

    @property
    def velocity(self) -> tuple[int, int]:
        """Pixels a picture, (dx, dy)."""
        dx, dy = HEADINGS[self.heading]
        return dx * SPEEDS[self.speed], dy * SPEEDS[self.speed]

    @property
    def caption(self) -> str:
        words = {k: v for k, v in asdict(self).items() if isinstance(v, str)}
        return TEMPLATES[self.seed % len(TEMPLATES)].format(**words)

    @property
    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "velocity": list(self.velocity)}


def flight(seed: int, index: int, **fixed: str) -> Flight:
    """The flight number `index` of the world `seed`; `fixed` sets heading, speed, palette or mover."""
    digest = hashlib.blake2b(f"flight {seed} {index}".encode(), digest_size=8).digest()
    own = int.from_bytes(digest, "big") >> 1
    g = torch.Generator().manual_seed(own)

    def pick(options: Sequence[str], name: str) -> str:
        drawn = options[int(torch.randint(len(options), (1,), generator=g))]
        return fixed.get(name, drawn)

    heading, speed = pick(list(HEADINGS), "heading"), pick(list(SPEEDS), "speed")
    palette, mover = pick(list(PALETTES), "palette"), pick(list(MOVERS), "mover")
    x, y = torch.randint(0, 100_000, (2,), generator=g).tolist()
    track = 2 * (VIEW - 9)
    at = (torch.rand(2, generator=g) * track).tolist()
    pace = (0.7 + 0.8 * torch.rand(2, generator=g)).tolist()
    return Flight(own, heading, speed, palette, mover, (x, y), (at[0], at[1], pace[0], pace[1]))


def render_flyover(flights: Sequence[Flight], pictures: int, first: int = 0) -> Tensor:
    """Pictures first..first+pictures-1 of each flight, `[B, T, 3, 32, 32]` in [-1, 1]."""
    t = torch.arange(first, first + pictures)
    velocity = torch.tensor([f.velocity for f in flights])
    camera = torch.tensor([f.start for f in flights])[:, None] + t[None, :, None] * velocity[:, None]  # [B, T, 2]
    corner = camera.amin(1)
    span = int((camera.amax(1) - corner).max()) + VIEW
    cell0 = corner.div(CELL, rounding_mode="floor")
    colours = torch.stack([torch.stack([_rgb(c) for c in PALETTES[f.palette]]) for f in flights])
    side = (span // CELL + 2) * CELL
    canvas = colours[:, 0, None, None].expand(-1, side, side, -1)
    ground = strewn(canvas, [f.seed for f in flights], cell0, colours[:, 1], colours[:, 2])
    return balls(seen(ground, camera - cell0[:, None] * CELL), flights, t).movedim(-1, 2).contiguous()


def seen(ground: Tensor, corner: Tensor) -> Tensor:
    """Views `[B, T, 32, 32, 3]` of `ground` [B, P, P, 3] with their corners at the pixels `corner` [B, T, 2] (x, y)."""
    pixel = torch.arange(VIEW)
    xs, ys = corner[..., 0, None] + pixel, corner[..., 1, None] + pixel  # [B, T, 32]
    b = torch.arange(len(ground))[:, None, None, None]
    return ground[b, ys[..., :, None], xs[..., None, :]]


def _rgb(colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32) / 127.5 - 1


def strewn(
    canvas: Tensor, flight_seeds: Sequence[int], cell0: Tensor, one: Tensor, other: Tensor, density: float = 0.8
) -> Tensor:
    """`canvas` [B, P, P, 3] with discs in two colours [B, 3]. Its corner is that of cell `cell0` [B, 2] (x, y), P is a
    multiple of 16; `density` is the share of cells that have a disc."""
    cells = canvas.shape[1] // CELL
    seeds = torch.tensor([s & 0x7FFFFFFF for s in flight_seeds])[:, None, None]
    index = torch.arange(-1, cells + 1)
    cy = cell0[:, 1, None, None] + index[None, :, None]
    cx = cell0[:, 0, None, None] + index[None, None, :]
    there, radius, off_x, off_y, kind = _unit_hash(seeds, cx, cy, 5).unbind(-1)
    radius = torch.where(there < density, 3 + 3 * radius, torch.full_like(radius, -9.0))
    centre_x = (index[None, None, :] + 0.5) * CELL + 8 * off_x - 4
    centre_y = (index[None, :, None] + 0.5) * CELL + 8 * off_y - 4
    pixels = torch.arange(cells * CELL).float()
    for dy in (0, 1, 2):  # row-major over the neighbouring cells: the same overlap wherever the view starts
        for dx in (0, 1, 2):
            near = (slice(None), slice(dy, dy + cells), slice(dx, dx + cells))
            r, x, y, k = (_to_pixels(v[near]) for v in (radius, centre_x, centre_y, kind))
            distance = ((pixels[None, :, None] - y) ** 2 + (pixels[None, None, :] - x) ** 2).sqrt()
            alpha = torch.sigmoid((r - distance) * 2.5)[..., None]
            colour = torch.where(k[..., None] < 0.5, one[:, None, None], other[:, None, None])
            canvas = torch.lerp(canvas, colour, alpha)
    return canvas


def _to_pixels(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def _unit_hash(seed: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for every (seed, x, y): wrapping integer mixing, equal on every machine."""
    h = seed * 0x1F123BB5 + x * 0x2545F491 + y * 0x5851F42D
    h = h[..., None] + torch.arange(1, count + 1) * 0x14057B7E
    for multiplier in (0x2C1B3C6D, 0x297A2D39, 0x1B56C4E9):
        h = (h ^ ((h >> 15) & 0x1FFFFFFFFFFFF)) * multiplier
    h = h ^ ((h >> 17) & 0x7FFFFFFFFFFF)
    return (h & 0xFFFFFF).float() / 2**24


def balls(video: Tensor, flights: Sequence[Flight], t: Tensor) -> Tensor:
    """Draws each flight's ball, which bounces between the edges of the view."""
    with_ball = [i for i, f in enumerate(flights) if MOVERS[f.mover] is not None]
    if not with_ball:
        return video
    at = ball_positions([flights[i] for i in with_ball], t)
    colour = torch.stack([_rgb(c) for i in with_ball if (c := MOVERS[flights[i].mover]) is not None])
    pixel = torch.arange(VIEW).float()
    dx, dy = pixel - at[..., 0, None], pixel - at[..., 1, None]
    distance = (dx[..., None, :] ** 2 + dy[..., :, None] ** 2).sqrt()
    alpha = torch.sigmoid((BALL_RADIUS - distance) * 2.5)[..., None]
    video[with_ball] = torch.lerp(video[with_ball], colour[:, None, None, None], alpha)
    return video


def ball_positions(flights: Sequence[Flight], t: Tensor) -> Tensor:
    """Centre (x, y) of each flight's ball in the view at pictures `t`, `[B, T, 2]`."""
    ball = torch.tensor([f.ball for f in flights])
    low, width = 4.0, VIEW - 9.0
    track = (ball[:, None, :2] + ball[:, None, 2:] * t[None, :, None]) % (2 * width)
    return torch.where(track > width, 2 * width - track, track) + low


def colour(hue: Tensor, shade: tuple[float, float]) -> Tensor:
    """Colours `[..., 3]` of hues in turns: brightness plus a circle in the plane of the chroma."""
    brightness, strength = shade
    third = torch.arange(3) / 3
    return brightness + strength * torch.cos(2 * math.pi * (hue[..., None] - third))
