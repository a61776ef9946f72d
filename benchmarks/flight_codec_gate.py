"""Gate 1 of the flight world: how well a codec preserves unseen flights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.encoders import Codec
from adastate.metrics.flight_landmarks import FOUND, Spotted, spotted
from adastate.metrics.flight_picture import match_across, seam_ratio
from adastate.metrics.flight_pose import SURE, tilt, turning
from datamodules.worlds.flight.atmosphere import WEATHERS
from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.voxel_render import render_flights
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage

FRAMES, BEFORE = 7, 4
"""Latent frames of a clip, and those flown before every second clip begins."""

LEAST = 12
"""Minimum size in pixels of a balloon that should be found."""

CLOSE = 3.0
"""Pixels by which a balloon may be displaced after decoding."""


@dataclass(frozen=True)
class FlownClips:
    """Flights, their poses `[B, T, 8]` and pictures `[B, T, 3, 64, 64]`."""

    flights: list[Voyage]
    poses: Tensor
    video: Tensor


def clips(seed: int, count: int, lens: bool, balloons: bool = False) -> FlownClips:
    """Flights number 0 .. count-1, with their own lenses or without; with `balloons`, under skies without haze."""
    skies = [name for name in WEATHERS if name != "thick haze"]
    fixed = [{"weather": skies[i % 2], "landmark": "hot-air balloons"} if balloons else {} for i in range(count)]
    flights = [voyage(seed, i, Rules(lens=lens, grain=False), **facts) for i, facts in enumerate(fixed)]
    poses = []
    for i, flight in enumerate(flights):
        begun = BEFORE * (i % 2)
        poses.append(path(flight, steering(seed, i, begun + FRAMES))[3 * begun :])
    return FlownClips(flights, torch.stack(poses), render_flights(flights, poses))


def coded(codec: Codec, video: Tensor, at_once: int = 8) -> Tensor:
    """Encodes and decodes, starting from 8-bit values, as stored pictures have."""
    whole = ((video + 1) * 127.5).round() / 127.5 - 1
    return torch.cat([codec.decode(codec.encode(part)) for part in whole.split(at_once)])


def fidelity(real: Tensor, made: Tensor) -> dict[str, Any]:
    """PSNR in dB, of a full range of 2: of the mean error, the mean over pictures, and the best of the worst tenth."""
    error = (made - real).square().mean((2, 3, 4)) / 4
    each = -10 * error.clamp(min=1e-10).log10()
    return {
        "PSNR of the mean error": float(-10 * error.mean().clamp(min=1e-10).log10()),
        "PSNR, mean of pictures": float(each.mean()),
        "PSNR, worst tenth": float(each.flatten().quantile(0.1)),
    }


def pictured(video: Tensor) -> dict[str, Any]:
    """Seam ratios and coherence."""
    whole = match_across(video)
    return {
        **{f"seam ratio {step}": seam_ratio(video, step) for step in (4, 8, 16)},
        "match within latents": float(whole.within.mean()),
        "match across latents": float(whole.across.mean()),
    }


def posed(video: Tensor, poses: Tensor, sure: Tensor) -> dict[str, Any]:
    """Errors of tilt (degrees) and of turns (radians per picture) where `sure` [B, T-1]."""
    off = (turning(video).rate - poses[..., 3].diff(dim=1)).abs()[sure]
    return {
        "tilt, median error (deg)": float(torch.rad2deg(tilt(video) - poses[..., 5]).abs().median()),
        "turn, median error (rad)": float(off.median()),
        "turn, within 0.02": float((off < 0.02).float().mean()),
    }


def balloons(
    codec: Codec, seed: int, count: int, lens: bool
) -> tuple[dict[str, Any], dict[str, Any], FlownClips, Tensor]:
    """Balloons of at least `LEAST` pixels found in real clips, and those of them still found after decoding."""
    full = clips(seed, count, lens, balloons=True)
    bare = render_flights([replace(v, landmark="nothing else") for v in full.flights], list(full.poses))
    mask = ((full.video - bare).abs().sum(2) > 0.25).float()
    near = nnf.max_pool2d(mask, 5, 1, 2)
    there = mask.sum((2, 3)) >= LEAST
    real, made = spotted(full.video), coded(codec, full.video)
    found = there & (real.score > FOUND) & (_at(near, real) > 0)
    again = spotted(made)
    off = torch.stack([column(again) - column(real), again.row - real.row]).abs().amax(0)
    kept = found & (again.score > FOUND) & (off < CLOSE)
    before = {
        f"balloons of {LEAST} pixels": int(there.sum()),
        "balloons found": int(found.sum()),
        "balloons where none is": float((spotted(bare).score > FOUND).float().mean()),
    }
    after = {
        "balloons found": int(kept.sum()),
        "balloons found, share of real": float(kept.sum() / found.sum().clamp(min=1)),
        "of those in their colour": float((kept & (again.colour == real.colour)).sum() / kept.sum().clamp(min=1)),
        "balloons where none is": float((spotted(coded(codec, bare)).score > FOUND).float().mean()),
    }
    return before, after, full, made


def column(seen: Spotted, width: int = 64, view: float = 1.4) -> Tensor:
    """Pixels from the left `[B, T]`."""
    return seen.bearing.tan() * width / view + width / 2 - 0.5


def _at(maps: Tensor, seen: Spotted) -> Tensor:
    h, w = maps.shape[-2:]
    place = seen.row.round().long().clamp(0, h - 1) * w + column(seen).round().long().clamp(0, w - 1)
    return maps.flatten(2).gather(2, place[..., None])[..., 0]


def compare_codec(codec: Codec, seed: int, count: int) -> tuple[dict[str, dict[str, Any]], list[Tensor], list[str]]:
    """Figures of real and decoded clips, without lenses and with their own, and rows of pictures, in pairs."""
    columns: dict[str, dict[str, Any]] = {}
    rows, labels = [], []
    for lens in (False, True):
        real = clips(seed, count, lens)
        made = coded(codec, real.video)
        sure = turning(real.video).sure > SURE
        before, after, marked, marked_made = balloons(codec, seed + 1, count, lens)
        kind = "lens" if lens else "plain"
        columns[f"real, {kind}"] = pictured(real.video) | posed(real.video, real.poses, sure) | before
        columns[f"codec, {kind}"] = fidelity(real.video, made) | pictured(made) | posed(made, real.poses, sure) | after
        for part, back, which in ((real, made, range(0, count, max(1, count // 3))), (marked, marked_made, (0, 1))):
            for i in list(which)[:3]:
                rows += [part.video[i, 1::3], back[i, 1::3]]
                labels += [caption(part.flights[i]), "decoded"]
    return columns, rows, labels
