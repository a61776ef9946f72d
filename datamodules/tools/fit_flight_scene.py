"""Makes the weights by which `adastate.metrics.flight_scene` reads scenes, from rendered flights:

python -m datamodules.tools.fit_flight_scene --flights 6000 --out adastate/pretrained/flight_scene.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_scene import CONSTANTS, FACTS, STORED, scene_features
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.voxel_render import pictures
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage

NAMES: dict[str, list[str]] = {"biome": list(BIOMES), "time": list(TIMES), "weather": list(WEATHERS)}
PICTURES = slice(1, 8, 3)
"""Three pictures of three latent frames."""


def examples(seed: int, count: int) -> tuple[Tensor, list[Voyage]]:
    """Features `[count, D]` of flights with lenses of their own, and the flights."""
    flights = [voyage(seed, i, Rules()) for i in range(count)]
    rows = [
        scene_features(pictures(v, path(v, steering(seed, i, 3))[PICTURES])[None])[0] for i, v in enumerate(flights)
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


def fit(x: Tensor, flights: Sequence[Voyage], decay: float) -> Mapping[str, np.ndarray]:
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


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--decay", type=float, default=2e-4)
    parser.add_argument("--out", type=Path, default=Path("adastate/pretrained") / STORED)
    a = parser.parse_args(args)
    made = fit(*examples(a.seed, a.flights), a.decay)
    np.savez_compressed(a.out, **made)  # type: ignore[arg-type]
    print(f"{a.out}: {a.out.stat().st_size} bytes from {a.flights} flights")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
