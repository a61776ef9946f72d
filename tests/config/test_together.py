"""A degree of sequence parallelism that the configuration's networks cannot have is refused by its text."""

from __future__ import annotations

import pytest
import yaml

from adastate.config import together
from adastate.config.compose import compose
from adastate.config.schema import ConfigError
from adastate.config.together import check_together
from tests.support.tiny import ROOT


def checked(size: str, stage: str, *words: str) -> str:
    """What is said of `words` over a stage under DDP."""
    layers = ("base", "sizes/wan_1_3b", f"sizes/{size}", f"stages/{stage}", "strategy/ddp")
    config = compose([ROOT / f"conf/{layer}.yaml" for layer in dict.fromkeys(layers)], ["run.dir=x"])
    with pytest.raises(ConfigError) as told:
        check_together(config, words)
    return str(told.value)


DEGREE = "--trainer.strategy.init_args.sequence_parallel="


@pytest.mark.parametrize(
    ("size", "stage", "words", "said"),
    [
        (
            "wan_1_3b",
            "teacher",
            [f"{DEGREE}8"],
            "is 8, but 12 heads are not divisible by it: use one of 1, 2, 3, 4, 6, 12",
        ),
        ("wan_14b", "distill", [f"{DEGREE}5"], "is 5, but 12 heads are not divisible by it: use one of 1, 2, 3, 4"),
        ("wan_14b", "distill", [f"{DEGREE}3"], "is 3, but 40 heads are not divisible by it"),
        (
            "wan_1_3b",
            "init",
            [f"{DEGREE}4", "--trainer.devices=2"],
            "is 4, but there are only 2 ranks: use one of 1, 2",
        ),
    ],
)
def test_a_degree_that_does_not_fit_is_told_before_anything_runs(
    size: str, stage: str, words: list[str], said: str
) -> None:
    assert f"trainer.strategy.sequence_parallel {said}" in checked(size, stage, *words)


def test_ranks_that_share_a_sample_count_as_one_for_the_global_batch() -> None:
    """64 samples do not divide by 12 ranks, and do by the 4 groups of 3; what is missing then are weights."""
    words = ["--trainer.devices=12", "--training.batch=1"]
    assert "12 processes" in checked("wan_1_3b", "distill", *words)
    assert "no weights" in checked("wan_1_3b", "distill", *words, f"{DEGREE}3")


@pytest.mark.parametrize(
    ("logger", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow"), ("CSVLogger", ""), ("", "")]
)
def test_a_logger_needs_its_package_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch, logger: str, package: str
) -> None:
    monkeypatch.setattr(together, "find_spec", lambda name: None)
    told = f"lightning.pytorch.loggers.{logger}" if logger else "false"
    for form in (told, f"[{told}]", f"[{{class_path: {told}}}]") if logger else (told,):
        if not package:
            together._check_loggers(yaml.safe_load(form))
            continue
        with pytest.raises(ConfigError, match=f"the logger {logger} needs {package}: pip install {package}"):
            together._check_loggers(yaml.safe_load(form))
