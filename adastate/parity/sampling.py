"""Replay of Wan2.1's UniPC sampler."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from adastate.diffusion.solvers import Predict, unipc, unipc_levels
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, names
from adastate.parity.tolerances import Compared

SHIFT = ("shift", "flow_shift", "timestep_shift", "sample_shift")
STEPS = ("num_inference_steps", "sampling_steps", "sample_steps", "num_steps", "steps")
START = ("noise", "x_T", "x_t", "x_init", "x", "latents", "sample")
ONLY = {
    "solver_order": 2,
    "order": 2,
    "solver_type": "bh2",
    "solver": "unipc",
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
    "num_train_timestep": 1000,
}
"""What the solver does one way only."""

FLOWS = "flows?|v|velocity|velocities|model_outputs?|flow_preds?|injected"
X0S = "x0s?|x0_preds?|pred_x0s?"


@torch.no_grad()
def replay(f: Fixture) -> list[Compared]:
    """A path of UniPC (order 2, bh2).

    meta.json: the shift and the number of steps, under any name of SHIFT and STEPS; without the second, as many as
    there are recorded timesteps, levels or flows. Inputs: the noise under a name of START, and the flows of all
    steps, stacked as `flow` [steps, ...] or numbered `flow_000` (also `model_output`, `v`, ...); one in the shape of
    the noise is that of every step. Instead of flows there may be predictions `x0` in the same forms. With `config`
    and `weights` the network gives the flows, from `context` (or `context_cond`, with `context_uncond` and
    `guidance_scale` g in u + g (c - u)); the noise is [B, F, C, H, W], or [B, C, F, H, W] where `layout` says so.
    Outputs: `timesteps` and `sigmas`; samples, flows and x0 by step, stacked or numbered, with or without the noise
    in front; the last sample under any other name.
    """
    for key, value in ONLY.items():
        if f.setting(key, value) != value:
            raise FixtureError(f"{key} is {f.meta[key]!r}; the solver here knows {value!r} only")
    shift = _first(f, SHIFT)
    if shift is None:
        raise FixtureError(f"meta.json has none of {', '.join(SHIFT)}")
    start = next((f.inputs[k] for k in START if k in f.inputs), None)
    recorded, x0_given = _by_step(f.inputs, FLOWS), _by_step(f.inputs, X0S)
    steps = _steps(f, recorded or x0_given, start)
    levels, times = unipc_levels(steps, shift)
    found = [tolerances.table(k, times.to(v.dtype), v, 0.0) for k, v in f.outputs.items() if k.startswith("timestep")]
    for name in f.outputs.keys() & {"sigmas", "levels"}:
        found.append(tolerances.table(name, levels[: len(f.outputs[name])], f.outputs[name]))
    for name, ours in (("timesteps", times), ("sigmas", levels)):
        if f.meta.get(name):
            listed = torch.tensor(f.meta[name])
            found.append(tolerances.table(f"meta.{name}", ours[: len(listed)], listed))
    if start is None:
        return found
    flows: list[Tensor] = []
    x0s: list[Tensor] = []
    predict: Predict
    if recorded:
        predict = _recorded(recorded, start, steps)
    elif x0_given and not f.meta.get("weights"):
        target = _recorded(x0_given, start, steps)

        def predict(x: Tensor, i: int) -> Tensor:
            return (x - target(x, i)) / levels[i]
    else:
        predict = _network(f, times)

    def watched(x: Tensor, i: int) -> Tensor:
        flows.append(predict(x, i))
        x0s.append(x - levels[i] * flows[-1])
        return flows[-1]

    path = unipc(watched, start, levels)
    for pattern, values in ((FLOWS, flows), (X0S, x0s), (".*", path)):
        done = {c.output for c in found}
        left = {k: v for k, v in f.outputs.items() if k not in done and re.fullmatch(pattern, _number(k)[0])}
        found += _compare(left, values, start)
    return found


def _steps(f: Fixture, flows: list[Tensor], start: Tensor | None) -> int:
    named = _first(f, STEPS)
    if named is not None:
        return int(named)
    if "timesteps" in f.outputs:
        return len(f.outputs["timesteps"])
    if "sigmas" in f.outputs:
        return len(f.outputs["sigmas"]) - 1
    if start is not None and len(flows) == 1 and flows[0].dim() > start.dim():
        return len(flows[0])
    if len(flows) > 1:
        return len(flows)
    raise FixtureError(f"nothing tells the number of steps: meta.json has none of {', '.join(STEPS)}")


def _first(f: Fixture, keys: tuple[str, ...]) -> float | None:
    return next((float(f.meta[k]) for k in keys if f.meta.get(k) is not None), None)


def _number(name: str) -> tuple[str, int | None]:
    """(name without its step, the step): `sample_03`, `step3_sample` and `sample_step_3` are sample, 3."""
    kept, number = [], None
    for part in name.split("_"):
        match = re.fullmatch(r"([a-z]*?)(\d+)", part)
        if match is None or part == "x0" or number is not None:
            kept.append(part)
        else:
            kept.append(match[1])
            number = int(match[2])
    return "_".join(k for k in kept if k not in ("", "step", "call")), number


def _by_step(inputs: dict[str, Tensor], pattern: str) -> list[Tensor]:
    """Numbered inputs in order, or one stack of them."""
    found = {_number(k)[1]: v for k, v in inputs.items() if re.fullmatch(pattern, _number(k)[0])}
    return [found[i] for i in sorted(found, key=lambda i: -1 if i is None else i)]


def _recorded(flows: list[Tensor], start: Tensor, steps: int) -> Predict:
    """The flows as they were, whatever the sample."""
    if len(flows) == 1 and flows[0].numel() == start.numel():
        flows = [flows[0].reshape(start.shape)] * steps
    elif len(flows) == 1:
        flows = list(flows[0])
    if len(flows) != steps or flows[0].numel() != start.numel():
        raise FixtureError(f"{len(flows)} flows of {tuple(flows[0].shape)} for {steps} steps of {tuple(start.shape)}")
    return lambda x, i: flows[i].reshape(x.shape)


def _network(f: Fixture, times: Tensor) -> Predict:
    """The network's flow, guided if there is a context without condition."""
    if not f.meta.get("weights"):
        raise FixtureError("the inputs have no flows, and meta.json has no weights to make them with")
    net = f.net(next(iter(f.meta["weights"])))
    text = f.inputs.get("context_cond", f.inputs.get("context"))
    if text is None:
        raise FixtureError("the inputs have no 'context'")
    u, g = f.inputs.get("context_uncond"), float(f.setting("guidance_scale", 1.0))
    swap = "[B,C,F,H,W]" in f.setting("layout", "")

    def predict(x: Tensor, i: int) -> Tensor:
        x = x.transpose(1, 2) if swap else x
        t = times[i].float().expand(len(x))
        v = net(x, t, text)
        if u is not None and g != 1:
            v_u = net(x, t, u)
            v = v_u + g * (v - v_u)
        return v.transpose(1, 2) if swap else v

    return predict


def _compare(outputs: dict[str, Tensor], values: list[Tensor], start: Tensor) -> list[Compared]:
    """Numbered, stacked and single outputs against `values`, which may have the noise in front."""
    found, front = [], int(torch.equal(values[0], start))
    steps = len(values) - front
    numbers = {k: i for k in outputs if (i := _number(k)[1]) is not None}
    if any(i == steps or (i == 0 and torch.equal(outputs[k].flatten(), start.flatten())) for k, i in numbers.items()):
        front = 0  # they count from the noise on
    for name, expected in outputs.items():
        if name in numbers:
            if numbers[name] + front >= len(values):
                raise FixtureError(f"{name} lies beyond the {steps} steps")
            got = values[numbers[name] + front]
        elif expected.numel() == start.numel():
            got = values[-1]
        elif expected.numel() == steps * start.numel():
            got = torch.stack(values[-steps:])
        elif expected.numel() == len(values) * start.numel():
            got = torch.stack(values)
        else:
            continue
        found.append(tolerances.absolute(name, got.reshape(expected.shape), expected))
    return found


REPLAY = {
    "unipc": Replay(
        replay,
        frozenset(
            {*SHIFT, *STEPS, *ONLY, *names("guidance_scale timesteps sigmas scheduler sampler sample_solver B F")}
        ),
        rf"{'|'.join(START)}|(?:step_?\d+_)?(?:{FLOWS}|{X0S})(?:_?(?:step_?)?\d+)?|context(?:_cond|_uncond)?"
        r"|timesteps?|sigmas|denoising_step_list_raw\d*",
    )
}
