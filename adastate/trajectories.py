"""`adastate trajectories`: the teacher's ODE paths, written as shards for the causal initialisation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from adastate import flow
from adastate.config import build, read_command
from adastate.noise import SampleNoise
from adastate.stream import StreamSpec
from adastate.teacher import Teacher
from datamodules.prompts import read_prompts
from datamodules.trajectories import TrajectoryWriter
from datamodules.world import flight


def path_levels(spec: StreamSpec, steps: int) -> tuple[Tensor, list[int]]:
    """(levels of an Euler path of `steps` steps that passes the student's, where those and the end stand in it).

    The steps are shared out over the gaps between the student's levels, more to wider ones, evenly before the shift.
    """
    stops = [raw / flow.TIMESTEPS for raw in spec.steps] + [0.0]
    if steps < len(spec.steps):
        raise ValueError(f"{steps} steps cannot pass the student's {len(spec.steps)} levels")
    gaps = [a - b for a, b in pairwise(stops)]
    share = [1] * len(gaps)
    for _ in range(steps - len(gaps)):
        share[max(range(len(gaps)), key=lambda i: gaps[i] / share[i])] += 1
    levels, at = [stops[0]], [0]
    for start, gap, n in zip(stops, gaps, share, strict=False):
        levels += [start - gap * (i + 1) / n for i in range(n)]
        at.append(len(levels) - 1)
    return flow.warp(torch.tensor(levels).clamp_min(0.0), spec.shift), at


@torch.no_grad()
def write_trajectories(
    teacher: Teacher,
    spec: StreamSpec,
    prompts: Sequence[str],
    frames: int,
    out: Path,
    steps: int,
    batch: int,
    seed: int,
) -> None:
    """Writes one path per prompt, at the student's levels and the end; goes on where an earlier call stopped."""
    levels, at = path_levels(spec, steps)
    kept = [float(levels[i]) * flow.TIMESTEPS for i in at]
    with TrajectoryWriter(out, per_shard=256) as writer, Progress(transient=True) as progress:
        done = writer.done_keys()
        todo = [i for i in range(len(prompts)) if _key(i) not in done]
        task = progress.add_task("trajectories", total=len(prompts), completed=len(prompts) - len(todo))
        for first in range(0, len(todo), batch):
            rows = todo[first : first + batch]
            noise = SampleNoise(seed, 0, rows, "trajectory", teacher.device)
            start = noise.normal(frames, teacher.net.size.channels, *teacher.grid)
            paths = teacher.trajectory([prompts[i] for i in rows], start, levels)[:, at]
            for i, path in zip(rows, paths.cpu(), strict=True):
                writer.add(_key(i), path, kept, prompts[i], {"index": i, "seed": seed, "steps": steps})
            progress.advance(task, len(rows))


def _key(i: int) -> str:
    return f"{i:08d}"


def main(argv: list[str]) -> None:
    config, rest = read_command(argv)
    parser = argparse.ArgumentParser("adastate trajectories", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the shards; default <run.dir>/trajectories")
    parser.add_argument("--clips", type=int, default=1024, help="paths to write, one a prompt")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line; default: captions of the tiny world"
    )
    parser.add_argument("--steps", type=int, default=48, help="Euler steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(rest)
    variables = config.variables
    node = config.lightning["model"]
    weights = {"weights": variables["flow"]["teacher"], "ema": None}
    teacher = build({**node, "init_args": {**node["init_args"], **weights}}, Teacher).eval()
    spec = StreamSpec(**variables.get("stream", {}))
    out = args.out or Path(variables["run"]["dir"]) / "trajectories"
    if args.prompts:
        told = read_prompts(args.prompts)
        prompts = [told[i % len(told)] for i in range(args.clips)]  # few prompts are sampled several times
    else:
        prompts = [flight(1, i).caption for i in range(args.clips)]
    write_trajectories(
        teacher, spec, prompts, variables["flow"]["rollout_frames"], out, args.steps, args.batch, args.seed
    )
    print(f"{len(prompts)} trajectories in {out}")
