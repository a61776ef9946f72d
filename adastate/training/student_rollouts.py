"""Clips of the student for scoring, and the kinds of rollout that generate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.encoders import starts_with_a_picture
from adastate.models.actions import Steering
from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.cache_state import fork
from adastate.stream.passes import ExitPass
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.student import Student
from adastate.types import Batch, Chunk


@dataclass(frozen=True)
class MicroBatch:
    """A micro batch.

    Attributes:
        text: embeddings of the prompts.
        index: global sample indices `[B]`.
        latents: those of the data, if it has them.
        next_text: embeddings of the next prompts, to which a stream may switch.
        slot: index of the micro batch in its iteration.
        steering: actions of its streams, if the data has them.
    """

    text: Tensor
    index: Tensor
    latents: Tensor | None = None
    next_text: Tensor | None = None
    slot: int = 0
    steering: Steering | None = None

    @classmethod
    def of(cls, student: Student, batches: Sequence[Batch], switching: bool) -> list[MicroBatch]:
        """The inputs of an iteration, from its batches; `switching` if streams change their prompt.

        All prompts are embedded at once, because a large text encoder is copied to the device for each call.
        """
        if switching and not all(batch.next_prompts for batch in batches):
            raise ValueError(
                "prompt_switch_prob needs the prompt that comes next: give PromptData pairs: true or a next_file"
            )
        told = [batch.prompts for batch in batches]
        following = [batch.next_prompts for batch in batches] if switching else []
        texts = student.embed([p for prompts in (*told, *following) for p in prompts]).split(
            [len(prompts) for prompts in (*told, *following)]
        )
        later = texts[len(told) :] if switching else [None] * len(told)
        return [
            cls(text, batch.index, batch.latents, next_text, slot, Steering.of(batch.actions))
            for slot, (batch, text, next_text) in enumerate(zip(batches, texts, later, strict=False))
        ]


@dataclass(frozen=True)
class StudentSample:
    """A clip of the student.

    Attributes:
        x: `[B, F, C, H, W]`, with gradient if requested.
        chunks: trainable chunks of its stream, with their states; empty if it was not generated as a stream.
            Frames of `x` before them are context.
        loss_mask: which frames `[F]` carry loss, on the host; None for all.
        text: prompts for its scores; None for those of its MicroBatch.
        start: the cache before the first of `chunks`, and
        steps: what is needed to run them again; both only if they were recorded.
        steering: actions of its stream, if it has any.
        first: index of the first frame of `x` in that stream.
    """

    x: Tensor
    chunks: list[Chunk]
    loss_mask: Tensor | None = None
    text: Tensor | None = None
    start: StateCache | None = None
    steps: list[ExitPass] = field(default_factory=list)
    steering: Steering | None = None
    first: int = 0

    @property
    def actions(self) -> Tensor | None:
        """Actions of the frames of `x` `[B, F, A + 1]`, for its scores; None if there are none."""
        if self.steering is None:
            return None
        rows = self.steering.rows(range(self.first, self.first + self.x.shape[1]))
        return None if rows is None else rows.to(self.x.device, non_blocking=True)

    @property
    def context(self) -> int:
        """Frames of `x` before its chunks."""
        return self.x.shape[1] - sum(c.frames for c in self.chunks) if self.chunks else 0

    def scored_text(self, text: Tensor) -> Tensor:
        """Prompts for its scores; `text` are those of its MicroBatch."""
        return text if self.text is None else self.text

    def mask(self) -> Tensor | None:
        """`loss_mask` as `[B, F]` on the host, if there is one."""
        return None if self.loss_mask is None else self.loss_mask[None].expand(self.x.shape[:2])


@dataclass(frozen=True)
class RolloutDraw:
    """Random choices of a rollout that all samples and ranks share.

    Attributes:
        exits: which passes produce the output.
        window_start: first chunk of a window of a long rollout.
        switch_chunk: chunk of a long rollout, or of a stream that starts with it and is carried on, with which the next
            prompt starts; None: no switch.
        uniform_schedule: denoise chunk by chunk although the stream's schedule is a staircase.
    """

    exits: Exits = Exits()  # noqa: RUF009 - frozen
    window_start: int = 0
    switch_chunk: int | None = None
    uniform_schedule: bool = False

    def spec(self, student: Student) -> StreamSpec:
        """Of this rollout."""
        return replace(student.spec, schedule="uniform") if self.uniform_schedule else student.spec


def continue_rollout(
    student: Student,
    text: Tensor,
    noise: SampleNoise,
    cache: StateCache,
    chunks: int,
    draw: RolloutDraw,
    grad: bool = False,
    finish: bool = True,
    record: bool = False,
    steering: Steering | None = None,
) -> StudentSample:
    """Continues the stream in `cache` by `chunks` chunks."""
    steps: list[ExitPass] = []
    start, first = fork(cache) if record else None, cache.origin + cache.frames
    network, shape = PromptedNetwork(student.net, text, steering=steering), student.latent_shape
    with torch.set_grad_enabled(grad):
        into = steps if record else None
        made = list(rollout(network, noise, cache, chunks, shape, draw.exits, grad, finish, record=into))
        x = torch.cat([c.content for c in made], 1)
    return StudentSample(x, made, text=text, start=start, steps=steps, steering=steering, first=first)


def rollout_from_start(
    student: Student, part: MicroBatch, noise: SampleNoise, draw: RolloutDraw, grad: bool, record: bool = False
) -> StudentSample:
    """A stream of one horizon, from its beginning."""
    chunks = student.spec.chunks(student.rollout_frames)
    cache = StateCache(draw.spec(student))
    return continue_rollout(student, part.text, noise, cache, chunks, draw, grad, False, record, part.steering)


def rollout_window(
    student: Student, part: MicroBatch, noise: SampleNoise, draw: RolloutDraw, grad: bool, record: bool = False
) -> StudentSample:
    """One horizon of a stream, from chunk `draw.window_start` on; earlier chunks have no gradient (Self-Forcing++).

    If the codec's clips start with an image, or if the prompt changes within the window, its first chunk is context:
    see `overlapping`. A switch that was drawn inside the window comes right after that chunk, so all frames that carry
    loss were generated for the prompt that the scores receive. A staircase is one rollout that ends with the window:
    Rolling-Forcing's clips of a random length.
    """
    size = student.chunk_frames
    last = draw.window_start + student.rollout_frames // size
    inside = draw.switch_chunk is not None and draw.window_start < draw.switch_chunk < last
    picture = draw.window_start > 0 and starts_with_a_picture(student.codec)
    ahead = draw.window_start + (inside or picture)
    switch_at = ahead if inside else last if draw.switch_chunk is None else min(draw.switch_chunk, last)
    cache, text = StateCache(draw.spec(student)), part.text
    if cache.spec.schedule == "staircase":
        whole = continue_rollout(student, text, noise, cache, last, draw, grad, False, steering=part.steering)
        sample = replace(whole, x=whole.x[:, ahead * size :], chunks=whole.chunks[ahead:], first=ahead * size)
        return overlapping(student, whole.x[:, : ahead * size], sample, picture) if picture else sample

    def quiet(chunks: int) -> list[Tensor]:
        parts = [continue_rollout(student, text, noise, cache, chunks, draw, steering=part.steering)] if chunks else []
        return [made.x for made in parts]

    before = quiet(min(switch_at, ahead))
    if switch_at <= ahead:
        assert part.next_text is not None
        text = part.next_text
        student.switch(text, cache, part.steering)
        before += quiet(ahead - switch_at)
    sample = continue_rollout(student, text, noise, cache, last - ahead, draw, grad, False, record, part.steering)
    return overlapping(student, torch.cat(before, 1), sample, picture) if inside or picture else sample


def overlapping(student: Student, before: Tensor, sample: StudentSample, picture: bool) -> StudentSample:
    """`sample`, preceded by the last chunk of the latents `before` it, which carries no loss.

    The teacher was trained on clips that start with an image. With `picture` the first latent becomes one: the stream
    is decoded up to it, and the last frame is encoded as an image (Self-Forcing's and LongLive's long tuning).
    """
    size = student.chunk_frames
    before = before[:, -student.rollout_frames :].detach()
    front = before[:, -size:]
    if picture:
        with torch.no_grad():
            first = student.as_picture(before[:, : before.shape[1] - size + 1])
            front = torch.cat([first.to(front), front[:, 1:]], 1)
    x = torch.cat([front, sample.x], 1)
    return replace(sample, x=x, loss_mask=torch.arange(x.shape[1]) >= size, first=sample.first - size)


def denoise_real_clips(
    student: Student, part: MicroBatch, noise: SampleNoise, grad: bool, record: bool = False
) -> StudentSample:
    """Real clips, noised to the student's levels with a separate level for each chunk, and denoised in one causal pass.

    CausVid's distillation scores these clips: their context contains nothing generated by the student. They have no
    chunks to `record`.
    """
    spec, latents, steering = student.spec, part.latents, part.steering
    assert latents is not None
    chunks = spec.chunks(latents.shape[1])
    levels = torch.tensor(spec.timesteps).to(latents.device, non_blocking=True)
    pick = torch.stack([noise.integers(len(levels)) for _ in range(chunks)], 1)
    t = levels[pick].repeat_interleave(spec.chunk_frames, 1)
    x_t = flow.add_noise(latents, noise.normal(*latents.shape[1:]), t, spec.timestep_shift)
    actions = StudentSample(latents, [], steering=steering).actions
    with torch.set_grad_enabled(grad):
        velocity = student.block_causal_forward(x_t, t, part.text, actions)
        return StudentSample(flow.to_x0(x_t, velocity, t, spec.timestep_shift), [], steering=steering)


def replay_chunks(student: Student, text: Tensor, sample: StudentSample, gradient: Tensor) -> Iterator[Tensor]:
    """Runs the chunks of a recorded sample once more, with a graph of one chunk at a time; see stream.rollout.replay.

    Args:
        sample: a sample whose states have received their gradients.
        gradient: of `sample.x`.

    Yields:
        sum(x0 g) of every chunk [state | content]; their backward passes together are that of the sample.
    """
    assert sample.start is not None
    parts = gradient[:, sample.context :].split(student.chunk_frames, 1)
    made = student.replay_rollout(sample.scored_text(text), sample.steps, sample.start, sample.steering)
    for x0, step, chunk, g in zip(made, sample.steps, sample.chunks, parts, strict=True):
        if step.queries:
            assert chunk.state is not None
            of_state = torch.zeros_like(chunk.state) if chunk.state.grad is None else chunk.state.grad
            g = torch.cat([of_state, g], 1)
        yield (x0 * g.to(x0)).sum()
