"""Devices, accelerators and strategies, as far as the text of a configuration and the machine's drivers tell."""

from __future__ import annotations

from typing import Any

import pytest

from adastate.config import hardware
from adastate.config.hardware import STRATEGIES, check_hardware
from adastate.config.schema import ConfigError
from adastate.runtime import gpu_driver


def check(**given: Any) -> None:
    check_hardware(lambda key: given.get(key.removeprefix("trainer.")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"strategy": "zero9"},
            "no strategy 'zero9'; give --config conf/strategy/NAME.yaml, NAME being one of ddp, fsdp2",
        ),
        ({"strategy": "zero2"}, r"give --config conf/strategy/zero2\.yaml$"),
        ({"accelerator": "gpuu"}, "cannot have accelerator 'gpuu'; did you mean 'gpu'"),
        ({"devices": 0}, "trainer.devices is 0; give at least 1, or -1 for all"),
        ({"devices": "two"}, "trainer.devices cannot be 'two'; it takes a number"),
        ({"num_nodes": 0}, "trainer.num_nodes is 0; give at least 1$"),
        ({"num_nodes": -1}, "trainer.num_nodes is -1; give at least 1$"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"devices": "auto"}, {"devices": -1}, {"devices": [0, 1]}, {"devices": "0,1"}, {"devices": "2"},
        {"num_nodes": 2},
        {"strategy": {"class_path": "adastate.distributed.ZeroStrategy"}}, {"accelerator": "cpu"}, {},
    ],
)  # fmt: skip
def test_what_lightning_takes_is_taken(given: dict[str, Any]) -> None:
    check(**given)


def test_every_strategy_of_lightning_s_registry_is_known() -> None:
    from lightning.pytorch.strategies import StrategyRegistry

    assert [name for name in StrategyRegistry.available_strategies() if not STRATEGIES.fullmatch(name)] == []


def test_a_gpu_is_refused_where_there_is_no_driver_or_it_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "why_none", lambda: "this machine has no GPU driver")
    with pytest.raises(ConfigError, match="accelerator is gpu, and this machine has no GPU driver; leave it at auto"):
        check(accelerator="gpu")
    check(accelerator="auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_driver.why_none() == "CUDA_VISIBLE_DEVICES= hides every GPU"
    with pytest.raises(ValueError, match="--device cuda:1: CUDA_VISIBLE_DEVICES= hides every GPU; leave --device out"):
        gpu_driver.check_device("cuda:1")
    gpu_driver.check_device("cpu")
