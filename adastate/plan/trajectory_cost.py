"""The cost of `adastate trajectories`: the teacher's passes, the memory of a process, and the shards on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from adastate.config.schema import Config, ConfigError
from adastate.models.size import Size
from adastate.plan.configured import encoders
from adastate.plan.cost import CountedPass, clip_flops, frame_tokens, parameters
from adastate.plan.memory import BFLOAT16, CAST, FLOAT32, scoring_bytes
from adastate.runtime.spelling import how_many
from adastate.stream import StreamSpec

GIB = 2**30
STORED = 2
"""Bytes per number of a trajectory in its shard."""


LATENTS = 2048
"""Maximum of latent frames times trajectories that are sampled at a time, unless --batch is given."""


@dataclass(frozen=True)
class PathOrder:
    """Trajectories of this many solver steps, by this many processes on this many machines."""

    clips: int
    steps: int
    gpus: int
    nodes: int


def trajectories(config: Config, order: PathOrder, rate: float) -> dict[str, Any]:
    """Bytes, FLOP and seconds of trajectories of the bidirectional teacher; `rate` of a GPU in TFLOP/s.

    Raises:
        ConfigError: the files name no size.
    """
    told = config.variables
    if not told.get("teacher_size") or not told.get("rollout"):
        raise ConfigError("trajectories need a size: add one of conf/sizes/")
    sizes: dict[str, Any] = {k: tuple(v) if k == "patch" else v for k, v in told["teacher_size"].items()}
    size = Size(**sizes)
    height, width = told["latent_size"]
    frames, passes = int(told["rollout"]["frames"]), 2 if float(told["teacher"]["guidance"]) else 1
    tokens, clip = frame_tokens(size, (height, width)), CountedPass(frames)
    low = str((config.lightning.get("trainer") or {}).get("precision") or "").startswith("bf16")
    dtype = CAST if told["precision"].get("compute_dtype") else BFLOAT16 if low else FLOAT32
    parts, batch = encoders(told), max(1, LATENTS // (height * width))
    weights = parameters(size) * (2 if dtype is BFLOAT16 else 4)
    work = scoring_bytes(size, tokens, frames, passes * batch, dtype)
    kept = len(StreamSpec.of(told["stream"]).timesteps) + 1
    flop = clip_flops(size, tokens, clip).forward * passes * order.steps
    return {
        "clips": order.clips,
        "parameters": parameters(size),
        "rank": weights + work + sum(e.bytes for e in parts if e.device == "rank"),
        "host": order.gpus * sum(e.bytes for e in parts),
        "disk": order.clips * kept * frames * size.channels * height * width * STORED,
        "flop a clip": flop,
        "seconds": flop * order.clips / (rate * 1e12 * order.gpus * order.nodes),
    }


def show_trajectories(found: dict[str, Any], console: Console, order: PathOrder, memory: float, usable: float) -> None:
    """Prints the result of `trajectories`, for GPUs of `memory` GiB of which `usable` bytes can be used."""
    fits = "fits" if found["rank"] <= usable else "does not fit"
    every = order.gpus * order.nodes
    console.print(
        f"[bold]trajectories[/bold], a teacher of {found['parameters']:,} parameters, "
        f"{how_many(every, 'process', 'processes')}"
    )
    console.print(f"{found['rank'] / GIB:.1f} GiB a process, which {fits} {memory:g} GiB")
    console.print(f"host memory of a machine: {found['host'] / GIB:.0f} GiB, while its processes start")
    console.print(f"{found['clips']:,} clips: {found['disk'] / GIB:.2f} GiB of shards")
    console.print(f"{found['flop a clip'] / 1e12:,.3g} TFLOP per clip, {found['seconds'] / 3600:,.3g} h in all")
