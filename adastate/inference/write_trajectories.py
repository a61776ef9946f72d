"""A teacher's ODE paths, written as shards by any number of processes: each does its share, killed and run again it
goes on."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from adastate.config.compose import build
from adastate.config.schema import Config
from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.inference.ode_paths import PathSpec, forced_paths, path_spec, streamed_paths, whole_paths
from adastate.inference.vbench import content_fingerprint
from adastate.models import attention, unread
from adastate.runtime import threads
from adastate.runtime.ranks import Rank, device_for
from adastate.stream import StreamSpec
from adastate.training.load_run import held_in_precision
from adastate.training.shared_passes import SharedPasses
from adastate.training.teacher import Teacher
from datamodules.shards.clip_reader import Clips
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import join
from datamodules.tools.lmdb_pairs import LmdbPairs
from datamodules.trajectories import TrajectoryWriter, actions_by_number
from datamodules.worlds.flyover import Kind
from datamodules.worlds.world_clips import world_prompts

SHARD_BYTES = 2**28
"""Of a shard, about: what is not in a whole shard when a process is killed is made again."""

MOST_A_SHARD = 256
LOG_EVERY_S = 60.0
BATCH_LATENTS = 2048
"""Latents of a frame, over all samples of a batch, by default: one clip of Wan's size, 32 of the tiny one."""

Sampler = Callable[[list[int], Tensor], tuple[Tensor, list[str], Tensor | None]]
"""(numbers, noise `[B, F, C, H, W]`) -> paths `[B, J, F, C, H, W]`, their prompts, and their actions `[B, F, A]`."""


class MadePath(NamedTuple):
    """A path `[J, F, C, H, W]`, with the actions `[F, A]` by which it was steered."""

    number: int
    path: Tensor
    prompt: str
    actions: Tensor | None = None


@dataclass(frozen=True)
class Order:
    """What is to be written.

    Attributes:
        count: trajectories, numbered from 0.
        told: timesteps of their entries.
        made_with: how they are made; a folder keeps what was made in one way.
        facts: of each, beside its number.
        per_shard: trajectories in a shard.
    """

    count: int
    told: list[float]
    made_with: Mapping[str, Any]
    facts: Mapping[str, Any]
    per_shard: int


def owner(number: int, world: int) -> int:
    """Which of `world` processes makes trajectory `number`: every one has the same share of any stretch of numbers.

    The share of one process in a world is spread over all of another, so that what a lost process has not done is
    done by all.
    """
    turn = hashlib.blake2b(str(number // world).encode(), digest_size=4).digest()
    return (number + int.from_bytes(turn, "big")) % world


def write_share(
    order: Order,
    made: Callable[[list[int]], Iterator[MadePath | tuple[int, Tensor, str]]],
    out: Path,
    rank: Rank,
    batch: int,
) -> bool:
    """Writes what is missing of this process's share; whether nothing is missing of all.

    Args:
        made: the paths of some numbers.
    """
    mine = [i for i in range(order.count) if owner(i, rank.world) == rank.rank]
    parent, console, said = os.getppid(), Console(), time.monotonic()
    with (
        TrajectoryWriter(out, order.per_shard, order.made_with, rank.rank, rank.world) as writer,
        Progress(console=console, transient=True, disable=rank.rank > 0 or not console.is_terminal) as progress,
    ):
        done = writer.done_keys()
        todo = [i for i in mine if _key(i) not in done]
        task = progress.add_task("trajectories", total=len(mine), completed=len(mine) - len(todo))
        for first in range(0, len(todo), batch):
            if os.getppid() != parent:
                raise SystemExit(
                    "adastate trajectories: the parent of this process has ended; run the command again to resume"
                )
            rows = todo[first : first + batch]
            for i, path, prompt, actions in (MadePath(*one) for one in made(rows)):
                writer.add(_key(i), path, order.told, prompt, {"index": i, **order.facts}, actions)
            progress.advance(task, len(rows))
            if not console.is_terminal and time.monotonic() - said > LOG_EVERY_S:  # a log of many hours wants lines
                said = time.monotonic()
                print(f"rank {rank.rank} of {rank.world}: {first + len(rows)} of {len(todo)} trajectories", flush=True)
    return rank.world == 1 or join(out, {_key(i) for i in range(order.count)}, rank.rank)


def sampled(teacher: Teacher, sampler: Sampler, frames: int, seed: int) -> Callable[[list[int]], Iterator[MadePath]]:
    """Paths from the noise of (seed, number), whatever else is in their batch."""

    def made(rows: list[int]) -> Iterator[MadePath]:
        noise = SampleNoise(seed, 0, rows, "trajectory", teacher.device)
        paths, prompts, actions = sampler(rows, noise.normal(frames, teacher.net.size.channels, *teacher.latent_size))
        flown: Iterable[Tensor | None] = [None] * len(rows) if actions is None else actions
        yield from map(MadePath, rows, paths.cpu(), prompts, flown)

    return made


def _key(i: int) -> str:
    return f"{i:08d}"


# ---- the command


def write_trajectories(config: Config, args: argparse.Namespace, rank: Rank, prompts: Sequence[str] | None) -> None:
    """`adastate trajectories`: this process's share of the paths, or of the pairs that others have published."""
    threads.use_threads(config.variables["run"].get("threads"))
    folder = "causal_trajectories" if args.teacher == "causal" else "trajectories"
    out = args.out or Path(config.variables["run"]["dir"]) / folder
    whole = _import(config, args, out, rank) if args.from_lmdb else _sample(config, args, out, rank, prompts)
    who = f"rank {rank.rank} of {rank.world}: " if rank.world > 1 else ""
    print(f"{who}all trajectories are in {out}" if whole else f"{who}done; others are still at work in {out}")


def _sample(config: Config, args: argparse.Namespace, out: Path, rank: Rank, prompts: Sequence[str] | None) -> bool:
    variables = config.variables
    spec, frames = StreamSpec(**variables.get("stream", {})), variables["rollout"]["frames"]
    spec.chunks(frames)
    every = args.levels == ["every"]
    way = path_spec(spec, args.steps, args.solver, [] if every else _numbers(args.levels), every)
    with unread.reading_later():
        teacher, weights = _teacher(variables, args)
    teacher = teacher.eval().requires_grad_(False)
    held_in_precision(teacher.net, (config.lightning.get("trainer") or {}).get("precision"))
    unread.bring_all(teacher, device_for(args.device, rank))
    teacher = teacher.to(device_for(args.device, rank))
    attention.use("auto")
    teacher.guidance = teacher.guidance if args.guidance is None else args.guidance
    sampler = _sampler(teacher, spec, way, args, prompts, frames, variables["run"]["world"])
    made_with = {
        "teacher": f"{args.teacher} {content_fingerprint(Path(weights))}",
        "past": "clips" if args.past else "own" if args.teacher == "causal" else "none",
        "seed": args.seed,
        "steps": args.steps,
        "solver": args.solver,
        "guidance": teacher.guidance,
    }
    told = [*way.told, 0.0] if args.past else way.told
    facts = {"seed": args.seed, "steps": args.steps}
    size = 2 * len(told) * frames * teacher.net.size.channels * teacher.latent_size[0] * teacher.latent_size[1]
    order = Order(args.clips, told, made_with, facts, args.per_shard or _per_shard(size))
    batch = args.batch or max(1, BATCH_LATENTS // (teacher.latent_size[0] * teacher.latent_size[1]))
    return write_share(order, sampled(teacher, sampler, frames, args.seed), out, rank, batch)


def _teacher(variables: dict[str, Any], args: argparse.Namespace) -> tuple[Teacher, str]:
    """(the teacher, its weights). The causal one is a network of the student's size, taught by teacher forcing."""
    bidirectional, frames = variables["teacher"], variables["rollout"]["frames"]
    causal = args.teacher == "causal"
    weights = (
        str(args.weights or Path(variables["run"]["dir"]) / "ar.safetensors") if causal else bidirectional["weights"]
    )
    node = {
        "size": variables["size"] if causal else variables["teacher_size"],
        "codec": variables["codec"],
        "text": variables["text"],
        "latent_size": variables["latent_size"],
        "rollout_frames": frames,
        "weights": weights,
        "timestep_shift": bidirectional["timestep_shift"],
        "guidance": bidirectional["guidance"],
        "negative_prompt": bidirectional["negative_prompt"],
        "compute_dtype": variables["precision"]["compute_dtype"],
        "average": None,
    }
    return build({"class_path": "adastate.training.teacher.Teacher", "init_args": node}, Teacher), weights


def _sampler(
    teacher: Teacher,
    spec: StreamSpec,
    way: PathSpec,
    args: argparse.Namespace,
    told: Sequence[str] | None,
    frames: int,
    world: Kind,
) -> Sampler:
    """A teacher that can be steered is, by the clips that stand before it or the flights of the built-in world."""
    columns = teacher.net.size.actions
    if args.past:
        codec = teacher.codec
        assert codec is not None
        clips = Clips(
            args.past, frames, codec.video_frames(frames), lambda video: codec.encode(video.to(teacher.device))
        )

        flown = actions_by_number(args.past, frames) if columns else None

        def after_clips(rows: list[int], noise: Tensor) -> tuple[Tensor, list[str], Tensor | None]:
            past, prompts = clips.stack(rows)
            actions = None if flown is None else flown(rows)
            past = past.to(noise)
            if past.shape != noise.shape:
                raise ShardError(
                    f"{args.past}: clips of {list(past.shape[1:])}, the teacher makes {list(noise.shape[1:])}"
                )
            paths = forced_paths(teacher, spec, way, prompts, noise, past, actions)
            return torch.cat([paths, past[:, None]], 1), prompts, actions

        return after_clips
    shared = SharedPasses()

    def sample(rows: list[int], noise: Tensor) -> tuple[Tensor, list[str], Tensor | None]:
        drawn = world_prompts(1, rows, frames, world)
        # few prompts are sampled several times
        prompts = [told[i % len(told)] for i in rows] if told else drawn.prompts
        actions = drawn.actions if columns else None
        if args.teacher == "causal":
            return streamed_paths(teacher, spec, way, prompts, noise, actions, shared), prompts, actions
        return whole_paths(teacher, way, prompts, noise, actions), prompts, actions

    return sample


def _import(config: Config, args: argparse.Namespace, out: Path, rank: Rank) -> bool:
    """Published pairs as shards of ours."""
    variables = config.variables
    spec, pairs = StreamSpec(**variables.get("stream", {})), LmdbPairs(args.from_lmdb)
    told = _published(spec, _numbers(args.levels), pairs.shape[0], args.from_lmdb)
    frames, shape = variables["rollout"]["frames"], (variables["size"]["channels"], *variables["latent_size"])
    if pairs.shape[1:] != (frames, *shape):
        raise ShardError(
            f"{args.from_lmdb}: its clips are {list(pairs.shape[1:])}, this configuration has {[frames, *shape]}: "
            "name the size that they were made for, conf/sizes/wan_1_3b.yaml say"
        )
    size = 2 * len(told) * frames * shape[0] * shape[1] * shape[2]
    made_with = {"source": args.from_lmdb.name}
    order = Order(len(pairs), told, made_with, {"source": args.from_lmdb.name}, args.per_shard or _per_shard(size))
    return write_share(order, pairs.rows, out, rank, batch=16)


def _published(spec: StreamSpec, levels: Sequence[float], entries: int, source: Path) -> list[float]:
    """Timesteps of published pairs, whose files do not tell them: those given, the end, and what was the past."""
    if not levels or entries - len(levels) not in (1, 2):
        raise ShardError(
            f"{source}: its pairs have {entries} entries, --levels names {len(levels)}: name the level of each before "
            "the shift, but not the end of the path and the clip that a causal teacher had for its past behind it"
        )
    steps = [int(level) for level in levels]
    warped = flow.warp_steps(steps, spec.timestep_shift)
    return [*(warped if spec.steps_are_unshifted else map(float, steps)), *[0.0] * (entries - len(levels))]


def _numbers(words: Sequence[str]) -> list[float]:
    return [float(word) for word in words]


def _per_shard(size: int) -> int:
    return max(1, min(MOST_A_SHARD, SHARD_BYTES // size))
