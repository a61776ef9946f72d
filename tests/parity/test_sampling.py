"""The replay of UniPC: other numbers of steps, shifts and fields than the recorded ones, by diffusers' scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from adastate.diffusion.solvers import unipc_levels
from adastate.parity.replay import replay
from tests.parity import failed, load, write

NAME = "D_unipc_10steps_shift5"
FIELD = "flow = tanh(W x over channels) + (x - target)*(0.5+0.5*t/1000)"


def test_the_recorded_path() -> None:
    f = load(NAME)
    found = replay(f)
    assert not failed(found) and {c.what for c in found} == f.outputs.keys()


def path(steps: int, shift: float, own: float) -> dict[str, Tensor]:
    """Outputs for another field, tanh(W x) + own (x - target), by diffusers' steps on Wan's levels."""
    f = load(NAME)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    scheduler.sigmas, scheduler.timesteps = unipc_levels(steps, shift)
    made: dict[str, Tensor] = {"timesteps": scheduler.timesteps, "sigmas": scheduler.sigmas}
    x = f.inputs["x_init"]
    for i, t in enumerate(scheduler.timesteps):
        v = torch.tanh(torch.einsum("dc,bcfhw->bdfhw", f.inputs["W"], x)) + own * (x - f.inputs["target"])
        x = scheduler.step(v, t, x).prev_sample
        made |= {f"flow_step{i:02d}": v, f"x_after_step{i:02d}": x}
    return made


@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (2, 1.0), (3, 8.0), (12, 3.0)])
def test_other_steps_and_shifts(steps: int, shift: float, tmp_path: Path) -> None:
    meta = {"n": steps, "shift": shift, "semantics": "flow = tanh(W x over channels) + 0.75*(x - target), as ever"}
    outputs = path(steps, shift, 0.75)
    assert not failed(replay(write(load(NAME), tmp_path / "a", meta, outputs=outputs)))
    bad = {**outputs, f"x_after_step{steps - 1:02d}": outputs[f"x_after_step{steps - 1:02d}"] + 1e-3}
    named = [c.what for c in failed(replay(write(load(NAME), tmp_path / "b", meta, outputs=bad)))]
    assert named == [f"x_after_step{steps - 1:02d}"]


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({"timesteps_dtype": "torch.float32"}, "timesteps_dtype is 'torch.float32'"),
        ({"shift": "gone"}, "meta.json has no 'shift'"),
        ({"semantics": "as ever"}, "the key 'semantics' has no 'flow = ...'"),
        ({"semantics": "flow = open(x)"}, r"cannot evaluate 'open\(x\)' in the formula of the key 'semant"),
        ({"semantics": "flow = x +"}, "the key 'semantics' is not a formula"),
        ({"n": 4}, "is beyond the 4 steps"),
    ],
)
def test_what_cannot_be_run_is_told(meta: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    f = load(NAME)
    outputs = {k: v for k, v in f.outputs.items() if k not in ("timesteps", "sigmas")}
    with pytest.raises(ValueError, match=sentence):
        replay(write(f, tmp_path, meta, outputs=outputs))
