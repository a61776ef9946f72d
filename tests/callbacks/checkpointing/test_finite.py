"""What is not a number is not saved, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adastate.models.video_network import VideoNetwork
from adastate.training.out_file import NotWritten
from adastate.weights import native
from adastate.weights.files import StoredTensor
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


def test_the_stage_s_file_keeps_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that is none would take the place of the last good one, with nobody to tell it by."""
    out, real = tmp_path / "student.safetensors", native.plain_weights
    kept = list[bytes]()

    def spoilt(net: VideoNetwork) -> dict[str, StoredTensor]:
        if out.is_file():
            kept.append(out.read_bytes())
            next(net.parameters()).data.view(-1)[-1] = NAN
        return real(net)

    monkeypatch.setattr(native, "plain_weights", spoilt)
    with (
        pytest.warns(UserWarning, match=r"student.safetensors is not written: \S+ is not finite: lower the rate"),
        pytest.raises(NotWritten, match=r"is not finite: .*, then: adastate weights import .*/00000001 "),
    ):
        train(tmp_path, 2, module={"out": str(out), "save_every": 1})
    assert len(kept) >= 2 and out.read_bytes() == kept[0]
