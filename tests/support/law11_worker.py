"""One process of law 11: `python -m tests.support.law11_worker RANK WORLD OUT` fits one iteration and saves its
gradients.

Run apart from pytest, because processes that train together have to be started, not forked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.support.rig import Gradients, Prompts, fit, tiny_distill

GLOBAL = 4
KWARGS = {"critic_updates": 2, "state_loss": "dmd", "student_lr": 2e-6, "critic_lr": 2e-6}
"""Rates as small as the recipe's: Adam's first step is a sign, which larger ones would make of every rounding."""


def gradients(world: int, parts: int = 1, per_rank: bool = False) -> list[dict[str, torch.Tensor]]:
    """What every optimiser's step of the iteration was given, on this rank, whose share comes in `parts`."""
    seen = Gradients()
    torch.set_num_threads(1)
    strategy = "ddp_find_unused_parameters_true" if world > 1 else "auto"
    fit(tiny_distill(**KWARGS), Prompts(GLOBAL // world // parts, per_rank), seen, devices=world, strategy=strategy)
    return [step for step, _ in seen.steps]


if __name__ == "__main__":
    rank, world, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    runs = {"whole": gradients(world), "parts": gradients(world, 2), "by rank": gradients(world, per_rank=True)}
    torch.save(runs, out / f"rank{rank}.pt")
