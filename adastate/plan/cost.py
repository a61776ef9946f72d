"""Parameters and arithmetic of the network, as closed formulas of its size; checked against the network itself.
Backbones other than Wan's are counted, see `counted_network`.

One multiply-add is two FLOP. Matrix products and attention are counted; norms, activations and RoPE are not. Which
frames each pass of a stream sees is not implemented a second time: the stream's own code is run over frames of one
token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adastate.models.video_network import Size
from adastate.plan.counted_network import counted
from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.cache import PassMemory
from adastate.stream.rollout import rollout
from adastate.stream.teacher_forcing import teacher_forced_chunks
from adastate.types import FrameMask, Memory

SCORES = 2.5
"""Cost of attention's backward relative to its forward: five products instead of two, as flash kernels recompute the
scores. If scores are kept it is 2."""


@dataclass(frozen=True)
class CountedPass:
    """One pass of the network over one sample.

    Attributes:
        frames: latent frames that it computes, including state frames.
        seen: visible cached frames.
        cached: frames in the cache at the time.
        rotated: those visible frames whose rotated keys are kept for the other passes of the chunk.
        joined: anchor and window are both visible, so that their values are copied into one tensor.
        visible: which frames see which, rows `frames`, columns `seen + frames`; None: all see all.
        grad: whether its activations are kept for a backward.
        level: timestep of a stream's pass without gradient, if no frame is steered: modulations are computed once per
            level; else None.
        leaves: a clean pass without gradient, which ends with the keys and values of the last layer.
    """

    frames: int
    seen: int = 0
    cached: int = 0
    rotated: int = 0
    joined: bool = False
    visible: FrameMask | None = None
    grad: bool = False
    level: float | None = None
    leaves: bool = False

    @property
    def pairs(self) -> int:
        """(query frame, key frame) pairs that attention computes."""
        return self.frames * (self.seen + self.frames) if self.visible is None else sum(map(sum, self.visible))

    @property
    def keys(self) -> int:
        """Key frames that attention reads; queries that see different ones read separate copies."""
        if self.visible is None:
            return self.seen + self.frames
        return sum(map(sum, dict.fromkeys(self.visible)))


@dataclass(frozen=True)
class Flops:
    """FLOP of a pass, of its backward, and of the recomputation by activation checkpointing."""

    forward: float
    backward: float
    again: float = 0.0

    def trained(self, checkpointing: bool) -> float:
        """Forward and backward together."""
        return self.forward + self.backward + (self.again if checkpointing else 0.0)


FORMULAS = ("wan", "wan22")
"""Backbones with Wan's network, for which the formulas here hold; others are counted on the meta device."""


def parameters(size: Size) -> int:
    """Parameters of a network."""
    if size.backbone not in FORMULAS:
        return int(counted(size, 1).parameters)
    d, patch = size.width, patch_width(size)
    attention = 4 * (d * d + d) + 2 * d
    block = 2 * attention + 2 * d + (d * size.ffn + size.ffn) + (size.ffn * d + d) + 6 * d
    text = (size.text_width * d + d) + (d * d + d)
    time = (size.time_embedding_dim * d + d) + (d * d + d) + (6 * d * d + 6 * d)
    ends = (patch * d + d) + (d * patch + patch) + 2 * d
    return ends + text + time + size.layers * block + action_columns(size) * d


def action_columns(size: Size) -> int:
    """Action columns of a frame, with the flag; 0 if the network cannot be steered."""
    return size.actions + 1 if size.actions else 0


def patch_width(size: Size) -> int:
    """Numbers of one token before its embedding."""
    return size.channels * size.patch[1] * size.patch[2]


def frame_tokens(size: Size, grid: tuple[int, int]) -> int:
    """Tokens of a latent frame of `grid` = (height, width).

    Raises:
        ValueError: the grid is not divisible by the patch size.
    """
    if grid[0] % size.patch[1] or grid[1] % size.patch[2]:
        raise ValueError(
            f"a grid of {grid[0]} x {grid[1]} latents is not divisible by patches of {size.patch[1]} x {size.patch[2]}"
        )
    return (grid[0] // size.patch[1]) * (grid[1] // size.patch[2])


def pass_flops(size: Size, tokens: int, work: CountedPass, scores: float = SCORES) -> Flops:
    """One pass over one sample with `tokens` tokens per frame, without the keys of its prompt.

    A network that can be steered is assumed to be: every frame of every pass has its own modulations.
    """
    if size.backbone not in FORMULAS:
        network = counted(size, tokens)
        attention, whole_pass = network.pair * work.pairs, network.forward(work.frames, work.pairs)
        return Flops(whole_pass, 2 * (whole_pass - attention) + scores * attention, whole_pass)
    d, length, patch = size.width, work.frames * tokens, patch_width(size)
    timed = work.frames if work.level is None or size.actions else 0
    told = size.time_embedding_dim + action_columns(size)
    first = 2 * (length * patch + timed * told) * d  # no gradient for latents, timesteps and actions
    whole = size.layers - work.leaves
    ends = 2 * (timed * 7 * d * d + length * d * patch * (not work.leaves))
    linear = 2 * length * ((6 * d * d + 2 * d * size.ffn) * whole + 2 * d * d * work.leaves)
    attention = 4 * d * (work.pairs * tokens**2 + length * size.text_tokens) * whole
    return Flops(
        first + ends + linear + attention, first + 2 * (ends + linear) + scores * attention, linear + attention
    )


def text_flops(size: Size) -> Flops:
    """Keys and values of one prompt, for all layers."""
    if size.backbone not in FORMULAS:
        keys = counted(size, 1).text
        return Flops(keys, 2 * keys)
    d = size.width
    first = 2 * size.text_tokens * size.text_width * d
    rest = 2 * size.text_tokens * d * d * (1 + 2 * size.layers)
    return Flops(first + rest, first + 2 * rest)


# ---- which passes there are


def possible_exits(spec: StreamSpec) -> list[Exits]:
    """All exits that a training rollout may draw, with equal probability."""
    levels = range(len(spec.timesteps))
    if spec.schedule == "staircase":
        return [Exits(window_phase=phase) for phase in levels]
    first = range(len(spec.first_chunk_denoising_steps)) or (None,)
    return [Exits(level, own) for level in levels for own in first]


def rollout_passes(
    spec: StreamSpec,
    frames: int,
    exits: Exits = Exits(),  # noqa: B008 - frozen
    grad: bool = False,
) -> list[CountedPass]:
    """The passes of a training rollout of `frames` latent frames that stops at `exits`.

    Raises:
        ValueError: as `StreamSpec.chunks` and `rollout`.
    """
    cache = StateCache(spec)
    notes = _Notes(cache)
    for _ in rollout(notes, _Zeros(), cache, spec.chunks(frames), (1, 1, 1), exits, grad, finish=False):
        pass
    return notes.passes


def forced_passes(spec: StreamSpec, frames: int) -> list[CountedPass]:
    """The passes of teacher forcing through the cache, each chunk with its state."""
    cache = StateCache(spec)
    notes = _Notes(cache)
    size = spec.chunk_frames + spec.state_frames
    chunks = [torch.zeros(1, size, 1, 1, 1)] * spec.chunks(frames)
    for _ in teacher_forced_chunks(notes, cache, chunks, chunks, [c[..., 0, 0, 0] for c in chunks]):
        pass
    return notes.passes


def stream_places(spec: StreamSpec, frames: int) -> int:
    """Maximum number of latent frames of keys or of values in the memory of a stream of `frames`, as run by
    `Student.stream`: each place of its slab has values and rotated keys, and raw keys if they are rotated again."""
    cache = StateCache(spec, layers=1)
    notes = _Filled()
    for _ in rollout(notes, _Zeros(), cache, spec.chunks(frames), (1, 1, 1), finish=False):
        pass
    if notes.numbers:
        return notes.numbers
    return max(2 * p.cached + p.rotated * (1 + p.joined) for p in rollout_passes(spec, frames))  # ping-pong has none


class _Zeros:
    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(1, *shape)


class _Notes:
    """A network of one token per frame that computes nothing, and records its calls."""

    def __init__(self, cache: StateCache) -> None:
        self.cache = cache
        self.passes: list[CountedPass] = []

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        assert isinstance(memory, PassMemory)
        view = memory
        past = view.read(0, lambda k, at: k)
        seen = 0 if past is None else past[0].shape[1]
        joined = bool(view.places.anchor_frames) and bool(view.places.past_frames)
        full = memory.visible is None or all(map(all, memory.visible))
        visible = None if full else memory.visible
        frames, grad = x.shape[1], torch.is_grad_enabled()
        # if keys carry gradient, the view of a pass keeps them, and rotates the cached ones each time
        attached = grad and self.cache.spec.cache_grad == "straight_through"
        cached, rotated = self.cache.tokens + frames * attached, 0 if attached else seen
        level, leaves = (None, False) if grad else (float(t[0, 0]), memory.clean)
        self.passes.append(CountedPass(frames, seen, cached, rotated, joined, visible, grad, level, leaves))
        view.stage(0, torch.zeros(1, frames, 1, 1), torch.zeros(1, frames, 1, 1))
        return torch.zeros_like(x)


class _Filled:
    """The same with one layer of one number per key, which writes into the stream's slab."""

    def __init__(self) -> None:
        self.numbers = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        assert isinstance(memory, PassMemory)
        own = torch.zeros(1, x.shape[1], 1, 1)
        memory.join(0, own if memory.keeps else None, own, own, lambda k, at: k)
        if memory.slab_memory is not None:
            self.numbers = max(self.numbers, memory.slab_memory.slab.bytes // own.element_size())
        return torch.zeros_like(x)


# ---- cost of a step, per sample


def stream_flops(
    size: Size, tokens: int, passes: Iterable[CountedPass], checkpointing: bool, scores: float = SCORES
) -> float:
    """FLOP of a rollout, and of the backward of its passes with gradient."""
    found, kinds, levels = 0.0, set(), set()
    for work in passes:
        cost = pass_flops(size, tokens, work, scores)
        found += cost.trained(checkpointing) if work.grad else cost.forward
        kinds.add(work.grad)
        levels.add(work.level)
    if not size.actions:
        found += len(levels - {None}) * 2 * size.width * (size.time_embedding_dim + 7 * size.width)
    keys = text_flops(size)  # computed once with a graph and once without
    return found + (keys.forward if False in kinds else 0) + (keys.forward + keys.backward if True in kinds else 0)


def clip_flops(size: Size, tokens: int, work: CountedPass, scores: float = SCORES) -> Flops:
    """A pass and the keys of its prompt."""
    cost, keys = pass_flops(size, tokens, work, scores), text_flops(size)
    return Flops(cost.forward + keys.forward, cost.backward + keys.backward, cost.again)


@dataclass(frozen=True)
class StepCost:
    """Settings of a distillation that determine its cost; names as in Distill, per sample.

    Attributes:
        tokens: per latent frame.
        checkpointing: of (student, critic).
        guided: whether the teacher runs twice, with and without the prompt.
        states: whether states are scored too.
    """

    student: Size
    teacher: Size
    critic: Size
    spec: StreamSpec
    tokens: int
    frames: int
    checkpointing: tuple[bool, bool] = (False, False)
    guided: bool = True
    states: bool = False
    scores: float = SCORES

    @property
    def exits(self) -> list[Exits]:
        return possible_exits(self.spec)

    def passes(self, exits: Exits, grad: bool) -> list[CountedPass]:
        return rollout_passes(self.spec, self.frames, exits, grad)

    def rollout(self, grad: bool, exits: Exits | None = None) -> float:
        """FLOP of a rollout, with `grad` also of its backward; without `exits` the mean over all possible exits."""
        each = [
            stream_flops(self.student, self.tokens, self.passes(drawn, grad), self.checkpointing[0], self.scores)
            for drawn in (self.exits if exits is None else [exits])
        ]
        return sum(each) / len(each)

    @property
    def score(self) -> float:
        """FLOP of both scores of the clip, and of the one with states."""
        clip = CountedPass(self.frames)
        real = clip_flops(self.teacher, self.tokens, clip).forward * (1 + self.guided)
        fake = clip_flops(self.critic, self.tokens, clip).forward
        return (real + fake) * (1 + self.states)

    def student_step(self, exits: Exits | None = None) -> float:
        return self.rollout(True, exits) + self.score

    @property
    def critic_update(self) -> float:
        """FLOP of the critic's own pass and its backward, without the rollout that it is trained on."""
        cost = clip_flops(self.critic, self.tokens, CountedPass(self.frames), self.scores)
        return cost.trained(self.checkpointing[1])

    def network_tokens(self, grad_rollouts: float, rollouts: float, updates: float) -> float:
        """Tokens that pass through any of the networks, for these numbers of each per sample; without backward."""
        made = [sum(p.frames for p in self.passes(i, False)) for i in self.exits]
        scored = self.frames * (2 + self.guided) * (1 + self.states)
        mean = sum(made) / len(made)
        return self.tokens * ((grad_rollouts + rollouts) * mean + grad_rollouts * scored + updates * self.frames)
