"""What strategies ask of a module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from adastate.distributed.fsdp_strategy import FsdpStrategy
from adastate.distributed.protocol import PLAIN, PlainSteps, shard_all, steps_of, trained_module
from tests.support.rig import Prompts, fit, tiny_distill, tiny_student
from tests.training.test_teacher import tiny_teacher


@pytest.mark.parametrize("make", [tiny_distill, tiny_student, tiny_teacher])
def test_every_stage_names_its_networks(make: type[pl.LightningModule]) -> None:
    """All that learns is in one of them, and only that; averages go by the same names."""
    module = trained_module(make(), "AnyStrategy")
    learning = {id(p) for n in module.trained.values() for p in n.net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in module.parameters() if p.requires_grad}  # type: ignore[attr-defined]
    assert [*module.trained] == [n.name for n in module.trained.values()]
    assert any(n.average is not None for n in module.trained.values())
    assert not any(p.requires_grad for net in module.frozen.values() for p in net.parameters())


@pytest.mark.parametrize("strategy", ["FsdpStrategy", "ZeroStrategy"])
def test_another_module_is_refused(strategy: str) -> None:
    class Other(pl.LightningModule):
        trained = frozen = ()

    said = f"{strategy} cannot train Other, which lacks accumulate, unlike Distill; use conf/strategy/ddp.yaml"
    with pytest.raises(TypeError, match=said):
        trained_module(Other(), strategy)


def test_a_mesh_over_more_than_data_is_refused() -> None:
    class Part:
        def size(self) -> int:
            return 2

    class Meshed:
        def __init__(self) -> None:
            self.device_mesh = {"tensor_parallel": Part()}

    with pytest.raises(ValueError, match="sharded over data only: set the strategy's data_parallel_size"):
        shard_all(Meshed())


def test_strategies_that_step_networks_by_themselves_are_asked() -> None:
    """By the methods that they have; of all others the gradients are torch's own."""

    class Engines(PlainSteps):
        one_backward_per_batch = True

    engines = Engines()
    assert steps_of(engines) is engines and steps_of(SingleDeviceStrategy()) is PLAIN
    assert steps_of(FsdpStrategy()) is PLAIN
    with pytest.raises(ValueError, match="replay goes back once a chunk"):
        distill = tiny_distill({"chunk_frames": 1}, replay=True)
        distill._trainer = SimpleNamespace(strategy=engines)  # type: ignore[assignment]
        distill.on_fit_start()


def test_a_manual_backward_says_which_network_it_is_for() -> None:
    told: list[str] = []

    class Noting(SingleDeviceStrategy):
        def backward(self, closure_loss: Any, optimizer: Any, *args: Any, network: Any = None, **kwargs: Any) -> Any:
            told.append(network.name)
            return super().backward(closure_loss, optimizer, *args, network=network, **kwargs)

    for options, wanted in (({}, ["student", "critic"]), ({"replay": True}, ["student"] * 2 + ["critic"])):
        told.clear()
        fit(tiny_distill(student_every=1, **options), Prompts(), strategy=Noting(torch.device("cpu")))
        assert told == wanted
