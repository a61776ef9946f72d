"""The tiny world's other kind: flights that leave their scene behind, over ground that no prompt describes.

In the plain world an anchor has nothing to tell. All that lasts (palette, heading, speed) stands in the prompt, and all
that moves is seen in the window, so whatever came before adds nothing to what comes next. A journey has two facts that
no prompt tells. The *ground* turns through a ring of hues with the distance flown, a lap in `LAP` pixels: the first
view is soon gone, and a stream that clings to it stops turning. The *livery* is one hue of all discs of a flight. It
never changes, differs from flight to flight, and discs are at times out of view: who forgets it lets it wander.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.worlds.flyover import CELL, HEADINGS, SPEEDS, VIEW, Flight, balls, colour, flight, seen, strewn

LAP = 192.0
"""Pixels of flight in which the ground's hue goes once round. A training clip of 21 pictures flies 20 to 57."""

GROUND = (-0.16, 0.5)
DISC = (0.44, 0.52)
"""Brightness (the mean of the three channels) and strength of colour, in the units of video. Discs are brighter than
any ground, so the two can be told apart whatever their hues."""

DENSITY = 0.3
"""Share of cells with a disc; in the plain world it is 0.8."""

COMPANY = ("a white ball bounces", "nothing else moves")
"""Movers whose colour is no hue."""

TEMPLATES = (
    "a {speed} journey {heading}, {mover}",
    "travelling {heading}, {speed}, {mover}",
    "a {speed} journey seen from above, {heading}, {mover}",
)


@dataclass(frozen=True)
class Journey(Flight):
    """A flight with what its caption does not say.

    Attributes:
        region: hue of the ground in the middle of the first view, in turns.
        livery: hue of the discs, in turns.
        lap: pixels of flight in which the ground's hue goes once round.
    """

    region: float
    livery: float
    lap: ClassVar[float] = LAP

    @property
    def caption(self) -> str:
        return TEMPLATES[self.seed % len(TEMPLATES)].format(speed=self.speed, heading=self.heading, mover=self.mover)

    @property
    def turning(self) -> float:
        """Turns of the ground's hue a picture, in the middle of the view."""
        return math.hypot(*self.velocity) / self.lap


def journey(seed: int, index: int, **fixed: str) -> Journey:
    """The journey number `index` of the world `seed`; `fixed` sets heading, speed or mover."""
    digest = hashlib.blake2b(f"journey {seed} {index}".encode(), digest_size=9).digest()
    plain = flight(seed, index, **{"mover": COMPANY[digest[8] % len(COMPANY)], **fixed})
    if plain.mover not in COMPANY:
        raise ValueError(f"mover {plain.mover!r}: a journey has {' or '.join(COMPANY)}")
    region, livery = (int.from_bytes(part, "big") / 2**32 for part in (digest[:4], digest[4:8]))
    return Journey(**{**asdict(plain), "palette": "", "region": region, "livery": livery})


def even_journeys(count: int, seed: int) -> list[Journey]:
    """Journeys whose headings, speeds and movers are spread evenly: 32 have each combination once."""
    headings, speeds = list(HEADINGS), list(SPEEDS)
    return [
        journey(seed, i, heading=headings[i % 8], speed=speeds[(i // 8) % 2], mover=COMPANY[(i // 16) % 2])
        for i in range(count)
    ]


def render_journey(journeys: Sequence[Journey], pictures: int, first: int = 0) -> Tensor:
    """Pictures first..first+pictures-1 of each journey, `[B, T, 3, 32, 32]` in [-1, 1]."""
    view = scenery(journeys, pictures, first)
    return balls(view, journeys, torch.arange(first, first + pictures)).movedim(-1, 2).contiguous()


def scenery(journeys: Sequence[Journey], pictures: int, first: int = 0) -> Tensor:
    """Ground and discs without the ball, `[B, T, 32, 32, 3]`."""
    t = torch.arange(first, first + pictures)
    velocity = torch.tensor([j.velocity for j in journeys])
    start = torch.tensor([j.start for j in journeys])
    camera = start[:, None] + t[None, :, None] * velocity[:, None]  # [B, T, 2]
    corner = camera.amin(1)
    cell0 = corner.div(CELL, rounding_mode="floor")
    side = (int((camera.amax(1) - corner).max()) + VIEW) // CELL * CELL + 2 * CELL
    canvas = _ground(journeys, cell0 * CELL - start, side)
    livery = colour(torch.tensor([j.livery for j in journeys]), DISC)
    ground = strewn(canvas, [j.seed for j in journeys], cell0, livery, livery, DENSITY)
    return seen(ground, camera - cell0[:, None] * CELL)


def _ground(journeys: Sequence[Journey], corner: Tensor, side: int) -> Tensor:
    """Ground `[B, P, P, 3]` whose corner is `corner` [B, 2] (x, y) pixels from the first view's."""
    step = torch.tensor([HEADINGS[j.heading] for j in journeys], dtype=torch.float32)
    ahead = step / step.norm(dim=1, keepdim=True)
    pixel = torch.arange(side).float() - (VIEW - 1) / 2
    along_x = (corner[:, :1] + pixel) * ahead[:, :1]
    along_y = (corner[:, 1:] + pixel) * ahead[:, 1:]
    region, lap = (torch.tensor(v)[:, None, None] for v in ([j.region for j in journeys], [j.lap for j in journeys]))
    return colour(region + (along_y[:, :, None] + along_x[:, None, :]) / lap, GROUND)
