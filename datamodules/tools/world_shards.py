"""Clips of a built-in world as shards, rendered and encoded by as many processes as are asked for.

One process writes, so that a shard is the same to the byte whoever rendered its clips, and is whole or absent.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from adastate.encoders import Codec
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import read_manifest
from datamodules.tools.clip_members import clip_members, codec_name
from datamodules.tools.shard_set import ShardReport, check_disk, open_set, stored_clip_bytes
from datamodules.worlds.flyover import FPS, Kind
from datamodules.worlds.world_clips import frame_size, world_batch, world_facts

TOGETHER = 16
"""Clips of a task of one process."""

Members = tuple[str, dict[str, bytes]]
"""A key, and what a shard holds under it."""


@dataclass(frozen=True)
class ClipMaker:
    """Makes clips by their numbers; one for each process, which it is sent to."""

    kind: Kind
    seed: int
    pictures: int
    codec: Codec | None

    def __call__(self, indices: Sequence[int]) -> Iterator[Members]:
        batch = world_batch(self.seed, indices, self.pictures, self.kind)
        assert batch.video is not None
        for row, i in enumerate(indices):
            facts, actions = world_facts(self.seed, i, self.kind), None if batch.actions is None else batch.actions[row]
            yield key_of(i), clip_members(batch.video[row], FPS, batch.prompts[row], facts, self.codec, actions, True)


def write_world(
    out: Path,
    clips: int,
    pictures: int = 21,
    seed: int = 0,
    codec: Codec | None = None,
    clips_per_shard: int = 256,
    kind: Kind = "plain",
    workers: int = 0,
) -> ShardReport:
    """Writes clips 0..clips-1 of the world `seed` as shards; run again, it goes on.

    They are video without loss, or latents where there is a `codec`, with captions, facts and, in the flight world,
    actions.

    Args:
        kind: of the world.
        workers: processes that render and encode, on one core each; 0: this one does, with the codec where it is.

    Raises:
        ShardError: as `make_shards`.
    """
    if clips < 1:
        raise ShardError(f"{clips} clips of the world: give 1 or more")
    if workers < 0:
        raise ShardError(f"{workers} workers: give 0 or more")
    settings = {"kind": "world", "method": 1, "world": kind, "seed": seed, "pictures": pictures}
    settings["codec"] = codec_name(codec)
    expected = stored_clip_bytes((frame_size(kind), frame_size(kind)), pictures, FPS, codec, lossless=True)
    writer = open_set(out, clips_per_shard, read_manifest(out), settings, can_remake=True)
    with writer, Progress(console=Console(stderr=True)) as progress:
        writer.retain(lambda key: int(key.rpartition("-")[2]) < clips)
        present = writer.keys()
        check_disk(out, expected * (clips - len(present)))
        missing = [i for i in range(clips) if key_of(i) not in present]
        made = made_in_order(ClipMaker(kind, seed, pictures, codec), missing, workers)
        for key, members in progress.track(made, total=len(missing), description="flying"):
            writer.add(key, members)
    return ShardReport(out, len(missing), len(present), len(writer.shards))


def key_of(index: int) -> str:
    return f"world-{index:07d}"


def made_in_order(make: ClipMaker, indices: Sequence[int], workers: int) -> Iterator[Members]:
    """The clips of these numbers, in their order, made by `workers` processes; with 0 by this one."""
    tasks = [indices[first : first + TOGETHER] for first in range(0, len(indices), TOGETHER)]
    if not workers:
        for task in tasks:
            yield from make(task)
        return
    if isinstance(make.codec, nn.Module):
        make.codec.cpu()
    # Spawned, because a process that has used threads or a GPU cannot be forked.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,))
    waiting: deque[Future[list[Members]]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_made, task))
            if len(waiting) > 4 * workers:  # so many wait to be written, at most
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_maker: ClipMaker | None = None


def _begin(make: ClipMaker) -> None:
    global _maker
    _maker = make
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends this one


def _made(indices: Sequence[int]) -> list[Members]:
    assert _maker is not None
    return list(_maker(indices))
