"""Beginning and end of rollouts: the measured parts of videos that would not fit into memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.progress import Progress
from torch import Tensor

from adastate.encoders import StreamDecoder
from adastate.encoders.batching import portions
from adastate.stream import StreamSpec
from adastate.training.student import Student


@dataclass(frozen=True)
class RolloutEnds:
    """The measured parts of videos: a beginning and the last second.

    Attributes:
        first: `[B, T, 3, h, w]`, the horizon, but at least a second.
        last: the last second, likewise.
        pictures: number of pictures of each video.
    """

    first: Tensor
    last: Tensor
    pictures: int


def ends(parts: Iterable[Tensor], once: int, fps: int) -> RolloutEnds:
    """Ends of videos `[B, T, 3, h, w]` that arrive in parts, with a horizon of `once` pictures."""
    first, last, count, wanted = list[Tensor](), list[Tensor](), 0, max(once, fps)
    for part in parts:
        if count < wanted:
            first.append(part[:, : wanted - count])
        count += part.shape[1]
        last.append(part)
        while sum(p.shape[1] for p in last[1:]) >= fps:
            last.pop(0)
    return RolloutEnds(torch.cat(first, 1), torch.cat(last, 1)[:, -fps:], count)


@torch.no_grad()
def stream_ends(
    student: Student,
    prompts: Sequence[str],
    frames: int,
    seed: int,
    once: int,
    last: int | None = None,
    spec: StreamSpec | None = None,
    actions: Tensor | None = None,
) -> RolloutEnds:
    """Ends of streams of `frames` latent frames, decoded as they are generated; on the CPU.

    Args:
        last: number of pictures kept of the end; None: those of a second.
        spec: another stream than the student's own.
        actions: `[B, F, A]`, whose last row holds for all further frames.
    """
    found = list[RolloutEnds]()
    with Progress(transient=True) as progress:
        task = progress.add_task("rollouts", total=len(prompts) * frames)
        for part in portions(len(prompts), student.latent_size):
            some, decoder = [prompts[i] for i in part], student.codec.stream()
            steered = None if actions is None else actions[part.start : part.stop]

            def decoded(
                some: list[str] = some,
                decoder: StreamDecoder = decoder,
                first: int = part.start,
                steered: Tensor | None = steered,
            ) -> Iterator[Tensor]:
                for chunk in student.stream(some, frames, seed + first, spec=spec, actions=steered):
                    yield decoder.decode(chunk.content).cpu()
                    progress.advance(task, len(some) * chunk.frames)

            found.append(ends(decoded(), once, last or student.codec.fps))
    return RolloutEnds(torch.cat([e.first for e in found]), torch.cat([e.last for e in found]), found[0].pictures)
