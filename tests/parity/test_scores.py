"""Replays of training: the variants of distribution matching that no fixture here has, by their closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.parity.replay import replay
from tests.parity import Fixture, failed, load, write

KEEP = torch.tensor([False, False, False, True, True, True])


def masked(f: Fixture) -> dict[str, Tensor]:
    """Outputs of fixture E with a mask: its loss is the mean of its own squared gradient over the kept frames."""
    g = f.outputs["kl_grad"]
    kept = g[:, KEEP]
    grad = torch.where(KEEP[None, :, None, None, None], g, 0) / kept.numel()
    loss = 0.5 * kept.double().square().mean()[None]
    return {**f.outputs, "dmd_loss": loss, "dmd_loss_grad_wrt_x": grad}


@pytest.mark.parametrize("form", ["flags", "number", "element"])
def test_a_gradient_mask_leaves_frames_out(form: str, tmp_path: Path) -> None:
    f = load("E_dmd_default")
    meta: dict[str, Any] = {"dmd_loss": "gone"}
    inputs = {}
    if form == "element":
        inputs["gradient_mask"] = KEEP[None, :, None, None, None].expand_as(f.inputs["x"])
    else:
        meta["gradient_mask"] = KEEP.tolist() if form == "flags" else 3
    found = replay(write(f, tmp_path / "a", meta, inputs, masked(f)))
    assert not failed(found)
    assert "critic_loss over all frames, as recorded" in {c.what for c in found}
    wrong = replay(write(f, tmp_path / "b", {**meta, "gradient_mask": None}, {}, masked(f)))
    assert {"dmd_loss", "dmd_loss_grad_wrt_x"} <= {c.output for c in failed(wrong)}


def test_a_critic_loss_without_the_masked_frames_is_recognised(tmp_path: Path) -> None:
    f = load("E_dmd_default")
    x, eps, t = f.inputs["x"], f.inputs["critic_noise"], f.outputs["critic_timestep"][:, 0]
    x_t = flow.add_noise(x, eps, t, 5.0)
    with torch.no_grad():
        v = f.net("fake")(x_t, t, f.inputs["context_cond"])
    v = flow.to_velocity(x_t, flow.to_x0(x_t, v, t, 8.0), t, 5.0)
    loss = (v - (eps - x))[:, KEEP].square().mean()[None]
    outputs = {k: v for k, v in masked(f).items() if not k.startswith("critic_paramgrad.")}
    gone = {
        k: "gone"
        for k in ("dmd_loss", "critic_loss", "critic_param_grad_norms", "critic_loss_if_raw_network_flow_were_used")
    }
    made = write(f, tmp_path, {**gone, "gradient_mask": 3}, {}, {**outputs, "critic_loss": loss})
    found = replay(made)
    assert not failed(found) and "critic_loss over the unmasked frames" in {c.what for c in found}


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ([True] * 5, r"gradient_mask is \(2, 5\), but x has 2 x 6"),
        ("later", "gradient_mask is 'later'; only flags by frame"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        replay(write(load("E_dmd_default"), tmp_path, {"gradient_mask": mask}))


def test_guidance_of_either_score_and_one_table(tmp_path: Path) -> None:
    """g = [f_c + w (f_c - f_u)] - [r_c + v (r_c - r_u)], by the recorded parts and the critic's own unconditional."""
    f = load("E_dmd_default")
    t, x_t = f.outputs["gen_timestep"][:, 0], f.outputs["gen_noisy"]
    with torch.no_grad():
        c, u = (flow.to_x0(x_t, f.net("fake")(x_t, t, f.inputs[f"context_{k}"]), t, 8.0) for k in ("cond", "uncond"))
    r_c, r_u = f.outputs["real_cond_x0"], f.outputs["real_uncond_x0"]
    outputs = {"fake_uncond_x0": u, "kl_grad_unnormalised": c + 0.5 * (c - u) - r_c - 2 * (r_c - r_u)}
    scales = {"fake_guidance_scale": 0.5, "real_guidance_scale": 2.0, "dmd_loss": "gone"}
    assert not failed(replay(write(f, tmp_path / "a", scales, {}, outputs)))
    wrong = replay(write(f, tmp_path / "b", {**scales, "fake_guidance_scale": 0.0}, {}, outputs))
    assert [c.what for c in failed(wrong)] == ["kl_grad_unnormalised"]
    one = replay(write(f, tmp_path / "c", {"score_scheduler_shift": 5.0}))
    assert {"critic_x0", "kl_grad"} & {c.what for c in failed(one)}


def test_the_exit_level_bounds_the_timestep(tmp_path: Path) -> None:
    f = load("E_dmd_default")
    drawn = {k: v for k, v in f.inputs.items() if k.endswith("randint")}
    low = min(int(v.min()) for v in drawn.values())
    args = {**f.meta["args"], "ts_schedule": True}
    bounds = {"denoised_timestep_from": 1000, "denoised_timestep_to": low}
    ranges = {"gen": [low, 1000], "critic": [low, 1000]}
    meta = {"args": args, "call_kwargs": bounds, "randint_ranges": ranges}
    assert not failed(replay(write(f, tmp_path / "a", meta)))
    unscheduled = {**meta, "args": {**args, "ts_schedule": False}}
    named = {c.what for c in failed(replay(write(f, tmp_path / "b", unscheduled)))}
    assert named == {"meta.randint_ranges of gen", "meta.randint_ranges of critic"}
    beyond = {**meta, "randint_ranges": {"gen": [low, 1000], "critic": [0, 1000]}}
    assert not failed(replay(write(f, tmp_path / "d", beyond))), "the critic may be drawn without the bounds"
    with pytest.raises(ValueError, match=r"unknown key 'args\.ts_curve'"):
        replay(write(f, tmp_path / "c", {"args": {**args, "ts_curve": 2}}))


def test_another_shift_is_another_table(tmp_path: Path) -> None:
    f = load("D_scheduler_shift5")
    wrong = {c.what for c in failed(replay(write(f, tmp_path, {"shift": 8.0})))}
    assert {"sigmas", "timesteps", "add_noise", "training_weight", "warped_5step", "meta.sigma_at_t0"} <= wrong


def test_a_batch_without_the_last_level_steps_to_the_next(tmp_path: Path) -> None:
    f = load("D_scheduler_shift5")
    t = f.inputs["timestep"].clamp(min=100)
    x0, noise, v = (f.inputs[k] for k in ("x0", "noise", "flow"))
    table = f.outputs["sigmas"]
    entry = (table[None] * 1000 - t[:, None]).abs().argmin(1)
    s, then = (table[i].reshape(-1, 1, 1, 1) for i in (entry, entry + 1))
    x = (1 - s) * x0 + s * noise
    outputs = {"add_noise": x, "step_prev_sample": x + v * (then - s), "timestep_id": entry}
    assert not failed(replay(write(f, tmp_path, {}, {"timestep": t}, outputs)))
