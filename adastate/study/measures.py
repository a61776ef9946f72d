"""Measures of a rollout: curves over training horizons, one row per rollout, and moments of its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adastate import metrics
from adastate.study.world_truth import CHROMA, CLEAR, LONG, SHORT, hues_of, lens_of
from datamodules.worlds.flyover import PALETTES, Flight
from datamodules.worlds.fog import Foggy
from datamodules.worlds.journey import Journey

Curves = dict[str, Tensor]

VERSION = 2
"""Version of the measures. Raise it when one changes: a report omits runs measured with another version."""


@dataclass(frozen=True)
class Measure:
    """How a measure is displayed and interpreted.

    Attributes:
        about: one sentence for tables and axes.
        better: 1 if more is better, -1 if less is, 0 if it should equal that of real video.
        digits: after the decimal point.
    """

    about: str
    better: int
    digits: int = 2


PARTS = ("forward", "flow", "warp_error", "contrast", "sharpness")
"""Parts of the composite."""

CAP = 0.1
"""Cap on differences in block matching: a horizon of a journey may show no disc, and a ball must not dominate then."""

HUES = ("ground_hue", "livery_hue")
"""Curves that are not measures: their spread over the rollouts shows whether rollouts differ."""

MEASURES = {
    "forward": Measure("displacement in the prompted direction over the prompted one", 0),
    "heading": Measure("share of rollouts whose direction is the prompted one", 1),
    "palette": Measure("share of rollouts whose ground is the prompted one", 1),
    "turning": Measure("change of the ground's hue over that of the true flight", 0),
    "livery": Measure("distance of the discs' hue from that of the first horizon, in turns", -1, 3),
    "recall": Measure("error of the ground's hue after fog, in turns; 0.25 for unrelated hues", -1, 3),
    "recall_long": Measure("the same after banks of fog of ten frames or more", -1, 3),
    "held": Measure("share of chunks whose decoded hidden state has a hue", 0),
    "recall_held": Measure("recall after banks at whose end the hidden state had a hue", -1, 3),
    "recall_lost": Measure("recall after banks at whose end it had none", -1, 3),
    "from_start": Measure(
        "distance of the ground's hue from that of the first horizon, in turns; 0.25 for unrelated hues", 0, 3
    ),
    "fog": Measure("share of frames in which the ground has no hue", 0),
    "lens_drift": Measure(
        "distance of exposure, contrast and grain from those of the first horizon; 1 for another flight", -1
    ),
    "exposure": Measure("brightness of the darkest tenth of the frames", 0, 3),
    "contrast_constant": Measure("strength of colour in the most colourful tenth of the frames", 0, 3),
    "grain": Measure("strength of the pattern on the lens", 0, 3),
    "flow": Measure("mean length of the largest 5% of the optical flow, in pixels per frame", 0),
    "change": Measure("change from frame to frame over the contrast", 0, 3),
    "departure": Measure("difference from the first second over that of unrelated places", 0),
    "warp_error": Measure("part of a frame that no motion of the previous one explains", -1, 3),
    "flicker": Measure("change across borders of chunks over change within chunks", 0),
    "repetition": Measure("largest similarity to anything more than a horizon ago", 0),
    "loop": Measure("similarity at the best period, over the last three horizons", 0),
    "contrast": Measure("standard deviation over the pixels of a frame", 0, 3),
    "saturation": Measure("spread of the colour channels", 0, 3),
    "sharpness": Measure("difference of neighbouring pixels", 0, 3),
    "frechet": Measure("log(1 + Frechet distance from real flights), on normalised features", -1),
    "composite": Measure(f"geometric mean of the similarity to real flights in {', '.join(PARTS)}", 1),
}
"""In display order."""

MADE = {"frechet": (), "composite": PARTS, "from_start": ("ground_hue",)}
"""Measures that are computed when runs are compared, and the curves that they use."""


def measure_curves(video: Tensor, flights: Sequence[Flight], horizon: int, chunk: int, fps: int) -> Curves:
    """Each measure `[B, n]` over horizons of `horizon` pictures.

    Args:
        video: `[B, T, 3, h, w]`, n whole horizons.
        flights: the true flight of each row.
        chunk: pictures per chunk.
    """
    velocity = torch.tensor([f.velocity for f in flights])
    foggy = [f for f in flights if isinstance(f, Foggy)]
    # Fog that grows brighter and darker is not motion, but it would outweigh what moves.
    level = video - video.mean((2, 3, 4), keepdim=True) if foggy else video
    motion = metrics.over_time(lambda v: metrics.displacement(v, colour=True, cap=CAP), level, horizon)  # [B, n, 2]
    named = [metrics.heading(m) for m in motion.unbind(1)]
    right = [[float(name == f.heading) for name, f in zip(names, flights, strict=True)] for names in named]
    found = {
        "forward": metrics.forward(motion, velocity),
        "heading": torch.tensor(right).T,
        "flow": metrics.averaged(_small_batches(level), horizon, 2),
        "change": metrics.over_time(metrics.change, video, horizon),
        "departure": metrics.averaged(metrics.departure(video, fps), horizon),
        "warp_error": metrics.averaged(metrics.warp_error(level), horizon, 1),
        "flicker": metrics.over_time(lambda v: metrics.border_flicker(v, chunk), video, horizon),
        "repetition": metrics.averaged(metrics.repetition(video, horizon), horizon),
        "contrast": metrics.over_time(metrics.contrast, video, horizon),
        "saturation": metrics.over_time(metrics.saturation, video, horizon),
        "sharpness": metrics.over_time(metrics.sharpness, video, horizon),
        "loop": _loop(video, horizon),
    }
    journeys = [f for f in flights if isinstance(f, Journey)]
    if len(journeys) == len(flights):
        hues = _fog(video, foggy, horizon) if foggy else _journey(video, journeys, horizon)
        return {**found, **hues, **lens_of(video, flights, horizon)}
    colours = torch.tensor([PALETTES[p][0] for p in PALETTES]).float() / 127.5 - 1
    grounds = metrics.over_time(lambda v: metrics.ground(v, colours), video, horizon)
    told = torch.tensor([list(PALETTES).index(f.palette) for f in flights])
    return {**found, "palette": (grounds == told[:, None]).float()}


def _small_batches(video: Tensor) -> Tensor:
    """Dynamic degree of every picture; dense flow runs on a few rows at a time to save memory."""
    return torch.cat([metrics.dynamic_degree(metrics.flow(some, reach=5)) for some in video.split(4)])


def _loop(video: Tensor, horizon: int) -> Tensor:
    """`[B, n]`, over the three horizons that end with each; nan before there are three."""
    n, strengths = video.shape[1] // horizon, []
    for last in range(n):
        if last < 2:
            strengths.append(video.new_full((len(video),), math.nan))
        else:
            strengths.append(metrics.loop(video[:, (last - 2) * horizon : (last + 1) * horizon])[1])
    return torch.stack(strengths, 1)


def _journey(video: Tensor, journeys: Sequence[Journey], horizon: int) -> Curves:
    """Turning speed of the ground over the true one, and distance of the livery from its first horizon."""
    ground = hues_of(video, journeys)
    rate = torch.tensor([j.turning for j in journeys])[:, None]
    turned = metrics.turned(ground)
    turning = metrics.over_time(lambda x: (x[:, -1] - x[:, 0]) / (horizon - 1), turned, horizon) / rate
    return {"turning": turning, **_hues(video, ground, horizon)}


def _fog(video: Tensor, journeys: Sequence[Foggy], horizon: int) -> Curves:
    """The same in worlds with fog, plus whether the ground has the correct hue after the fog."""
    ground = hues_of(video, journeys)
    rate = torch.tensor([j.turning for j in journeys])
    step = (ground[:, 1:] - ground[:, :-1] + 0.5) % 1.0 - 0.5
    found = {
        "turning": metrics.averaged(step, horizon, 1) / rate[:, None],
        "fog": metrics.averaged(ground.isnan().float(), horizon),
    }
    for name, least in (("recall", SHORT), ("recall_long", LONG)):
        found[name] = metrics.averaged(metrics.across_gaps(ground, rate, least), horizon)
    return {**found, **_hues(video, ground, horizon)}


def hidden_state_curves(video: Tensor, states: Tensor | None, flights: Sequence[Flight], horizon: int) -> Curves:
    """How the hidden state relates to the hue after the fog, `[B, n]`; empty in worlds without fog.

    Args:
        states: decoded, one picture per chunk, `[B, chunks, 3, h, w]`; None if a stream has none; then all is nan.
    """
    foggy = [f for f in flights if isinstance(f, Foggy)]
    if not foggy:
        return {}
    names, shape = ("held", "recall_held", "recall_lost"), (len(video), video.shape[1] // horizon)
    if states is None:
        return {name: video.new_full(shape, math.nan) for name in names}
    chunk = video.shape[1] // states.shape[1]
    has = ~metrics.ground_hue(states, strength=CLEAR * CHROMA).isnan()
    before = has.roll(1, 1).repeat_interleave(chunk, 1)  # the state that was in the cache for each chunk
    recall = metrics.across_gaps(hues_of(video, foggy), torch.tensor([f.turning for f in foggy]), SHORT)
    return {
        "held": metrics.averaged(has.float(), horizon // chunk),
        "recall_held": metrics.averaged(recall.where(before, math.nan), horizon),
        "recall_lost": metrics.averaged(recall.where(~before, math.nan), horizon),
    }


def _hues(video: Tensor, ground: Tensor, horizon: int) -> Curves:
    hue = metrics.bright_hue(video)
    livery = metrics.averaged(metrics.apart(hue, _mean_hue(hue, horizon)[:, :1]), horizon)
    return {"livery": livery, "ground_hue": _mean_hue(ground, horizon), "livery_hue": _mean_hue(hue, horizon)}


def _mean_hue(hue: Tensor, horizon: int) -> Tensor:
    """`[B, n]`, mean over the pictures that have a hue."""
    angle = 2 * math.pi * hue
    x, y = (metrics.averaged(part, horizon) for part in (angle.cos(), angle.sin()))
    return torch.atan2(y, x) / (2 * math.pi) % 1.0


def feature_moments(video: Tensor, horizon: int) -> Tensor:
    """Moments of the features of each rollout and horizon, `[B, n, 1 + D + D D]`; see metrics.Moments."""
    return metrics.over_time(lambda v: metrics.moments(metrics.features(v)).sums, video, horizon)
