"""Drift of exposure, contrast and grain from a clip's own beginning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adastate.metrics.flight_pose import SURE, VIEW, cylinder, tilt, turning
from adastate.metrics.flight_scene import grain

PIVOT = 0.45
"""The brightness, from 0 to 1, that is unaffected by the flight world's contrast."""

DARK, LIGHT = 0.02, 0.98
"""Brightness above which a pixel may be clipped and is ignored."""


SURE_OF_LENS = 0.9


@dataclass(frozen=True)
class LensDrift:
    """Each picture relative to the clip's first ones, `[B, T]` each.

    Attributes:
        exposure, contrast: factors; 1 is unchanged. In units of the world's lens for a clip that began with contrast 1;
            another beginning scales both a little.
        sure: fraction of the variation shared by the sky and distant land with those of the first pictures that the
            relation explains, 0 to 1; above `SURE_OF_LENS` the factors are reliable.
    """

    exposure: Float[Tensor, "B T"]
    contrast: Float[Tensor, "B T"]
    sure: Float[Tensor, "B T"]


def lens_drift(video: Float[Tensor, "B T 3 h w"], view: float = VIEW, anchor: int = 6) -> LensDrift:
    """Change of a flight's lens, from what its pictures show in the same direction.

    Light through another lens is a x + b, with one a and b for all pixels and channels. Each picture is compared with
    one at most `anchor` pictures before it (at a multiple of `anchor`), rotated by the turn since then, and the
    relations are chained. The line is fitted for equal errors in both pictures: its slope is the ratio of their robust
    deviations.
    """
    b, t = video.shape[:2]
    far, seen = cylinder(((video + 1) / 2).float(), tilt(video), view, rows=24, low=0.03)
    turns, width = turning(video, view), 2 * torch.atan(torch.tensor(view / 2)).item() / far.shape[-1]
    way = torch.cat([torch.zeros(b, 1), (turns.rate * (turns.sure > SURE)).cumsum(1)], 1) / width
    slope, lift, sure = torch.ones(b, t), torch.zeros(b, t), torch.ones(b, t)
    for row in range(b):
        for i in range(1, t):
            base = (i - 1) // anchor * anchor
            shift = round(float(way[row, i] - way[row, base]))
            a, c, share = _relation(far[row, base], far[row, i], seen[row, base], seen[row, i], shift)
            slope[row, i], lift[row, i] = a * slope[row, base], a * lift[row, base] + c
            sure[row, i] = share * sure[row, base]
    contrast = 1 - lift / PIVOT
    return LensDrift(slope / contrast.clamp(min=0.05), contrast, sure)


def _relation(early: Tensor, late: Tensor, in_a: Tensor, in_b: Tensor, shift: int) -> tuple[float, float, float]:
    """(a, b) of late = a early + b over `[3, rows, columns]` after a turn by `shift` columns, and explained share."""
    columns = early.shape[-1]
    if abs(shift) > 0.7 * columns:
        return 1.0, 0.0, 0.0
    one, two = slice(max(0, shift), columns + min(0, shift)), slice(max(0, -shift), columns + min(0, -shift))
    x, y = early[..., one], late[..., two]
    known = (in_a[..., one] * in_b[..., two] > 0) & (x > DARK) & (x < LIGHT) & (y > DARK) & (y < LIGHT)
    x, y = x[known.expand_as(x)], y[known.expand_as(y)]
    if len(x) < 200:
        return 1.0, 0.0, 0.0
    keep = torch.ones_like(x, dtype=torch.bool)
    a, c = 1.0, 0.0
    for _ in range(4):
        a = float(y[keep].std() / x[keep].std().clamp(min=1e-4))
        c = float(y[keep].mean() - a * x[keep].mean())
        off = (y - a * x - c).abs()
        keep = off <= off.quantile(0.6)
    left = float((y - a * x - c)[keep].square().mean() / y[keep].var().clamp(min=1e-5))
    return a, c, max(0.0, 1 - left)


def drift_rates(video: Float[Tensor, "B T 3 h w"], fps: float, view: float = VIEW) -> dict[str, Float[Tensor, " B"]]:
    """How fast each clip's exposure, contrast and grain drift from those of its beginning, per second.

    For exposure and contrast the logarithm of the factor, for grain the standard deviation of light in [0, 1]: from the
    first third of the clip to the last, positive if it grows. nan where the lens is not reliable in the last third. In
    a single clip the scene has a large influence (land comes nearer, the view turns): take the median over many.
    """
    third = video.shape[1] // 3
    if third < 2:
        raise ValueError(f"{video.shape[1]} pictures: a drift needs 6 or more")
    lens, seconds = lens_drift(video, view), (video.shape[1] - third) / fps
    sure = lens.sure[:, -third:] > SURE_OF_LENS
    rates = {}
    for name, factor in (("exposure", lens.exposure), ("contrast", lens.contrast)):
        off = factor.clamp(min=0.05).log()
        late = off[:, -third:].masked_fill(~sure, torch.nan).nanmedian(1).values
        rates[name] = (late - off[:, :third].median(1).values) / seconds
    rough = grain(video)
    rates["grain"] = (rough[:, -third:].mean(1) - rough[:, :third].mean(1)) / seconds
    return rates
