"""What the tests of `adastate plan` share: configured runs, counted FLOP, and a step of the smallest Distill."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adastate.config.compose import compose
from adastate.models.video_network import Size
from adastate.plan.configured import configured_run
from adastate.plan.cost import StepCost, frame_tokens, parameters
from adastate.plan.memory import Net
from adastate.plan.runs import DistillRun, Run
from adastate.training import rollout_sampler as sampler_module
from adastate.training.distill import Distill
from adastate.training.student_rollouts import MicroBatch
from tests.support.rig import tiny_distill
from tests.support.tiny import GRID, ROOT, SIZE

CONF = ROOT / "conf"
WAN = Size(
    width=1536, layers=30, heads=12, ffn=8960, channels=16, text_width=4096, text_tokens=512, time_embedding_dim=256
)
TOKENS = frame_tokens(SIZE, GRID)
SYSTEMS = sorted(p.stem for p in (CONF / "systems").glob("*.yaml"))

LAYERS = {
    "flight": ["base.yaml", "sizes/flight.yaml"],
    "tiny": ["base.yaml", "sizes/tiny.yaml"],
    "1.3B": ["base.yaml", "sizes/wan_1_3b.yaml"],
    "14B": ["base.yaml", "sizes/wan_1_3b.yaml", "sizes/wan_14b.yaml"],
}


def configured(size: str, *files: str, overrides: tuple[str, ...] = ()) -> Run:
    return configured_run(compose([CONF / f for f in (*LAYERS[size], *files)], overrides))


def arguments(size: str, *files: str) -> list[str]:
    return [word for f in (*LAYERS[size], *files) for word in ("--config", str(CONF / f))]


def counted(work: Any) -> int:
    """FLOP of a call. The counter knows attention on a CPU only where it is spelled out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


class Step:
    """A student step of the smallest Distill up to its backward, at a given exit level."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, level: int, batch: int = 4, **options: Any) -> None:
        stream = {"denoising_steps": (1000, 750, 500), **options.pop("stream", {})}
        self.module = tiny_distill(stream, **options)
        self.module.batch.micro = batch
        self.index = torch.arange(batch)
        self.text = self.module.student.embed(["red ball", "snow", "slow lava", "fast"][:batch])
        self.negative = self.module.student.embed([""])
        monkeypatch.setattr(sampler_module, "shared_integer", lambda *_: level)

    def student(self) -> Tensor:
        sample = self.module.student_sample(MicroBatch(self.text, self.index), "test", grad=True)
        return self.module.student_loss(sample, self.text, self.negative, self.index)[0]

    def critic(self) -> Tensor:
        chunks = self.module.student_sample(MicroBatch(self.text, self.index), "test", grad=False).chunks
        x = torch.cat([c.content for c in chunks], 1)
        return self.module.critic.loss(x, self.text, self.module.noise(self.index, "score"))[0]

    def recipe(self, checkpointing: bool) -> StepCost:
        states = self.module.objective.scores_states
        again = (checkpointing, checkpointing)
        return StepCost(SIZE, SIZE, SIZE, self.module.student.spec, TOKENS, 6, again, True, states, scores=2.0)


def told_run(module: Distill, checkpointing: bool) -> DistillRun:
    count = parameters(SIZE)
    names = {"student": (True, True), "critic": (True, False), "teacher": (False, False)}
    nets = tuple(Net(n, count, SIZE, *flags, checkpointing and flags[0]) for n, flags in names.items())
    recipe = StepCost(SIZE, SIZE, SIZE, module.student.spec, TOKENS, 6)
    return DistillRun("distill", nets, (), TOKENS, 6, 4, 4, 1, "32-true", recipe, 5, 1, True, 0)
