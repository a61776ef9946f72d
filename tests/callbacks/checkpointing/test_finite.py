"""What is not a number is not saved, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from callbacks.checkpointing import checkpoints
from callbacks.checkpointing.finite import not_finite
from callbacks.checkpointing.resume import newest_checkpoint
from tests.callbacks.checkpointing.test_checkpoints import train

NAN = float("nan")
SPOILT: dict[str, Callable[[Any, pl.Trainer], torch.Tensor]] = {
    r"critic\.net\.\S+": lambda module, _: next(module.critic.net.parameters()),
    r"student\.ema\.net\.\S+": lambda module, _: next(module.student.ema.net.parameters()),
    r"exp_avg of student\.net\.\S+": lambda _, trainer: next(iter(trainer.optimizers[0].state.values()))["exp_avg"],
}


@pytest.mark.parametrize("name", SPOILT)
def test_one_number_that_is_none_is_named_and_nothing_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def spoilt(trainer: pl.Trainer, module: pl.LightningModule) -> str:
        assert not_finite(trainer, module) == ""
        if module.iteration == 3:  # type: ignore[attr-defined]
            with torch.no_grad():
                SPOILT[name](module, trainer).view(-1)[-1] = NAN
        return not_finite(trainer, module)

    monkeypatch.setattr(checkpoints, "not_finite", spoilt)
    with pytest.warns(UserWarning, match=rf"checkpoint 3 not saved: {name} is not finite; earlier ones are intact"):
        train(tmp_path, 3)
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/00000002/state.ckpt"
