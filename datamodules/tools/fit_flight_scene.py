"""Makes the weights by which `adastate.metrics.flight_scene` reads scenes and `flight_landmarks` finds landmarks, from
rendered flights; either leaves what the other made as it is:

python -m datamodules.tools.fit_flight_scene scene --flights 6000
python -m datamodules.tools.fit_flight_scene landmarks --flights 2000
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_landmarks import BALLOONS, PREFIX, TOWERS, blurred, marked
from adastate.metrics.flight_scene import CONSTANTS, FACTS, STORED, scene_features
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.landmarks import FARTHEST, NEAREST, sight
from datamodules.worlds.flight.lattice import number
from datamodules.worlds.flight.lens import PIVOT
from datamodules.worlds.flight.voxel_render import SIZE, VIEW, render_flight
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage

NAMES: dict[str, list[str]] = {"biome": list(BIOMES), "time": list(TIMES), "weather": list(WEATHERS)}
PICTURES = slice(1, 8, 3)
"""Three pictures of three latent frames."""

SHOWS = 0.2
"""Sum over the channels, of pictures in [-1, 1], by which a landmark changes a pixel that is taken to be its own."""

WIDTHS = (12, 16, 24)
"""Channels of the finder at a whole, a half and a quarter of the height and width."""


def scene_examples(seed: int, count: int) -> tuple[Tensor, list[Voyage]]:
    """Features `[count, D]` of flights with lenses of their own, and the flights."""
    flights = [voyage(seed, i, Rules()) for i in range(count)]
    rows = [
        scene_features(render_flight(v, path(v, steering(seed, i, 3))[PICTURES])[None])[0]
        for i, v in enumerate(flights)
    ]
    return torch.stack(rows), flights


def logistic(x: Tensor, label: Tensor, count: int, decay: float) -> Tensor:
    """Weights `[D, count]` of multinomial logistic regression with an L2 penalty."""
    weight = torch.zeros(x.shape[1], count, requires_grad=True)
    descent = torch.optim.LBFGS([weight], max_iter=120, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        value = nnf.cross_entropy(x @ weight, label) + decay * weight.square().sum()
        value.backward()
        return value

    descent.step(loss)  # type: ignore[arg-type]
    return weight.detach()


def ridge(x: Tensor, y: Tensor, decay: float) -> Tensor:
    """Weights `[D, 1]` of linear regression with an L2 penalty."""
    return torch.linalg.solve(x.T @ x + decay * len(x) * torch.eye(x.shape[1]), x.T @ y[:, None])


def fit_scene(x: Tensor, flights: Sequence[Voyage], decay: float) -> Mapping[str, np.ndarray]:
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    mean[-1], deviation[-1] = 0, 1  # the last feature is the constant 1
    z = (x - mean) / deviation
    out = {"mean": mean, "deviation": deviation}
    for fact in FACTS:
        label = torch.tensor([NAMES[fact].index(getattr(v, fact)) for v in flights])
        out[fact] = logistic(z, label, len(NAMES[fact]), decay)
    for constant in CONSTANTS:
        out[constant] = ridge(z, torch.tensor([getattr(v.lens, constant) for v in flights]).log(), decay)
    small = {name: value.numpy().astype(np.float32 if value.dim() == 1 else np.float16) for name, value in out.items()}
    return small | {f"{fact}_names": np.array(NAMES[fact]) for fact in FACTS}


def finder_examples(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures `[3 count, 3, SIZE, SIZE]` and the classes of their pixels, both uint8.

    Half the flights have balloons, a quarter towers, a quarter nothing; in a sixth one balloon drifts, a fifth change.
    """
    seen, classes = [], []
    for i in range(count):
        kind = ("hot-air balloons", "hot-air balloons", "white towers", "nothing else")[i % 4]
        rules = Rules(lens=False, grain=False, changing=i % 5 == 0, drifting=i % 6 == 1)
        flight = voyage(seed, i, rules, landmark=kind)
        poses = path(flight, steering(seed, i, 4), flown=150 * number(flight.seed, 99) if flight.changing else 0.0)
        poses = poses[1:11:4]
        full = render_flight(flight, poses)
        bare = render_flight(replace(flight, landmark="nothing else", drifting=False), poses)
        seen.append(((full + 1) * 127.5).round().byte())
        classes.append(torch.where((full - bare).abs().sum(1) > SHOWS, nearest_landmark(flight, poses), 0).byte())
    return torch.cat(seen), torch.cat(classes)


def nearest_landmark(flight: Voyage, poses: Tensor) -> Tensor:
    """Class of the landmark whose middle is the closest for its size to each pixel, `[T, SIZE, SIZE]`."""
    seen, focal = sight(flight, poses), SIZE / VIEW
    if not len(seen.colour):
        return torch.zeros(len(poses), SIZE, SIZE, dtype=torch.long)
    ahead = seen.ahead.clamp(min=1)
    roll, level = (poses[:, i, None].tan().float() for i in (5, 4))
    up = seen.above + torch.where(seen.balloon, 0.0, 3.0)
    x = SIZE / 2 - 0.5 + focal * seen.side / ahead
    y = SIZE / 2 - 0.5 - focal * (up / ahead + roll * seen.side / ahead - level)
    wide, tall = (focal / ahead * torch.where(seen.balloon, a, b) for a, b in ((2.0, 1.0), (2.6, 5.0)))
    line = torch.arange(SIZE)
    off = ((line - x[..., None]) / wide[..., None]).square()[:, :, None]
    off = off + ((line - y[..., None]) / tall[..., None]).square()[:, :, :, None]
    off = off.masked_fill(((seen.ahead < NEAREST) | (seen.ahead > FARTHEST))[..., None, None], torch.inf)
    return (1 + seen.colour + torch.where(seen.balloon, 0, BALLOONS))[off.argmin(1)]


def worn(light: Tensor, g: torch.Generator) -> Tensor:
    """Light `[N, 3, SIZE, SIZE]` through lenses, of which most have their own exposure and contrast; two fifths of the
    pictures, and another two fifths of which half are the same, are blurred or have noise two pixels wide, as codecs
    make them."""
    n = len(light)
    own = torch.rand(3, n, 1, 1, 1, generator=g)
    exposure, contrast = 0.75 * 1.8 ** own[0], 0.8 + 0.45 * own[1]
    exposure, contrast = (torch.where(own[2] < 0.3, 1.0, part) for part in (exposure, contrast))
    light = (light * exposure * contrast + PIVOT * (1 - contrast)).clamp(0, 1)
    few = 2 * n // 5
    soft = blurred(light[:few], 0.4 + 0.6 * float(torch.rand((), generator=g)))
    spots = nnf.interpolate(torch.randn(n, 3, SIZE // 2, SIZE // 2, generator=g), size=SIZE, mode="bilinear")
    amount = 0.035 * torch.rand(n, 1, 1, 1, generator=g) * (torch.arange(n).view(-1, 1, 1, 1) >= few // 2)
    amount = amount * (torch.arange(n).view(-1, 1, 1, 1) < 2 * few)
    return (torch.cat([soft, light[few:]]) + amount * spots).clamp(0, 1)


def fit_finder(seen: Tensor, classes: Tensor, steps: int, batch: int = 32, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Weights of `marked`, by cross-entropy of the pixels' classes; those of landmarks count half as much again."""
    g = torch.Generator().manual_seed(seed)
    full, half, quarter = WIDTHS
    kinds = 1 + BALLOONS + TOWERS
    shapes = {
        "full": (full, 3, 3), "half": (half, full, 4), "quarter": (quarter, half, 4), "deep": (quarter, quarter, 3),
        "half_up": (half, half + quarter, 3), "full_up": (full, full + half, 3), "out": (kinds, full, 1),
    }  # fmt: skip
    finder: dict[str, Tensor] = {}
    for name, (many, few, side) in shapes.items():
        finder[name] = torch.randn(many, few, side, side, generator=g) * (2 / (few * side**2)) ** 0.5
        finder[f"{name}_bias"] = torch.zeros(many)
    descent = torch.optim.AdamW([p.requires_grad_() for p in finder.values()], 4e-3, (0.9, 0.98), weight_decay=1e-3)
    weight = torch.tensor([1.0] + [1.5] * (kinds - 1))
    for step in range(steps):
        descent.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 30) * (1 - step / steps)
        which = torch.randint(len(seen), (batch,), generator=g)
        light, label = seen[which].float() / 255, classes[which].long()
        flip = (torch.rand(batch, generator=g) < 0.5)[:, None, None]
        light, label = torch.where(flip[..., None], light.flip(-1), light), torch.where(flip, label.flip(-1), label)
        loss = nnf.cross_entropy(marked(worn(light, g), finder), label, weight)
        descent.zero_grad()
        loss.backward()
        descent.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}: {loss:.4f}", flush=True)
    return {PREFIX + name: value.detach().numpy().astype(np.float16) for name, value in finder.items()}


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scene", "landmarks"))
    parser.add_argument("--flights", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--decay", type=float, default=2e-4, help="of the scene's weights")
    parser.add_argument("--steps", type=int, default=1500, help="of the landmarks' descent")
    parser.add_argument("--out", type=Path, default=Path("adastate/pretrained") / STORED)
    a = parser.parse_args(args)
    if a.what == "scene":
        made = fit_scene(*scene_examples(a.seed, a.flights), a.decay)
    else:
        made = fit_finder(*finder_examples(a.seed + 1, a.flights), a.steps)
    known: dict[str, np.ndarray] = {}
    if a.out.exists():
        with np.load(a.out) as before:
            known = {k: v for k, v in before.items() if k.startswith(PREFIX) == (a.what == "scene")}
    np.savez_compressed(a.out, **known, **made)  # type: ignore[arg-type]
    print(f"{a.out}: {a.out.stat().st_size} bytes; {a.what} from {a.flights} flights")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
