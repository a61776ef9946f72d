"""Streams to files: batches of videos, written as they are made, and what that took."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from adastate.distributed.sequence_split import SequenceSplit, agreed
from adastate.inference.conditioning import Prefix
from adastate.inference.decode_worker import DecodeWorker
from adastate.inference.vbench import Item
from adastate.media.animation import AnimatedStream, animation, save_webp
from adastate.media.strip import strip
from adastate.media.video import VideoWriter, beside, to_uint8
from adastate.runtime.ranks import Rank
from adastate.stream import PromptSwitch, StreamSpec
from adastate.stream.action_schedule import label_of
from adastate.training.student import Student
from adastate.types import Chunk

ANIMATED = 4
"""Streams of a batch that an animation shows, at most."""

STRIP_CHUNKS = 200
"""A strip shows so many chunks at most, so that memory stays flat whatever the length."""


@dataclass(frozen=True)
class Plan:
    """What all streams of a call have in common.

    Attributes:
        frames: latent frames to make, those given not counted.
        folder: where the videos go; `records`: where all else goes.
        switches: new prompts, by chunk.
        states: the decoded state stands to the right of the video.
        actions: of all streams `[1, F, A]`, for each latent frame after those given; None where none is steered.
        animated: an animated WebP of all streams of a batch lies beside the videos, their states in it.
    """

    frames: int
    seed: int
    spec: StreamSpec
    folder: Path
    records: Path
    given: Prefix | None = None
    switches: Mapping[int, PromptSwitch[list[str]]] = field(default_factory=dict)
    states: bool = False
    actions: Tensor | None = None
    animated: bool = False

    def held(self, chunk: Chunk) -> str:
        """The keys that steered a chunk; empty where none could."""
        if self.actions is None:
            return ""
        return label_of(self.actions, chunk.start - (self.given.frames if self.given else 0), chunk.frames)


@dataclass
class Clock:
    """Sums of seconds and pictures over batches; writing files, and what is given, count in neither."""

    streams: int = 0
    pictures: int = 0  # of each stream, as in its file
    made: int = 0  # of all streams together
    first: float = math.nan
    denoising: float = 0.0
    decoding: float = 0.0
    together: float = 0.0  # where both happen at a time, and files are written meanwhile


@dataclass(frozen=True)
class Timing:
    """Seconds and pictures a second of the streams of a process; writing the files counts in neither."""

    streams: int
    pictures: int  # of each stream
    first_picture_s: float  # from the call to the first decoded picture
    denoising_s: float
    decoding_s: float
    pictures_s_without_decoding: float  # of all streams together
    pictures_s_with_decoding: float
    device: str
    chunk_frames: int
    steps: int
    window_frames: int | None
    batch: int = 1
    skipped: int = 0  # videos that were there already


# ---- streams


def stream_batch(student: Student, plan: Plan, items: Sequence[Item], given: Tensor | None) -> Iterator[Chunk]:
    """The chunks of one batch, after what is `given`."""
    return student.stream(
        [item.told for item in items],
        plan.frames,
        plan.seed,
        given,
        spec=plan.spec,
        switches=plan.switches,
        index=[item.index for item in items],
        actions=plan.actions,
    )


def before(plan: Plan, items: Sequence[Item]) -> Tensor | None:
    """What stands before the streams of a batch."""
    return None if plan.given is None else plan.given.batch([item.row for item in items])


@torch.no_grad()
def write_batch(
    student: Student,
    plan: Plan,
    items: Sequence[Item],
    clock: Clock,
    sheet: Path | None = None,
    tick: Callable[[int], None] = lambda frames: None,
    overlap: bool | None = None,
) -> None:
    """Streams one batch of videos into the plan's folder; none is left there if it fails.

    Args:
        clock: the batch is added to it.
        sheet: file of a strip, pictures over time and states below.
        tick: called with the latent frames of every chunk.
        overlap: whether a chunk is decoded while the next one is denoised; None: on a GPU, which has room for both.
    """
    codec, decoder = student.codec, student.codec.stream()
    given = before(plan, items)
    kept: list[tuple[Tensor, Tensor | None]] = []
    held: list[str] = []
    began, first, pictures = time.perf_counter(), math.nan, 0
    with ExitStack() as stack:
        files: list[VideoWriter] = []

        def append(video: Tensor, hidden: Tensor | None, word: str = "") -> None:
            if (sheet is not None or plan.animated) and len(kept) < STRIP_CHUNKS:
                held.append(word)
                kept.append((to_uint8(video), None if hidden is None else to_uint8(hidden)))  # not on the GPU
            if plan.states:
                video = beside(video, hidden)
            for i, clip in enumerate(video):
                if len(files) == i:
                    path = plan.folder / items[i].name
                    files.append(stack.enter_context(VideoWriter(path, codec.fps, *clip.shape[-2:])))
                files[i].append(clip)

        chunks = stream_batch(student, plan, items, given)

        def decoded(chunk: Chunk, ready: torch.cuda.Event | None) -> None:
            """One chunk to pixels and into the files."""
            nonlocal first, pictures
            with aside.stream_context(ready):
                if given is not None and not files:
                    video = decoder.decode(given)
                    pictures += video.shape[1]
                    append(video, None)
                middle = time.perf_counter()
                video = decoder.decode(chunk.content)
                _sync(student.device)
                clock.decoding += time.perf_counter() - middle
                first = time.perf_counter() - began if math.isnan(first) else first
                pictures, clock.made = pictures + video.shape[1], clock.made + video.shape[1] * len(items)
                wanted = plan.states or plan.animated or sheet is not None
                hidden = codec.decode(chunk.state) if wanted and chunk.state is not None else None
                append(video, hidden, plan.held(chunk))

        aside = stack.enter_context(DecodeWorker(student.device, overlap))
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            _sync(student.device)
            clock.denoising += time.perf_counter() - start
            if chunk is None:
                break
            aside.submit(decoded, chunk)
            tick(chunk.frames)
        aside.finish()
        if aside.overlaps:
            clock.together += time.perf_counter() - began
    clock.first = first if math.isnan(clock.first) else clock.first
    clock.pictures, clock.streams = pictures, clock.streams + len(items)
    if sheet is not None:
        _strip(student, plan, items, kept, pictures, held).save(sheet)
    if plan.animated:
        _animate(plan, items, kept, held, codec.fps)


def _animate(
    plan: Plan,
    items: Sequence[Item],
    kept: Sequence[tuple[Tensor, Tensor | None]],
    steered: Sequence[str],
    fps: float,
) -> None:
    """The first streams of a batch as one animation, as many as fit, under the name of the first video."""
    streams = [
        AnimatedStream(
            [video[i] for video, _ in kept],
            [None if state is None else state[i] for _, state in kept],
            item.prompt,
            steered if plan.actions is not None else (),
        )
        for i, item in enumerate(items[:ANIMATED])
    ]
    path = (plan.folder / items[0].name).with_suffix(".webp")
    while not save_webp(animation(streams, fps, columns=1 if len(streams) < 4 else 2), fps, path):
        if len(streams) == 1:
            print(f"{path.name} would be too large: make fewer seconds", file=sys.stderr)
            return
        streams = streams[: len(streams) // 2]


def _strip(
    student: Student,
    plan: Plan,
    items: Sequence[Item],
    kept: Sequence[tuple[Tensor, Tensor | None]],
    pictures: int,
    held: Sequence[str],
) -> Image.Image:
    fps = student.codec.fps
    title = f"{pictures / fps:.1f} s, states below their chunks"
    # a given chunk stands before the horizon's first
    horizon = student.rollout_frames // plan.spec.chunk_frames if plan.given is None else None
    clips, hidden = [v for v, _ in kept], [h for _, h in kept]
    before = 0 if plan.given is None else 1  # what is given stands before chunk 0
    switches = {before + chunk: switch.prompt for chunk, switch in plan.switches.items()}
    return strip(
        clips,
        hidden,
        prompts=[item.told if switches else item.prompt for item in items],
        fps=fps,
        title=title,
        horizon=horizon,
        steered=held if plan.actions is not None else (),
        switches=switches,
    )


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def write_videos(
    student: Student,
    plan: Plan,
    items: Sequence[Item],
    rank: Rank,
    batch: int,
    sheet: bool,
    resume: bool,
    split: SequenceSplit | None = None,
) -> Timing | None:
    """This rank's share of `items`, batch by batch; None if nothing was left to do.

    Item i is the work of rank i % world, whatever is done already. With `resume` a video that is there is not made
    again. Ranks of a `split` are one: all make its streams, and the first of them decodes and writes.
    """
    mine = list(enumerate(items))[rank.rank :: rank.world]
    todo = [(i, item) for i, item in mine if not (resume and (plan.folder / item.name).is_file())]
    if split is not None:  # what is there changes while they look
        (todo,) = agreed(split, todo)
    batches = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    if split is not None and split.rank:
        for part in batches:
            for _ in stream_batch(student, plan, ours := [item for _, item in part], before(plan, ours)):
                pass
        return None
    clock, began = Clock(), time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    terminal = Console().is_terminal
    with Progress(*columns, transient=True, disable=not terminal) as progress:
        task = progress.add_task("streaming", total=plan.frames * len(todo), rate="")
        for number, part in enumerate(batches):
            if len(batches) > 1:
                progress.update(task, description=f"streaming {clock.streams + len(part)} of {len(todo)} videos")

            def tick(frames: int, streams: int = len(part)) -> None:
                spent = clock.denoising + clock.decoding
                rate = f"{clock.made / spent:.1f} pictures/s" if clock.made else ""
                progress.update(task, advance=frames * streams, rate=rate)

            name = "strip.png" if len(part) == len(items) else f"strip-{part[0][0]:03d}.png"
            write_batch(student, plan, [item for _, item in part], clock, plan.records / name if sheet else None, tick)
            if len(batches) > 1 and not terminal:  # a log of many hours wants lines
                left = (time.perf_counter() - began) / (number + 1) * (len(batches) - number - 1)
                who = f"rank {rank.rank} of {rank.world}: " if rank.world > 1 else ""
                print(f"{who}{clock.streams} of {len(todo)} videos, {left / 60:.0f} min left", flush=True)
    if not todo:
        return None
    return Timing(
        streams=clock.streams,
        pictures=clock.pictures,
        first_picture_s=round(clock.first, 3),
        denoising_s=round(clock.denoising, 3),
        decoding_s=round(clock.decoding, 3),
        pictures_s_without_decoding=round(clock.made / clock.denoising, 1),
        pictures_s_with_decoding=round(clock.made / (clock.together or clock.denoising + clock.decoding), 1),
        device=str(student.device),
        chunk_frames=plan.spec.chunk_frames,
        steps=len(plan.spec.denoising_steps),
        window_frames=plan.spec.window_frames,
        batch=min(batch, len(todo)),
        skipped=len(mine) - len(todo),
    )
