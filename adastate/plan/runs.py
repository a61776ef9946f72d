"""Stages of training as countable runs: their networks, the work of their steps, and their memory."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adastate.encoders import GroupCodec
from adastate.plan import memory
from adastate.plan.cost import CountedPass, StepCost, clip_flops, parameters, stream_flops
from adastate.plan.memory import AUTOCAST, BFLOAT16, CAST, FLOAT32, Net, Phase, Precision


@dataclass(frozen=True)
class RunSetting:
    """Settings that may be changed without changing the result of training.

    Attributes:
        shared: number of ranks that share a sample.
    """

    zero: str = "0"
    ranks: int = 1
    batch: int = 1
    checkpointing: bool = False
    shared: int = 1

    @property
    def micro(self) -> int:
        """Samples of all ranks in a micro batch."""
        return self.batch * self.ranks // self.shared


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder; `device` is where its weights are kept: a rank's own device or the host of its machine."""

    name: str
    parameters: int
    bytes: int
    device: str = "rank"


@dataclass(frozen=True)
class Work:
    """FLOP per sample of one kind of work, and how often an iteration has it, averaged over a run."""

    name: str
    flop: float
    often: float


@dataclass(frozen=True)
class Run:
    """A stage of training.

    Attributes:
        batch: samples per rank and micro batch.
        global_batch: samples per iteration; None: the sum over the ranks.
        precision: of the trainer.
    """

    kind: str
    nets: tuple[Net, ...]
    encoders: tuple[Encoder, ...]
    tokens: int
    frames: int
    batch: int
    global_batch: int | None
    iterations: int
    precision: str

    @property
    @abstractmethod
    def works(self) -> list[Work]:
        """The work of an iteration."""

    @property
    @abstractmethod
    def network_tokens(self) -> float:
        """Tokens through all networks per sample of an iteration, without backward."""

    @abstractmethod
    def phases(self, at: RunSetting) -> list[Phase]:
        """The moments of an iteration with the highest memory use."""

    def stream(self, at: RunSetting) -> int:
        """Bytes of the cache of one stream of the horizon, as run by previews and `adastate generate`; 0: no stream."""
        return 0

    @property
    def steps(self) -> dict[str, int]:
        """Optimiser steps of the run by network."""
        return {net.name: self.iterations for net in self.nets if net.trained}

    @property
    def checkpointing(self) -> bool:
        return any(net.checkpointing for net in self.nets if net.trained)

    def with_checkpointing(self) -> Run:
        nets = tuple(replace(net, checkpointing=net.trained and net.size is not None) for net in self.nets)
        return replace(self, nets=nets)

    def net(self, name: str) -> Net:
        return next(net for net in self.nets if net.name == name)

    def dtype(self, net: Net, zero: str) -> Precision:
        """Dtypes of passes of `net`. ZeRO keeps weights in bfloat16 where DDP casts them in every pass."""
        if zero == "0" and net.compute_dtype:
            found = CAST
        elif self.precision in ("bf16-true", "bf16") or (zero != "0" and self.precision == "bf16-mixed"):
            found = BFLOAT16
        elif self.precision in ("bf16-mixed", "16-mixed"):
            found = AUTOCAST
        else:
            found = CAST if net.compute_dtype else FLOAT32
        if zero.startswith("3") and net.trained:
            found = replace(found, casts=True)  # weights gathered for a pass stay in its graph
        return found

    def optimiser_phases(self, at: RunSetting) -> list[Phase]:
        """AdamW updates all weights at once, with one more copy of them."""
        share = 1 if at.zero == "0" else at.ranks
        return [
            Phase(f"{n.name}: optimiser", {"optimiser's work": 4 * n.parameters // share}, n.name)
            for n in self.nets
            if n.trained
        ]


@dataclass(frozen=True)
class DistillRun(Run):
    recipe: StepCost
    student_every: int
    critic_updates: int
    critic_new_rollout: bool
    critic_first: int

    @cached_property
    def counted(self) -> StepCost:
        return replace(self.recipe, checkpointing=(self.net("student").checkpointing, self.net("critic").checkpointing))

    @property
    def steps(self) -> dict[str, int]:
        first = -(-self.critic_first // self.student_every)
        student = max(0, -(-self.iterations // self.student_every) - first)
        return {"student": student, "critic": self.iterations * self.critic_updates}

    def stream(self, at: RunSetting) -> int:
        recipe, dtype = self.recipe, self.dtype(self.net("student"), at.zero)
        return memory.stream_bytes(recipe.student, self.tokens // at.shared, recipe.spec, self.frames, 1, dtype)

    @property
    def _rollouts(self) -> float:
        """Rollouts per iteration that are made for the critic alone."""
        own = self.steps["student"] / max(1, self.iterations)
        return float(self.critic_updates) if self.critic_new_rollout else 1 - own

    @property
    def works(self) -> list[Work]:
        own = self.steps["student"] / max(1, self.iterations)
        rollouts = self._rollouts / max(1, self.critic_updates)
        critic = self.counted.critic_update + rollouts * self.counted.rollout(False)
        return [
            Work("student step", self.counted.student_step(), own),
            Work("critic step", critic, float(self.critic_updates)),
        ]

    @property
    def network_tokens(self) -> float:
        own = self.steps["student"] / max(1, self.iterations)
        return self.recipe.network_tokens(own, self._rollouts, self.critic_updates)

    def phases(self, at: RunSetting) -> list[Phase]:
        # attention has all tokens of a share of the heads; everything else has a share of the tokens
        recipe, batch, tokens = self.recipe, at.batch, self.tokens // at.shared
        student, critic, teacher = self.net("student"), self.net("critic"), self.net("teacher")
        dtype, dtype_c, dtype_t = (self.dtype(n, at.zero) for n in (student, critic, teacher))
        passes = recipe.passes(recipe.exits[-1], True)
        kept = memory.kept_bytes(recipe.student, tokens, passes, batch, dtype, student.checkpointing)
        clip = CountedPass(self.frames)
        clips = {"clip and loss": memory.scored_clip_bytes(recipe.student, self.tokens, self.frames, batch)}
        if at.shared > 1:
            clips["exchange"] = memory.exchange_bytes(recipe.critic, tokens, clip, batch, dtype_c)
        cache = max(memory.cache_bytes(recipe.student, tokens, p, batch, dtype) for p in passes)
        copy = 0 if at.zero.startswith("3") else parameters(recipe.student) * dtype.low
        quiet = max(memory.working_bytes(recipe.student, tokens, p, batch, dtype) for p in passes)
        rolling = {"KV cache": cache, "weights of quiet passes": copy, "quiet pass": quiet}
        scoring = max(
            memory.scoring_bytes(recipe.critic, tokens, self.frames, batch, dtype_c),
            memory.scoring_bytes(recipe.teacher, tokens, self.frames, (1 + recipe.guided) * batch, dtype_t),
        )
        again = memory.again_bytes(recipe.student, tokens, passes, batch, dtype) * student.checkpointing
        scored = [replace(clip, grad=True)]
        held = memory.kept_bytes(recipe.critic, tokens, scored, batch, dtype_c, critic.checkpointing)
        again_c = memory.again_bytes(recipe.critic, tokens, scored, batch, dtype_c) * critic.checkpointing
        exits = {"exit passes": kept}
        last = passes[-1]  # if its blocks run again, it holds the cache itself rather than a copy
        shown = student.checkpointing and last.grad
        twice = memory.cache_bytes(recipe.student, tokens, last, batch, dtype) if shown else 0
        return [
            Phase("student: rollout", {"exit passes": kept - twice} | rolling | clips, "student"),
            Phase("student: scores", exits | {"scoring passes": scoring} | clips, "student"),
            Phase("student: backward", exits | {"block run again": again} | clips, "student"),
            Phase("critic: rollout", rolling | clips, ""),
            Phase("critic: backward", {"critic's pass": held, "block run again": again_c} | clips, "critic"),
            *self.optimiser_phases(at),
        ]


@dataclass(frozen=True)
class ClipRun(Run):
    """A stage whose step is a list of passes and their backward: the teacher's, and the initialisation."""

    passes: tuple[CountedPass, ...]

    @property
    def works(self) -> list[Work]:
        net = self.nets[0]
        assert net.size is not None
        if len(self.passes) == 1:
            flop = clip_flops(net.size, self.tokens, self.passes[0]).trained(net.checkpointing)
        else:
            flop = stream_flops(net.size, self.tokens, self.passes, net.checkpointing)
        return [Work(f"{net.name} step", flop, 1.0)]

    @property
    def network_tokens(self) -> float:
        return float(self.tokens * sum(p.frames for p in self.passes))

    def phases(self, at: RunSetting) -> list[Phase]:
        net = self.nets[0]
        assert net.size is not None
        dtype, tokens = self.dtype(net, at.zero), self.tokens // at.shared
        kept = memory.kept_bytes(net.size, tokens, self.passes, at.batch, dtype, net.checkpointing)
        again = memory.again_bytes(net.size, tokens, self.passes, at.batch, dtype) * net.checkpointing
        clip = memory.scored_clip_bytes(net.size, self.tokens, self.frames, at.batch)
        cache = max(memory.cache_bytes(net.size, tokens, p, at.batch, dtype) for p in self.passes)
        parts = {"activations": kept, "block run again": again, "KV cache": cache, "clip and loss": clip}
        if at.shared > 1:
            most = max(self.passes, key=lambda p: p.frames)
            parts["exchange"] = memory.exchange_bytes(net.size, tokens, most, at.batch, dtype)
        return [Phase(f"{net.name}: backward", parts, net.name), *self.optimiser_phases(at)]


@dataclass(frozen=True)
class CodecRun(Run):
    """Training of a small codec, counted on a pass over one clip on torch's meta device, where nothing is computed.

    Attributes:
        codec: on the meta device.
        side: height and width of its pictures.
    """

    codec: GroupCodec
    side: tuple[int, int]

    @cached_property
    def _pass(self) -> tuple[int, int]:
        """(FLOP, numbers that are kept for backward) of encoding and decoding a clip."""
        kept: dict[int, Tensor] = {}

        def keep(x: Tensor) -> Tensor:
            kept[x.untyped_storage()._cdata] = x  # a tensor kept by two layers counts once
            return x

        video = torch.zeros(1, self.codec.video_frames(self.frames), 3, *self.side, device="meta")
        with FlopCounterMode(display=False) as flop, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            self.codec.reconstruct(self.codec.raw(video), self.frames)
        return flop.get_total_flops(), sum(x.numel() for x in kept.values() if not isinstance(x, nn.Parameter))

    @property
    def works(self) -> list[Work]:
        return [Work("codec step", 3.0 * self._pass[0], 1.0)]

    @property
    def network_tokens(self) -> float:
        return 0.0

    def phases(self, at: RunSetting) -> list[Phase]:
        kept = self._pass[1] * at.batch * (2 if "bf16" in self.precision else 4)
        return [Phase("codec: backward", {"activations": kept}, "codec"), *self.optimiser_phases(at)]


def step_flops(works: list[Work]) -> float:
    """FLOP of an iteration per sample."""
    return sum(work.flop * work.often for work in works)
