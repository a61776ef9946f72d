"""The replay of UniPC, on paths made by diffusers' scheduler, under several ways of naming them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from adastate.diffusion.solvers import unipc_levels
from adastate.parity.replay import replay
from tests.parity import Fixture, failed, load, write
from tests.support.tiny import normal

STEPS, SHIFT = 6, 5.0
NOISE, FLOWS = normal(1, 3, 16, 8, 12, seed=1), [normal(1, 3, 16, 8, 12, seed=i) for i in range(2, 2 + STEPS)]
BARE = Fixture(Path(), {"system": "unipc", "shift": SHIFT}, {}, {})


def path(predict: Any) -> list[Tensor]:
    """Samples of all levels by diffusers' steps on Wan's levels."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas, scheduler.timesteps = unipc_levels(STEPS, SHIFT)
    samples = [NOISE]
    for i, t in enumerate(scheduler.timesteps):
        samples.append(scheduler.step(predict(samples[-1], t, i), t, samples[-1]).prev_sample)
    return samples


def tables() -> dict[str, Tensor]:
    levels, times = unipc_levels(STEPS, SHIFT)
    return {"timesteps": times, "sigmas": levels}


@pytest.mark.parametrize("named", ["stacked", "numbered", "numbered from the noise on", "the last alone"])
def test_recorded_flows(named: str, tmp_path: Path) -> None:
    samples = path(lambda x, t, i: FLOWS[i])
    inputs = {"noise": NOISE, "flow": torch.stack(FLOWS)}
    outputs = {"samples": torch.stack(samples)}
    if named != "stacked":
        inputs = {"x": NOISE, **{f"model_output_{i:03d}": v for i, v in enumerate(FLOWS)}}
        outputs = {f"sample_{i:02d}": v for i, v in enumerate(samples[1:])}
    if named == "numbered from the noise on":
        outputs = {f"step{i}_sample": v for i, v in enumerate(samples)}
    if named == "the last alone":
        outputs = {"latents": samples[-1]}
    made = write(BARE, tmp_path / "a", {}, inputs, {**tables(), **outputs})
    found = replay(made)
    assert not failed(found) and {c.output for c in found} == made.outputs.keys()
    name = max(outputs)
    wrong = write(made, tmp_path / "b", outputs={**made.outputs, name: outputs[name] + 1e-3})
    assert [c.what for c in failed(replay(wrong))] == [name]
    assert failed(replay(write(made, tmp_path / "c", {"shift": 3.0})))


@pytest.mark.parametrize("kind", ["flow", "x0"])
def test_one_prediction_for_all_steps(kind: str, tmp_path: Path) -> None:
    levels, _ = unipc_levels(STEPS, SHIFT)
    v = FLOWS[0]
    samples = path(lambda x, t, i: v if kind == "flow" else (x - v) / levels[i])
    made = write(BARE, tmp_path, {"steps": STEPS}, {"noise": NOISE, kind: v}, {"samples": torch.stack(samples[1:])})
    assert not failed(replay(made))


@torch.no_grad()
def test_the_network_makes_the_flows(tmp_path: Path) -> None:
    f = load("C_sf_nowindow")
    net, c, u = f.net(), f.inputs["context"], normal(*f.inputs["context"].shape)

    def guided(x: Tensor, t: Tensor, i: int) -> Tensor:
        time = t.float()[None]
        v_c, v_u = net(x, time, c), net(x, time, u)
        return v_u + 4 * (v_c - v_u)

    meta = {"system": "unipc", "shift": SHIFT, "sampling_steps": STEPS, "guidance_scale": 4.0}
    meta |= {k: f.meta[k] for k in ("config", "weights")}
    base = Fixture(f.folder, meta, {"noise": NOISE, "context_cond": c, "context_uncond": u}, {})
    made = write(base, tmp_path / "a", outputs={**tables(), "latents": path(guided)[-1]})
    assert not failed(replay(made))
    assert [c.what for c in failed(replay(write(made, tmp_path / "b", {"guidance_scale": 1.0})))] == ["latents"]


@pytest.mark.parametrize(
    ("meta", "inputs", "sentence"),
    [
        ({"solver_order": 3}, {}, "solver_order is 3; the solver here knows 2 only"),
        ({"shift": None}, {}, "meta.json has none of shift"),
        ({}, {"noise": NOISE}, "nothing tells the number of steps"),
        ({"steps": 4}, {"noise": NOISE}, "the inputs have no flows, and meta.json has no weights"),
        ({"steps": 4}, {"noise": NOISE, "flow": torch.stack(FLOWS)}, "6 flows of .* for 4 steps"),
    ],
)
def test_what_cannot_be_run_is_told(
    meta: dict[str, Any], inputs: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    made = write(BARE, tmp_path, meta, {"noise": NOISE, **inputs}, {"latents": NOISE})
    with pytest.raises(ValueError, match=sentence):
        replay(made)
