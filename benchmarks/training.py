"""Training steps of the distillation at the tiny size, ours compared with the same step in torch's own operations.

A student's step is its rollout, both scores, the backward, AdamW and the average; a critic's is the same without
rollout and scores. Both sides of a round have the same rollout, and so the same exit level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as nnf

from adastate.diffusion.noise import SampleNoise
from adastate.encoders import TinyCodec, TinyText
from adastate.models import activation, attention
from adastate.models.norm import RMSNorm
from adastate.models.rope import rotate
from adastate.models.video_network import Size
from adastate.models.wan import dit
from adastate.optim import adamw
from adastate.stream import StreamSpec
from adastate.training import shared_passes
from adastate.training.critic import Critic
from adastate.training.distill import Distill
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch
from adastate.training.teacher import Teacher
from benchmarks.clock import DeviceClock, Spread, quartiles, ratios, spread_in_words

BATCH = 16
PROMPTS = ("a slow flight north-east over a green meadow, a white ball bounces", "flying west over a blue ocean, fast")

GUARD = {"student": 1.0, "critic": 0.95}
"""Minimum median ratio in bf16, which conf/sizes/tiny.yaml trains in."""

FAR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative distance of gradients from which on they count as different."""


@dataclass
class StepRow:
    """One side of a step.

    Attributes:
        ms: of the step, median and quartiles over the rounds.
        against: ratio of the plain side's time to this one's within a round, likewise.
        off: relative distance of the gradient from the plain side's.
    """

    part: str
    variant: str
    ms: Spread
    against: Spread
    off: float


class Steps:
    """The three networks, and steps of two of them."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)
        size, kind = Size(), None if dtype == torch.float32 else str(dtype).removeprefix("torch.")
        spec = StreamSpec(chunk_frames=1, past_frames=3, state_frames=1)
        codec, text = TinyCodec("builtin"), TinyText(size.text_tokens, size.text_width)
        teacher = Teacher(size, weights="builtin", timestep_shift=3.0, guidance=1.5, average=None, compute_dtype=kind)
        student = Student(size, codec, text, spec, (8, 8), 7, weights="builtin", compute_dtype=kind)
        critic = Critic(size, weights="builtin", timestep_shift=3.0, compute_dtype=kind)
        self.module = Distill(teacher, student, critic, DMD(), global_batch=BATCH).to(device)
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(BATCH)]
        self.text, self.negative = student.embed(prompts), student.embed([""])
        self.index, self.clock = torch.arange(BATCH), DeviceClock(device)
        self.clip = self.text.new_zeros(0)
        # with learning rate 0 both sides keep the same weights
        trained = self.module.trained
        self.optimizers = {k: adamw.adamw_for(each.net, 0.0, (0.0, 0.99), 0.01) for k, each in trained.items()}

    def __call__(self, name: str, iteration: int) -> tuple[float, Tensor]:
        """(seconds, gradient of all weights)."""
        module = self.module
        module._iteration = iteration
        net, began = module.trained[name].net, self.clock()
        if name == "student":
            sample = module.student_sample(MicroBatch(self.text, self.index), "bench", grad=True)
            loss, _ = module.student_loss(sample, self.text, self.negative, self.index)
            self.clip = sample.x.detach()
        else:
            noise = SampleNoise(0, iteration, self.index, "bench", module.device)
            loss, _ = module.critic.loss(self.clip, self.text, noise)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = self.clock() - began
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        began = self.clock()
        adamw.clipped_step(net, self.optimizers[name], 1.0, lambda _: True)
        if name == "student":
            module.student.ema.update(net)
        return seconds + self.clock() - began, gradient


@contextmanager
def plain_steps(steps: Steps) -> Iterator[None]:
    """The network's own forward for every pass, with torch's own unfused operations, and unfused AdamW."""

    def norm(self: Any, x: Tensor, heads: int, table: Tensor | None = None) -> Tensor:
        y = nnf.rms_norm(x, self.weight.shape, self.weight, self.eps).unflatten(-1, (heads, -1))
        return y if table is None else rotate(y, table)

    def gelu(x: Tensor) -> Tensor:
        return nnf.gelu(x, approximate="tanh")

    def spelled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        score = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (score if mask is None else score.masked_fill(~mask, float("-inf"))).softmax(-1) @ v

    with ExitStack() as swapped:
        swapped.enter_context(mock.patch.object(RMSNorm, "forward", norm))
        for module in (activation, dit):
            swapped.enter_context(mock.patch.object(module, "gelu", gelu))
        swapped.enter_context(mock.patch.object(attention, "_spelled", spelled))
        swapped.enter_context(mock.patch.object(shared_passes, "is_whole", lambda net: False))
        groups = [g for o in steps.optimizers.values() for g in o.param_groups]
        fused = [g["fused"] for g in groups]
        for group in groups:
            group["fused"] = None
        yield
        for group, before in zip(groups, fused, strict=True):
            group["fused"] = before


def measure_steps(dtype: torch.dtype, rounds: int, device: str) -> list[StepRow]:
    """Both sides of both steps, taking turns; the first round warms up, and compares gradients."""
    steps, kind = Steps(dtype, device), str(dtype).removeprefix("torch.")
    times: dict[tuple[str, str], list[float]] = {(p, v): [] for p in GUARD for v in ("plain", "ours")}
    off = dict.fromkeys(times, 0.0)
    for turn in range(rounds + 1):
        for part in GUARD:
            with plain_steps(steps):
                slow, expected = steps(part, turn)
            fast, found = steps(part, turn)
            if turn:
                times[part, "plain"].append(slow)
                times[part, "ours"].append(fast)
            else:
                off[part, "ours"] = float((found - expected).norm() / expected.norm())
    return [
        StepRow(
            part,
            f"{variant} {kind}",
            quartiles([1e3 * t for t in took]),
            ratios(times[part, "plain"], took),
            off[part, variant],
        )
        for (part, variant), took in times.items()
    ]


def steps_table(rows: list[StepRow], title: str) -> Table:
    table = Table("step", "variant", "ms", "times faster", "off", title=f"tiny size, batch {BATCH}; {title}")
    for r in rows:
        table.add_row(r.part, r.variant, spread_in_words(r.ms, 0), spread_in_words(r.against, 2), f"{r.off:.0e}")
    return table


def faults_of_steps(rows: list[StepRow]) -> tuple[list[str], list[str]]:
    """(steps that have become slower, steps whose gradients differ), one message each."""
    slow, far = [], []
    for r in rows:
        variant, kind = r.variant.split()
        if variant == "ours" and kind == "bfloat16" and r.against[0] < GUARD[r.part]:
            slow.append(f"slower than before: the {r.part}'s step is {r.against[0]:.2f} times the plain one")
        if r.off > FAR[getattr(torch, kind)]:
            far.append(f"different: the gradient of the {r.part}'s step in {kind} is {r.off:.1e} off")
    return slow, far
