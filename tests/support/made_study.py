"""Studies made of known numbers instead of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adastate import metrics
from adastate.study import measure

HORIZONS = (1, 3, 6)
ROLLOUTS = 12
NAMES = (
    "forward",
    "flow",
    "change",
    "departure",
    "warp_error",
    "flicker",
    "repetition",
    "contrast",
    "saturation",
    "sharpness",
)
HUES = ("turning", "livery", "ground_hue", "livery_hue")
FOG = ("recall", "recall_long", "recall_held", "recall_lost", "held", "fog")
LENS = ("lens_drift", "exposure", "contrast_constant", "grain")
OWN = {
    "plain": ("palette",),
    "journey": HUES,
    "fog": (*HUES, *FOG),
    "circuit": (*HUES, *LENS),
    "mist": (*HUES, *FOG, *LENS),
}
"""Measures of each world."""
WIDTH = 4
"""Features."""
PICTURES, PASSAGES = 21, 240


def features(shift: float, seed: int) -> torch.Tensor:
    """Moments `[P, n, M]` of features whose mean lies `shift` deviations off in the last horizon, less before."""
    g = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, HORIZONS[-1])[None, :, None, None]
    x = torch.randn(ROLLOUTS, HORIZONS[-1], 30, WIDTH, generator=g) + shift * at
    return metrics.moments(x).sums


def passages(slope: float, seed: int) -> dict[str, np.ndarray]:
    """Passages over all horizons, whose changes follow the distance with `slope`."""
    g = torch.Generator().manual_seed(500 + seed)
    due = 0.1 + 0.4 * torch.rand(PASSAGES, generator=g, dtype=torch.float64)
    change = slope * due + 0.02 * torch.randn(PASSAGES, generator=g, dtype=torch.float64)
    at = torch.arange(PASSAGES) % (PICTURES * HORIZONS[-1])
    told = {"due": due, "change": change, "at": at, "row": at % ROLLOUTS}
    return {f"passages/{name}": value.numpy() for name, value in told.items()}


def made(
    folder: Path,
    seed: int = 0,
    levels: Mapping[str, tuple[float, float]] | None = None,
    shift: float = 0.0,
    world: str = "mist",
    slope: float = 1.0,
    occlusions: Sequence[Mapping[str, Any]] = (),
    places: tuple[str, ...] = ("anchor 0", "past -1", "own 0"),
    shares: tuple[float, ...] = (0.4, 0.3, 0.3),
    state: bool = False,
    reference: bool = False,
) -> None:
    """A measured run: each measure goes in a straight line from its first level to its last, 1 where none is given."""
    g = torch.Generator().manual_seed(1000 + seed)
    arrays: dict[str, np.ndarray] = {"moments": features(shift, seed).numpy()}
    if world != "plain":
        arrays |= passages(slope, seed)
    for name in (*NAMES, *OWN[world]):
        first, last = (levels or {}).get(name, (1.0, 1.0))
        noise = 0.02 * torch.randn(ROLLOUTS, 1, generator=g)
        arrays[f"curve/{name}"] = (torch.linspace(first, last, HORIZONS[-1]) + noise).numpy()
    if reference:
        arrays["reference"] = features(0.0, 99).sum((0, 1)).numpy()
    for stretch in ("start", *(f"{h}x" for h in HORIZONS)):
        arrays[f"shown/{stretch}"] = torch.randint(256, (2, 12, 3, 8, 8), generator=g, dtype=torch.uint8).numpy()
        if state:
            arrays[f"states/{stretch}"] = arrays[f"shown/{stretch}"]
    told: dict[str, Any] = {
        "world": world, "rollouts": ROLLOUTS, "horizons": list(HORIZONS), "seed": 7, "pictures": PICTURES, "fps": 8,
        "measures": 1, "features": 1, "prompts": ["a slow journey north"] * ROLLOUTS, "trained_window": 1,
    }  # fmt: skip
    if not reference:
        looked = np.broadcast_to(np.array(shares), (2, 3, len(shares)))
        told["attention"] = [{"past_frames": 1, "places": places, "shares": looked.tolist()}]
    measure.write_measures(folder, arrays, told)
    if occlusions:
        spread = 0.01 * torch.randn(1, generator=g).item()
        rows = [{k: v + spread if isinstance(v, float) else v for k, v in row.items()} for row in occlusions]
        curve = [1.0, 0.5 + spread]
        found = {
            "occlusions": rows,
            "forgetting": {"curve": curve, "lifetime": 2.0},
            "injection": {"anchor": {"content": curve, "state": curve}},
            "reach": {"felt": curve, "chunks": 2, "keys": 4},
        }
        (folder / "interventions.json").write_text(json.dumps(found))


def study(root: Path, seeds: int = 3, world: str = "mist", **arms: dict[str, Any]) -> Path:
    """Real flights that never change, and arms by name with the arguments of `made`."""
    made(root / "real", world=world, reference=True, levels={"livery": (0.0, 0.0), "lens_drift": (0.0, 0.0)})
    for name, options in arms.items():
        for seed in range(seeds):
            made(root / "arms" / name / f"seed{seed}", seed, world=world, **options)
    return root
