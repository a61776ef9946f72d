"""Replays of the parts of training: the noise table, distribution matching, and the teacher's UniPC solver."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from adastate.diffusion import flow, losses
from adastate.models.wan import DiT
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import NET, Replay, names_in_key
from adastate.parity.tolerances import Compared

# ---- the noise table


def flow_match(f: Fixture) -> list[Compared]:
    """Tables at `shift`, the warped step lists, and the conversions of rows `[N, C, H, W]` at `timestep` [N]."""
    shift = float(f.setting("shift"))
    rows = {k: f.inputs[k][None] for k in ("x0", "noise", "flow") if k in f.inputs}  # rows as frames of one clip
    t = f.input("timestep")[None]
    table = flow.sigma_table(shift)
    noisy = flow.add_noise(rows["x0"], rows["noise"], t, shift)
    # Below, the recorded sample is used where there is one, so that a difference is due to one conversion alone.
    x_t = f.outputs["add_noise"][None] if "add_noise" in f.outputs else noisy
    x0 = f.outputs["x0_from_flow"][None] if "x0_from_flow" in f.outputs else flow.to_x0(x_t, rows["flow"], t, shift)
    entry = flow.entry(t[0], shift)
    weights = flow.training_weights(shift)
    values: dict[str, Tensor] = {
        "add_noise": noisy[0],
        "x0_from_flow": flow.to_x0(x_t, rows["flow"], t, shift)[0],
        "flow_from_x0": flow.to_velocity(x_t, x0, t, shift)[0],
        "step_prev_sample": _euler_step(x_t[0], rows["flow"][0], entry, table),
    }
    tables = {
        "sigmas": table,
        "timesteps": table * flow.TIMESTEPS,
        "linear_timesteps_weights": weights,
        "training_weight": weights[entry],
        "timestep_id": entry,
    }
    found = []
    for name, expected in f.outputs.items():
        if name in values:
            found.append(tolerances.absolute(name, values[name], expected))
        elif name in tables:
            found.append(tolerances.compare_largest(name, tables[name], expected))
        elif match := re.fullmatch(r"(sigmas|timesteps)_(\d+)", name):
            short = flow.sigma_table(shift, int(match[2]))
            found.append(
                tolerances.compare_largest(name, short * (1 if match[1] == "sigmas" else flow.TIMESTEPS), expected)
            )
        elif name.startswith("warped"):
            found.append(tolerances.compare_largest(name, _warped(f, name, len(expected), shift), expected))
    if "sigma_at_t0" in f.meta:
        zero = flow.sigma(torch.zeros(1), shift)
        found.append(tolerances.scalar("meta.sigma_at_t0", zero, f.meta["sigma_at_t0"], tolerances.TABLE))
    return found


def _euler_step(x: Tensor, v: Tensor, entry: Tensor, table: Tensor) -> Tensor:
    """The reference's solver step to the next entry; a batch that contains the last entry goes to 0 in every row."""
    then = torch.zeros(len(entry)) if bool((entry + 1 >= len(table)).any()) else table[(entry + 1) % len(table)]
    return x + v * (then - table[entry]).reshape(-1, 1, 1, 1)


def _warped(f: Fixture, name: str, length: int, shift: float) -> Tensor:
    """The one recorded raw list of the right length, warped; `with_0` appends the data level."""
    if "[1000 - raw]" not in f.setting("warp", "[1000 - raw]"):
        raise FixtureError(f"warp is {f.meta['warp']!r}; only the entries 1000 - raw of the table are supported")
    zero = [0.0] if name.endswith("_0") else []
    lists = {tuple(v.tolist()) for k, v in f.inputs.items() if k.startswith("denoising_step_list_raw")}
    fitting = [raw for raw in lists if len(raw) + len(zero) == length]
    if len(fitting) != 1:
        raise FixtureError(f"{name} has {length} entries, as have {len(fitting)} of the raw step lists")
    return torch.tensor([*flow.warp_steps(fitting[0], shift), *zero])


# ---- distribution matching


def replay_dmd(f: Fixture) -> list[Compared]:
    """DMD gradient and loss of samples `x` [B, F, C, H, W], and the critic's loss with its parameters' gradients.

    Two tables, as in the reference: samples are noised with `generator_scheduler_shift`, scores are converted with
    `score_scheduler_shift`, and the critic's flow is recovered from its x0 with the first.
    """
    values, gradients, scalars, remark = Values(), Values(), Values(), ""
    mask, critic = gradient_mask(f), f.net("fake")
    _student(f, critic, mask, values, gradients, scalars)
    remark = _critic(f, critic, mask, values, gradients, scalars)
    found = []
    for name, expected in f.outputs.items():
        if name.endswith("_timestep") and name in values:
            found.append(tolerances.compare_largest(name, values[name][:, None].expand_as(expected), expected))
        elif name in values:
            found.append(tolerances.absolute(name, values[name], expected))
        elif name in gradients:
            found.append(tolerances.gradient(name, gradients[name], expected))
        elif name in scalars:
            tolerance = tolerances.GRADIENT if name.endswith("norm") else tolerances.LOSS
            said = f"{name} {remark}" if name == "critic_loss" and remark else name
            found.append(tolerances.scalar(said, scalars[name], expected, tolerance))
        elif name == "gradient_mask" and mask is not None:
            found.append(tolerances.absolute(name, mask.float(), _by_frame(expected).expand_as(mask).float(), 0.0))
    return found + _noted(f, gradients, scalars)


Values = dict[str, Tensor]


@torch.no_grad()
def _scores(f: Fixture, role: str, net: DiT, x_t: Tensor, t: Tensor, values: Values) -> Tensor:
    """x0 by a score net, c + w (c - u) with its own guidance scale w; adds its parts to `values`."""
    args, key = f.setting("args", {}), f"{role}_guidance_scale"
    fallback = args.get("guidance_scale", 0.0) if role == "real" else 0.0
    w, shift = float(f.setting(key, args.get(key, fallback))), float(f.setting("score_scheduler_shift"))

    def x0(branch: str) -> Tensor:
        flow_ = net(x_t, t, f.input(f"context_{branch}"))
        values[f"{role}_{branch}_flow"] = flow_
        values[f"{role}_{branch}_x0"] = flow.to_x0(x_t, flow_, t, shift)
        return values[f"{role}_{branch}_x0"]

    c = x0("cond")
    if w or f"{role}_uncond_x0" in f.outputs:
        c = c + w * (c - x0("uncond"))
    values[f"{role}_x0"] = c
    return c


def _student(f: Fixture, critic: DiT, mask: Tensor | None, values: Values, gradients: Values, scalars: Values) -> None:
    """The student's half: timestep, noisy sample, both scores, DMD gradient and loss."""
    x = f.input("x").clone().requires_grad_()
    t, x_t = _noised(f, "gen", x.detach())
    fake = _scores(f, "fake", critic, x_t, t, values)
    real = _scores(f, "real", f.net("real"), x_t, t, values)
    g = losses.dmd_gradient(x.detach(), real, fake)
    loss = losses.dmd(x, g, mask=mask)
    values |= {"gen_timestep": t, "gen_noisy": x_t}
    gradients |= {"kl_grad": g, "kl_grad_unnormalised": fake - real}
    (gradients["dmd_loss_grad_wrt_x"],) = torch.autograd.grad(loss, x)
    scalars |= {"dmd_loss": loss.detach(), "dmdtrain_gradient_norm": g.abs().mean()}


def _critic(f: Fixture, critic: DiT, mask: Tensor | None, values: Values, gradients: Values, scalars: Values) -> str:
    """The critic's half: timestep, noisy sample, flow, x0, loss and gradients; the remark of `_critic_mask`."""
    x, eps = f.input("x").detach(), f.input("critic_noise")
    kind = f.setting("args", {}).get("denoising_loss_type", "flow")
    if kind not in ("flow", "x0"):
        raise FixtureError(f"denoising_loss_type is {kind!r}; only 'flow' and 'x0' are supported")
    t, x_t = _noised(f, "critic", x)
    v = critic(x_t, t, f.input("context_cond"))
    x0 = flow.to_x0(x_t, v, t, float(f.setting("score_scheduler_shift")))
    again = flow.to_velocity(x_t, x0, t, float(f.setting("generator_scheduler_shift")))
    values |= {"critic_timestep": t, "critic_noisy": x_t, "critic_network_flow": v, "critic_x0": x0}

    def loss(over: Tensor | None) -> Tensor:
        return losses.regression(x0, x, over) if kind == "x0" else losses.flow_matching(again, x, eps, over)

    over, remark = _critic_mask(f, mask, loss)
    parameters = dict(critic.named_parameters())
    grads = torch.autograd.grad(loss(over), list(parameters.values()))
    gradients |= {f"critic_paramgrad.{k}": g for k, g in zip(parameters, grads, strict=True)}
    raw = losses.flow_matching(v, x, eps, over)
    scalars |= {"critic_loss": loss(over).detach(), "critic_loss_if_raw_network_flow_were_used": raw.detach()}
    return remark


def _noised(f: Fixture, which: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """(t `[B]`, x_t) for the generator's or the critic's draws, with timesteps drawn as in the reference."""
    warp = float(f.setting("timestep_shift", f.setting("args", {}).get("timestep_shift", 1.0)))
    t = flow.draw_timesteps(f.input(f"{which}_randint")[:, 0], max(warp, 1.0))
    return t, flow.add_noise(x, f.input(f"{which}_noise"), t, float(f.setting("generator_scheduler_shift")))


def gradient_mask(f: Fixture) -> Tensor | None:
    """`[B, F]` frames that carry loss, from the input or from meta.json's `gradient_mask`: flags by frame, or a number
    of frames left out at the start."""
    given = f.inputs.get("gradient_mask", f.setting("gradient_mask", None))
    if given is None:
        return None
    batch, frames = f.input("x").shape[:2]
    if isinstance(given, bool):
        given = torch.full((frames,), given)
    if isinstance(given, int):
        given = torch.arange(frames) >= given
    if isinstance(given, str):
        first = re.search(r"\[:, ?:(\d+)\]|first (\d+) (?:latent )?frame", given)
        if first is None:
            raise FixtureError(
                f"gradient_mask is {given!r}; only flags by frame, or the input gradient_mask, are supported"
            )
        given = torch.arange(frames) >= int(first[1] or first[2])
    mask = _by_frame(torch.as_tensor(given))
    if mask.dim() == 1:
        mask = mask.expand(batch, -1)
    if mask.shape != (batch, frames):
        raise FixtureError(f"gradient_mask is {tuple(mask.shape)}, but x has {batch} x {frames} frames")
    return mask


def _by_frame(mask: Tensor) -> Tensor:
    """`[B, F]` or `[F]` from a mask that may be given by element."""
    if mask.dim() <= 2:
        return mask.bool()
    every = mask.bool().flatten(2)
    if not torch.equal(every.all(2), every.any(2)):
        raise FixtureError("gradient_mask divides a frame, but only masks by frame are supported")
    return every.all(2)


def _critic_mask(f: Fixture, mask: Tensor | None, loss: Callable[[Tensor | None], Tensor]) -> tuple[Tensor | None, str]:
    """(frames of the critic's loss, remark). Self-Forcing's critic is trained on all frames, masked or not, its forks
    leave the masked ones out, and no key says which applies: the recorded loss decides, and the remark reports it."""
    if mask is None:
        return None, ""
    recorded = f.outputs.get("critic_loss", f.setting("critic_loss", None))
    if recorded is None:
        return mask, ""
    with torch.no_grad():
        off = [abs(float(loss(m)) - float(recorded)) for m in (mask, None)]
    return (mask, "over the unmasked frames") if off[0] <= off[1] else (None, "over all frames, as recorded")


def _noted(f: Fixture, gradients: Values, scalars: Values) -> list[Compared]:
    """Compares the numbers in meta.json."""
    found = [tolerances.scalar(f"meta.{k}", v, f.meta[k]) for k, v in scalars.items() if f.meta.get(k) is not None]
    if f.meta.get("critic_param_grad_norms"):
        prefix = "critic_paramgrad."
        ours = {k.removeprefix(prefix): g for k, g in gradients.items() if k.startswith(prefix)}
        found.append(tolerances.norms("meta.critic_param_grad_norms", ours, f.meta["critic_param_grad_norms"]))
    for which, (low, high) in f.meta.get("randint_ranges", {}).items():
        # A critic may be trained without the bounds from the exit level.
        ranges = [drawn_range(f), *([(0, flow.TIMESTEPS)] if which == "critic" else [])]
        off = min(max(abs(a - low), abs(b - high)) for a, b in ranges)
        u = f.input(f"{which}_randint")
        outside = float((low - u).clamp(min=0).max() + (u - high + 1).clamp(min=0).max())
        found.append(Compared(f"meta.randint_ranges of {which}", off + outside, 0.0))
    return found


def drawn_range(f: Fixture) -> tuple[float, float]:
    """Raw timesteps are drawn from [low, high). With a schedule, low is the timestep to which the rollout's exit level
    was denoised, and high the one from which it was denoised."""
    args, bounds = f.setting("args", {}), f.setting("call_kwargs", {})
    low, high = (bounds.get(f"denoised_timestep_{end}") for end in ("to", "from"))
    scheduled = args.get("ts_schedule", True) and low is not None
    capped = args.get("ts_schedule_max", False) and high is not None
    return (low if scheduled else args.get("min_score_timestep", 0)), (
        high if capped else args.get("num_train_timestep", flow.TIMESTEPS)
    )


REPLAY = {
    "flow_match": Replay(
        flow_match, names_in_key("shift sigma_at_t0 warp"), r"x0|noise|flow|timestep|denoising_step_list_raw\d*"
    ),
    "dmd": Replay(
        replay_dmd,
        NET
        | names_in_key(
            "B F real_guidance_scale fake_guidance_scale gradient_mask generator_scheduler_shift score_scheduler_shift "
            "dmd_loss critic_loss critic_loss_if_raw_network_flow_were_used critic_param_grad_norms randint_ranges "
            "timestep_shift call_kwargs.denoised_timestep_from call_kwargs.denoised_timestep_to "
            "args.timestep_shift args.ts_schedule args.ts_schedule_max args.min_score_timestep "
            "args.num_train_timestep args.denoising_loss_type args.guidance_scale args.real_guidance_scale "
            "args.fake_guidance_scale "
            # of the generator's rollout, which these fixtures replace by `x`
            "args.mixed_precision args.denoising_step_list args.warp_denoising_step args.num_frame_per_block "
            "args.gradient_checkpointing args.independent_first_frame args.i2v args.num_training_frames "
            "args.context_noise args.same_step_across_blocks args.last_step_only args.model_kwargs"
        ),
        "x|context_(cond|uncond)|(gen|critic)_(randint|noise)|gradient_mask",
    ),
}
