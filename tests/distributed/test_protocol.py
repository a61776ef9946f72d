"""What strategies ask of a module."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest

from adastate.distributed.protocol import shard_all, trained_module
from tests.support.rig import tiny_distill, tiny_student
from tests.training.test_teacher import tiny_teacher


@pytest.mark.parametrize("make", [tiny_distill, tiny_student, tiny_teacher])
def test_every_stage_names_its_networks(make: type[pl.LightningModule]) -> None:
    """All that learns is in one of them, and only that; averages go by the same names."""
    module = trained_module(make(), "AnyStrategy")
    learning = {id(p) for net in module.trained.values() for p in net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in module.parameters() if p.requires_grad}  # type: ignore[attr-defined]
    assert module.averages and module.averages.keys() <= module.trained.keys()
    assert not any(p.requires_grad for net in module.frozen.values() for p in net.parameters())


@pytest.mark.parametrize("strategy", ["FsdpStrategy", "ZeroStrategy"])
def test_another_module_is_refused(strategy: str) -> None:
    class Other(pl.LightningModule):
        trained = frozen = ()

    said = (
        f"{strategy} cannot train Other, which has no averages, accumulate as Distill has; use conf/strategy/ddp.yaml"
    )
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
