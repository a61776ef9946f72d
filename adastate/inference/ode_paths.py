"""The teacher's paths from noise to data, passing the levels at which the student will stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from adastate.diffusion import flow, solvers
from adastate.models.actions import Steering, given
from adastate.stream import StateCache, StreamSpec
from adastate.stream.cache import PassMemory
from adastate.stream.passes import clean_pass, run_passes
from adastate.training.initializations.causal_forward import teacher_forcing_forward
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.shared_passes import SharedPasses
from adastate.training.teacher import Teacher
from adastate.types import one_level

Solver = Literal["euler", "unipc"]

_CLOSE = 1e-6
"""Levels before the shift that are nearer than this are one."""


@dataclass(frozen=True)
class PathSpec:
    """The levels of a path, and where it is kept.

    Attributes:
        levels: `[steps + 1]` from 1 (UniPC: from just below) to 0.
        at: the entries that are kept, noise first, the end last.
        told: timesteps of the kept entries. The first is 1000 for UniPC, too: there the sample is pure noise.
    """

    levels: Tensor
    at: list[int]
    told: list[float]
    solver: Solver = "euler"


def path_spec(
    spec: StreamSpec, steps: int, solver: Solver = "euler", levels: Sequence[float] = (), every: bool = False
) -> PathSpec:
    """A route of `steps` steps through the student's levels and others.

    The steps are shared out over the gaps between these levels, more to wider ones, evenly before the shift.

    Args:
        levels: timesteps in (0, 1000) before the shift at which the path is kept as well.
        every: keep all of it.

    Raises:
        ValueError: a level that is none, or fewer steps than levels.
    """
    wrong = [level for level in levels if not 0 < level <= flow.TIMESTEPS]
    if wrong:
        raise ValueError(f"a level lies above 0 and up to {flow.TIMESTEPS}, before the shift; got {wrong}")
    start = solvers.FIRST_LEVEL if solver == "unipc" else 1.0
    stops = _falling(
        [start if u > start else u for u in (1.0, *_students(spec), *(v / flow.TIMESTEPS for v in levels))]
    )
    if steps < len(stops):
        raise ValueError(f"{steps} steps cannot pass the {len(stops)} levels of the student and of --levels")
    stops.append(0.0)
    gaps = [a - b for a, b in pairwise(stops)]
    share = [1] * len(gaps)
    for _ in range(steps - len(gaps)):
        share[max(range(len(gaps)), key=lambda i: gaps[i] / share[i])] += 1
    path, at = [stops[0]], [0]
    for top, gap, n in zip(stops, gaps, share, strict=False):
        path += [top - gap * (i + 1) / n for i in range(n)]
        at.append(len(path) - 1)
    path[-1] = 0.0
    warped = flow.warp(torch.tensor(path).clamp_min(0.0), spec.timestep_shift)
    at = [*range(len(path))] if every else at
    return PathSpec(warped, at, [float(flow.TIMESTEPS), *(float(warped[i]) * flow.TIMESTEPS for i in at[1:])], solver)


def _students(spec: StreamSpec) -> list[float]:
    """The student's levels before the shift."""
    if spec.steps_are_unshifted:
        return [raw / flow.TIMESTEPS for raw in spec.denoising_steps]
    levels = [t / flow.TIMESTEPS for t in spec.timesteps]
    return [s / (spec.timestep_shift - (spec.timestep_shift - 1) * s) for s in levels]


def _falling(levels: Sequence[float]) -> list[float]:
    """From high to low, each once."""
    found: list[float] = []
    for level in sorted(levels, reverse=True):
        if not found or found[-1] - level > _CLOSE:
            found.append(level)
    return found


@torch.no_grad()
def whole_paths(
    teacher: Teacher, path_spec: PathSpec, prompts: list[str], noise: Tensor, actions: Tensor | None = None
) -> Tensor:
    """Guided paths of a bidirectional teacher from `noise` [B, F, C, H, W], where they are kept: [B, J, F, C, H, W].

    Here and below `actions` [B, F, A] steer c in the guidance c + w (c - u), and not u.
    """
    if path_spec.solver == "euler":
        return teacher.trajectory(prompts, noise, path_spec.levels, actions)[:, path_spec.at]
    text, negative = teacher.embed(prompts), teacher.embed([teacher.negative_prompt])
    steered = None if actions is None else given(actions.to(noise.device))

    def predict(x: Tensor, i: int) -> Tensor:
        t = (path_spec.levels[i] * flow.TIMESTEPS).to(x.device).expand(len(x))
        return teacher.velocity(x, t, text, negative, teacher.averaged, steered)

    return _kept(path_spec, predict, noise)


@torch.no_grad()
def forced_paths(
    teacher: Teacher,
    spec: StreamSpec,
    path_spec: PathSpec,
    prompts: list[str],
    noise: Tensor,
    past: Tensor,
    actions: Tensor | None = None,
) -> Tensor:
    """Guided paths of an autoregressive teacher whose chunks stand after those of the clips `past` [B, F, C, H, W].

    All chunks go down together, in one masked forward a step. Causal-Forcing's pairs are made so, with real clips.
    """
    text, steered = _both(teacher, prompts), _steered(teacher, actions)
    steered = None if steered is None else steered.to(noise.device)

    def predict(x: Tensor, i: int) -> Tensor:
        t = torch.full(x.shape[:2], float(path_spec.levels[i]) * flow.TIMESTEPS, device=x.device)
        net, (xs, pasts, ts) = teacher.averaged, (_doubled(teacher, part) for part in (x, past, t))
        return _guided(teacher, teacher_forcing_forward(net, xs, pasts, ts, text, spec, steered))

    return _kept(path_spec, predict, noise)


@torch.no_grad()
def streamed_paths(
    teacher: Teacher,
    spec: StreamSpec,
    path_spec: PathSpec,
    prompts: list[str],
    noise: Tensor,
    actions: Tensor | None = None,
    shared: SharedPasses | None = None,
) -> Tensor:
    """Guided paths of an autoregressive teacher, chunk by chunk through the cache, after the ends of its own chunks.

    Calls with the same `shared` join its weights once.
    """
    steered, net = _steered(teacher, actions), teacher.averaged
    steering = None if steered is None else Steering(steered)
    passes = None if shared is None else shared.of(net, "eager", fp8=False, keep=True)
    student = PromptedNetwork(net, _both(teacher, prompts), steering=steering, passes=passes)
    cache = StateCache(without_anchor(spec))
    parts = []
    for x in noise.split(spec.chunk_frames, 1):
        view = cache.view(x.shape[1], 0)

        def predict(x: Tensor, i: int, view: PassMemory = view) -> Tensor:
            both = _doubled(teacher, x)
            t = one_level(len(both), x.shape[1], float(path_spec.levels[i]) * flow.TIMESTEPS, x.device)
            return _guided(teacher, student(both, t, view))

        parts.append(_kept(path_spec, predict, x))
        run_passes(clean_pass(student, _NoNoise(), cache, _doubled(teacher, parts[-1][:, -1]), queries=0))
        cache.generated += 1
    return torch.cat(parts, 2)


def without_anchor(spec: StreamSpec) -> StreamSpec:
    """What a network sees that was taught by teacher forcing: the window, in stream time, and no anchor."""
    return StreamSpec(
        chunk_frames=spec.chunk_frames,
        past_frames=spec.past_frames,
        anchor="none",
        state_frames=0,
        position="absolute",
        timestep_shift=spec.timestep_shift,
    )


class _NoNoise:
    """For clean passes, which draw none."""

    def normal(self, *shape: int) -> Tensor:
        raise RuntimeError("a clean pass at t = 0 draws no noise")


def _kept(path_spec: PathSpec, predict: solvers.Predict, noise: Tensor) -> Tensor:
    solve = solvers.unipc if path_spec.solver == "unipc" else solvers.euler
    path = solve(predict, noise, path_spec.levels)
    return torch.stack([path[i] for i in path_spec.at], 1)


def _both(teacher: Teacher, prompts: list[str]) -> Tensor:
    """Embeddings of the prompts, then, for guidance, as many of the negative prompt."""
    text = teacher.embed(prompts)
    if not teacher.guidance:
        return text
    return torch.cat([text, teacher.embed([teacher.negative_prompt]).expand_as(text)])


def _steered(teacher: Teacher, actions: Tensor | None) -> Tensor | None:
    """Actions [B, F, A] with their flag, then, for guidance, as many that are not given."""
    if actions is None:
        return None
    flagged = given(actions)
    return torch.cat([flagged, torch.zeros_like(flagged)]) if teacher.guidance else flagged


def _doubled(teacher: Teacher, x: Tensor) -> Tensor:
    return torch.cat([x, x]) if teacher.guidance else x


def _guided(teacher: Teacher, v: Tensor) -> Tensor:
    """c + w (c - u)."""
    if not teacher.guidance:
        return v
    c, u = v.chunk(2)
    return c + teacher.guidance * (c - u)
