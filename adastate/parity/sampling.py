"""Replay of Wan2.1's UniPC sampler, driven by an artificial field instead of a network."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from adastate.diffusion.solvers import unipc, unipc_levels
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.formula import formula_value
from adastate.parity.keys import Replay, names_in_key
from adastate.parity.tolerances import Compared

MIXED = "W x over channels"
"""The formula's name for the product of the matrix `W` with the channels of x."""


@torch.no_grad()
def replay_sampling(f: Fixture) -> list[Compared]:
    """The trajectory of UniPC (order 2, bh2) in `n` steps at `shift` from `x_init` [B, C, ...].

    `semantics` gives the field as "flow = ...", of the sample x, the integer timestep t, `target`, and `MIXED`.
    Outputs: the tables `timesteps` and `sigmas`, and for step i `flow_stepII` and the sample after it,
    `x_after_stepII`.
    """
    if (dtype := f.setting("timesteps_dtype", "torch.int64")) != "torch.int64":
        raise FixtureError(f"timesteps_dtype is {dtype!r}; only 'torch.int64' is supported")
    levels, times = unipc_levels(int(f.setting("n")), float(f.setting("shift")))
    target, mixing, field = f.input("target"), f.input("W"), _field(f.setting("semantics"))
    flows: list[Tensor] = []

    def predict(x: Tensor, i: int) -> Tensor:
        mixed = torch.einsum("dc,bc...->bd...", mixing, x)
        flows.append(formula_value("semantics", field, {"x": x, "target": target, "t": int(times[i]), "mixed": mixed}))
        return flows[-1]

    path = unipc(predict, f.input("x_init"), levels)[1:]
    found = []
    for name, expected in f.outputs.items():
        if name in ("timesteps", "sigmas"):
            ours = times if name == "timesteps" else levels
            found.append(
                tolerances.compare_largest(name, ours, expected, 0.0 if name == "timesteps" else tolerances.TABLE)
            )
        elif match := re.fullmatch(r"(flow|x_after)_step(\d+)", name):
            values, step = flows if match[1] == "flow" else path, int(match[2])
            if step >= len(values):
                raise FixtureError(f"{name} is beyond the {len(values)} steps")
            found.append(tolerances.absolute(name, values[step], expected))
    return found


def _field(semantics: str) -> str:
    """The formula after "flow =", up to the next comma, semicolon or full stop."""
    match = re.search(r"flow = ((?:[^,(]|\([^)]*\))+?)(?:,|;|\.\s|\.?$)", semantics.replace(MIXED, "mixed"))
    if match is None:
        raise FixtureError("the key 'semantics' has no 'flow = ...', the field that drives the solver")
    return match[1]


REPLAY = {"unipc": Replay(replay_sampling, names_in_key("n shift timesteps_dtype"), "x_init|target|W")}
