"""The host hands a whole iteration to the device, and waits for it once for each update."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adastate.training.distill import Distill
from adastate.training.objectives import SID
from adastate.training.rollout_sampler import LongRollout
from adastate.types import Batch
from benchmarks.gpu_training import step_trainer
from tests.support.host_waits import Copies, Reads, allow_meta
from tests.support.rig import tiny_distill, tiny_student
from tests.support.tiny import SHAPE

ONCE = {"tolist adastate/training/manual_optimization.py:_read": 1}
META = torch.device("meta")


def prepared(module: Any, **trainer: Any) -> Any:
    module.to("meta")
    module.trainer = step_trainer(**trainer)
    made = module.configure_optimizers()
    optimizers, schedules = made if isinstance(made, tuple) else ([made["optimizer"]], [])
    module.optimizers, module.lr_schedulers = lambda: optimizers, lambda: schedules
    module.manual_backward = lambda loss, **_: loss.backward()
    module.log = module.log_dict = lambda *args, **kwargs: None
    return module.train()


def waits(module: Distill, batches: list[Batch]) -> tuple[dict[str, int], dict[str, int]]:
    """(reads, copies and the like) of one iteration, after one that warms caches up."""
    for iteration in range(2):
        module._iteration = iteration * module.schedule.student_every
        with Copies() as copies, Reads() as reads:
            for batch in batches:
                module.training_step(batch, 0)
    return dict(reads.at), dict(copies.at)


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"replay": True},
                {"objective": SID},
                {"state_loss": "dmd"},
                {"long_rollout": LongRollout(12, "streaming")},
                {"long_rollout": LongRollout(12, "windows")},
                {"critic_updates": 2, "critic_new_rollout": False},
                {"actions": 3},
            )
        ),
    ],
    ids=str,
)
def test_an_iteration_waits_once_for_each_update(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    allow_meta(monkeypatch)
    module = prepared(tiny_distill(iterations=9, global_batch=4, **options))
    module.batch.micro = 2
    actions = torch.ones(2, 6, options["actions"]) if "actions" in options else None
    batches = [Batch(torch.arange(2) + 2 * i, ["red", "snow"], actions=actions).to("meta") for i in range(2)]
    reads, copies = waits(module, batches)
    updates = 1 + module.schedule.critic_updates
    assert reads == {name: updates for name in ONCE}
    assert copies == {}


@pytest.mark.slow
def test_the_prompts_of_an_iteration_are_embedded_at_once() -> None:
    module, asked = tiny_distill(global_batch=8), list[list[str]]()
    embed = module.student.text.embed
    module.student.text.embed = lambda prompts: asked.append(prompts) or embed(prompts)  # type: ignore[method-assign]
    module = prepared(module)
    module.batch.micro = 2
    words = ["red", "snow", "lava", "fast", "ball", "slow", "north", "plain"]
    with pytest.MonkeyPatch.context() as patch:
        allow_meta(patch)
        with Copies(), Reads():
            for i in range(0, 8, 2):
                module.training_step(Batch(torch.arange(i, i + 2), words[i : i + 2]), 0)
    assert asked == [words, [module.teacher.negative_prompt]]


@pytest.mark.parametrize("stage", ["teacher", "init"])
def test_a_step_of_another_stage_waits_for_nothing(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_meta(monkeypatch)
    distill = tiny_distill()
    if stage == "teacher":
        module: Any = distill.teacher
        module.text = distill.student.text
        module.requires_grad_(True)
    else:
        module = tiny_student()
    module = prepared(module)
    latents = torch.zeros(2, 6, *SHAPE)
    path = torch.zeros(2, 5, 6, *SHAPE)
    levels = torch.tensor([1000.0, 937.5, 833.333, 625.0, 0.0])
    batch = Batch(torch.arange(2), ["red", "snow"], latents=latents, trajectory=path, levels=levels).to("meta")
    for _ in range(2):
        with Copies() as copies, Reads() as reads:
            module.training_step(batch, 0).backward()
    assert dict(reads.at) == {} and dict(copies.at) == {}
