"""A stream that is generated chunk by chunk, and whose cache may be changed between chunks: for experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adastate.diffusion.noise import PlacedNoise, SampleNoise
from adastate.stream import StateCache
from adastate.stream.kv_frames import TensorFrames
from adastate.stream.passes import clean_pass, run_passes
from adastate.stream.rollout import denoise_chunk
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.student import Student
from adastate.types import Chunk


class SteppedStream:
    """One row per prompt; `cache` is the stream's memory.

    Args:
        noise: a function of the position in the stream, so that two streams can have the same.
    """

    def __init__(self, student: Student, prompts: Sequence[str], noise: PlacedNoise) -> None:
        if student.spec.schedule != "uniform":
            raise ValueError(f"schedule {student.spec.schedule!r}: only the uniform schedule generates single chunks")
        self.student, self.noise = student, noise
        net = student.ema.whole(student.net.weight_dtype)
        self.network = PromptedNetwork(net, student.embed(list(prompts)))
        self.cache = StateCache(student.spec)

    @torch.no_grad()
    def step(self, forced: Tensor | None = None) -> Chunk:
        """Generates the next chunk.

        Args:
            forced: latents `[B, F, C, H, W]` that are cached as its content. The returned chunk is still the denoised
                one, and the state is the stream's own.
        """
        made = run_passes(denoise_chunk(self.network, self.noise, self.cache, self.student.latent_shape))
        chunk, queries = made.chunk(self.cache), made.step.queries
        x0 = made.x0 if forced is None else torch.cat([made.x0[:, :queries], forced.to(made.x0)], 1)
        self.cache.generated += 1
        run_passes(clean_pass(self.network, self.noise, self.cache, x0, queries))
        return chunk


class CoupledNoise(PlacedNoise):
    """The noise of `seed`, except for the first chunk, which has the noise of `first`."""

    def __init__(self, seed: int, first: int, index: Sequence[int]) -> None:
        super().__init__(seed, index)
        self.first = PlacedNoise(first, index)

    def at(self, chunk: int, level: int, kind: str) -> SampleNoise:
        return self.first.at(chunk, level, kind) if chunk == 0 else super().at(chunk, level, kind)


# ---- changes to the memory; each returns new frames and changes none in place


def exchanged(frames: TensorFrames, order: Sequence[int]) -> TensorFrames:
    """Gives row i the frames of row `order[i]`."""
    rows = torch.tensor(list(order))
    return replace(
        frames, keys=tuple(k[rows] for k in frames.keys), values=tuple(v[rows] for v in frames.values)
    )  # fmt: skip


def disturbed(frames: TensorFrames, strength: float, seed: int, newest: int | None = None) -> TensorFrames:
    """Adds noise of `strength` standard deviations to keys and values of the `newest` frames; None: of all frames."""
    g = torch.Generator().manual_seed(seed)
    from_token = 0 if newest is None else (frames.count - newest) * frames.frame_tokens

    def noisy(x: Tensor) -> Tensor:
        part = x[:, from_token:]
        drawn = torch.randn(part.shape, generator=g).to(part)
        return torch.cat([x[:, :from_token], part + strength * part.std() * drawn], 1)

    return replace(
        frames, keys=tuple(noisy(k) for k in frames.keys), values=tuple(noisy(v) for v in frames.values)
    )  # fmt: skip
