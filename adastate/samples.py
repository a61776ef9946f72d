"""Samples of the student for the scores to look at, made in one of several ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adastate import flow
from adastate.encoders import starts_with_a_picture
from adastate.noise import SampleNoise
from adastate.stream.rollout import Step
from adastate.student import Student
from adastate.types import Chunk


@dataclass(frozen=True)
class Sample:
    """A clip of the student.

    Attributes:
        x: `[B, F, C, H, W]`, with gradient where asked for.
        chunks: of the stream that it was, with their states; none where it was no stream.
        carries: which frames `[F]` carry loss; None for all.
    """

    x: Tensor
    chunks: list[Chunk]
    carries: Tensor | None = None

    def mask(self) -> Tensor | None:
        """`[B, F]`."""
        return None if self.carries is None else self.carries.to(self.x.device)[None].expand(self.x.shape[:2])


def rolled(
    student: Student,
    text: Tensor,
    noise: SampleNoise,
    frames: int,
    level: int,
    grad: bool,
    uniform: bool = False,
    record: list[Step] | None = None,
) -> Sample:
    """A stream from its beginning, exit level `level`; `uniform` undoes a staircase."""
    spec = replace(student.spec, schedule="uniform") if uniform else student.spec
    chunks = list(student.rollout(text, noise, frames, level, grad, spec=spec, record=record))
    return Sample(torch.cat([c.content for c in chunks], 1), chunks)


def window(
    student: Student, text: Tensor, noise: SampleNoise, frames: int, level: int, grad: bool, first: int, length: int
) -> Sample:
    """`length` frames of a stream of `frames`, from chunk `first` on; what comes before has no gradient.

    The teacher knows clips that begin with a picture. Where the codec makes a difference there, a window from the
    middle gets its first latent encoded again as one, and its first chunk carries no loss (Self-Forcing's and
    LongLive's long tuning).
    """
    size = student.chunk_frames
    last = first + length // size
    chunks = list(student.rollout(text, noise, last * size, level, grad, grad_from=first))[first:]
    x = torch.cat([c.content for c in chunks], 1)
    carries = None
    if first > 0 and starts_with_a_picture(student.codec):
        with torch.no_grad():
            picture = student.codec.decode(x[:, :1].detach())
            x = torch.cat([student.codec.encode(picture), x[:, 1:]], 1)
        carries = torch.arange(x.shape[1]) >= size
    return Sample(x, chunks, carries)


def noised(student: Student, text: Tensor, latents: Tensor, noise: SampleNoise, grad: bool) -> Sample:
    """Real clips noised to the student's levels, a level of its own for each chunk, and denoised in one causal pass.

    What CausVid's distillation looks at: nothing of the student's own making is in the context.
    """
    spec = student.spec
    chunks = spec.chunks(latents.shape[1])
    levels = torch.tensor(spec.timesteps, device=latents.device)
    pick = torch.stack([noise.integers(len(levels)) for _ in range(chunks)], 1)
    t = levels[pick].repeat_interleave(spec.chunk_frames, 1)
    x_t = flow.add_noise(latents, noise.normal(*latents.shape[1:]), t, spec.shift)
    with torch.set_grad_enabled(grad):
        return Sample(flow.to_x0(x_t, student.causal_at_once(x_t, t, text), t, spec.shift), [])


Reward = Callable[[Tensor], Tensor]
"""Decoded video `[B, T, 3, h, w]` in [-1, 1] -> one number per clip `[B]`, larger for better."""
