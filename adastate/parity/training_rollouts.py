"""Replays of training rollouts: output, loss, and the loss's gradients, with and without gradient through the cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import RecordedNoise
from adastate.parity import streams, tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, names_in_key
from adastate.parity.specs import spec_of
from adastate.parity.stream_outputs import RecordedPass, Recorder, compare_calls, compare_windows
from adastate.parity.tolerances import Compared
from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.rollout import rollout

SCORED = 21
"""Frames that the reference scores, at the end of a rollout; earlier ones have no gradient."""

WAYS = (
    ("straight_through", "grad.", "grad_norms"),
    ("detached", "grad_detached_cache.", "grad_norms_detached_cache"),
)
"""(cache_grad, prefix of its gradients, key of their norms)."""


@dataclass(frozen=True)
class Trained:
    """One replayed rollout: its spec and exits, output `[B, F, C, H, W]`, loss, gradients by parameter, and passes."""

    spec: StreamSpec
    exits: Exits
    output: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    passes: list[RecordedPass]


def is_training(f: Fixture) -> bool:
    """Whether it is a training rollout rather than a stream."""
    return not {"exit_step", "exit_step_first_chunk", "window_phase", "training_schedule"}.isdisjoint(f.meta)


def replay_training(f: Fixture) -> list[Compared]:
    """A training rollout with its gradients, through the cache as in the reference and with the cache detached."""
    found: list[Compared] = []
    for cache_grad, prefix, norms in WAYS:
        if norms not in f.meta and not any(name.startswith(prefix) for name in f.outputs):
            continue
        made = train_rollout(f, cache_grad)
        if not found:
            found += _compare_forward(f, made)
        for name, expected in f.outputs.items():
            if name.startswith(prefix) and (parameter := name.removeprefix(prefix)) in made.gradients:
                found.append(tolerances.gradient(name, made.gradients[parameter], expected))
        if norms in f.meta:
            found.append(tolerances.norms(f"meta.{norms}", made.gradients, f.meta[norms]))
    return found


def train_rollout(f: Fixture, cache_grad: str, **changes: object) -> Trained:
    """The training rollout, and a backward of its loss; `changes` override the stream's settings."""
    joint, noise = "window_phase" in f.meta, f.input("noise")
    settings = {"cache_grad": cache_grad, "context_renoise": not joint, "schedule": "staircase" if joint else "uniform"}
    spec = spec_of(f, **{**settings, **changes})
    exits = exits_of(f, spec)
    net = f.net(checkpointing=bool(f.setting("gradient_checkpointing", False)))
    chunks, passes = spec.chunks(noise.shape[1]), list[RecordedPass]()
    draws = list(streams.draws(f, spec, chunks, exits))
    shape = (noise.shape[2], noise.shape[3], noise.shape[4])
    cache = StateCache(spec)
    student = Recorder(net, f.input("context"), passes, cache)
    made = rollout(student, RecordedNoise(draws), cache, chunks, shape, exits, grad=True)
    x = torch.cat([c.content for c in made], 1)
    loss = _loss(f, x)
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return Trained(spec, exits, x.detach(), loss.detach(), gradients, passes)


def exits_of(f: Fixture, spec: StreamSpec) -> Exits:
    """The exit levels that the reference drew."""
    if f.setting("same_step_across_blocks", True) is not True:
        raise FixtureError("the exit step differs between blocks, but only one for the whole rollout is supported")
    joint = spec.schedule == "staircase"
    if (said := f.setting("training_schedule", "chunk_by_chunk")) != "chunk_by_chunk" or (
        joint and "training_schedule" in f.meta
    ):
        raise FixtureError(
            f"training_schedule is {said!r}: it must be 'chunk_by_chunk', or there must be a window_phase"
        )
    quiet = max(0, f.input("noise").shape[1] - SCORED)
    if joint:
        if "exit_step" in f.meta:
            raise FixtureError("a rollout of joint windows needs a window_phase and no exit_step")
        return Exits(window_phase=f.setting("window_phase"), quiet_frames=quiet)
    own = bool(spec.first_chunk_denoising_steps)
    if not own and "exit_step_first_chunk" in f.meta:
        raise FixtureError("exit_step_first_chunk needs denoising_step_list_first_chunk_raw, the list that it indexes")
    return Exits(f.setting("exit_step"), f.setting("exit_step_first_chunk") if own else None, quiet_frames=quiet)


def _loss(f: Fixture, x: Tensor) -> Tensor:
    said = f.setting("loss", "mean(output ** 2)")
    if said.startswith("mean(output ** 2)"):
        return x.square().mean()
    if said.startswith("sum(output * grad_weight_G)"):
        return (x * f.input("grad_weight_G")).sum()
    raise FixtureError(f"loss is {said!r}; only 'mean(output ** 2)' and 'sum(output * grad_weight_G)' are supported")


def _compare_forward(f: Fixture, made: Trained) -> list[Compared]:
    """Compares everything except the gradients; raises FixtureError if only one of the two passes has a gradient."""
    found = [
        *streams.compare_table(f, made.spec),
        *compare_calls(f, made.spec, made.passes),
        *compare_windows(f, made.spec, made.passes),
        *_score_range(f, made),
    ]
    size = made.spec.chunk_frames
    joint = [p for p in made.passes if not bool((p.t == made.spec.context_noise).all())]
    for told, passes in ((f.meta.get("calls") or [], made.passes), (f.meta.get("windows") or [], joint)):
        for i, (call, mine) in enumerate(zip(told, passes, strict=bool(told))):
            if call.get("grad", mine.grad) != mine.grad:
                raise FixtureError(f"pass {i} has {'a' if mine.grad else 'no'} gradient here, unlike the reference")
            first, last = mine.start // size, (mine.start + mine.x.shape[1]) // size - 1
            if (call.get("start_block", first), call.get("end_block", last)) != (first, last):
                raise FixtureError(f"window {i} has blocks {first} to {last} here, unlike the reference")
    _check_sources(f, made)
    if "output" in f.outputs:
        found.append(tolerances.absolute("output", made.output, f.outputs["output"]))
    if "loss" in f.outputs:
        found.append(tolerances.scalar("loss", made.loss, f.outputs["loss"]))
    return found


def _check_sources(f: Fixture, made: Trained) -> None:
    """`output_from` gives each block's source window and timestep; blocks without gradient are left out."""
    if "output_from" not in f.meta:
        return
    times, size, phase = made.spec.timesteps, made.spec.chunk_frames, made.exits.window_phase
    chunks = made.spec.chunks(made.output.shape[1])
    mine = {}
    for block in range(chunks):
        window = next(w for w in range(block, block + len(times)) if w % len(times) == phase)
        if (min(window, chunks - 1) + 1) * size > made.exits.quiet_frames:
            mine[str(block)] = [[window, round(times[window - block], 2)]]
    theirs = {block: [[w, round(t, 2)] for w, t in found] for block, found in f.meta["output_from"].items()}
    if mine != theirs:
        raise FixtureError(f"output_from is {theirs} in the reference and {mine} here")


def _score_range(f: Fixture, made: Trained) -> list[Compared]:
    """Compares the timesteps, before the shift, between which the exit pass denoises: they may bound the scores'."""
    times = [*made.spec.timesteps]
    level = None if made.exits.level is None else made.exits.at(made.spec, 1)
    found = []
    for name, at in (("from", 0), ("to", 1)):
        told = f.setting(f"denoised_timestep_{name}", None)
        if told is None:
            continue
        if level is None:
            raise FixtureError(f"denoised_timestep_{name} is {told}, but joint windows exit at all levels")
        raw = torch.zeros(1)
        if level + at < len(times):
            raw = flow.TIMESTEPS - flow.entry(
                torch.tensor(times[level + at : level + at + 1]), made.spec.timestep_shift
            )
        found.append(tolerances.scalar(f"meta.denoised_timestep_{name}", raw.float(), told, tolerances.TABLE))
    return found


KEYS = streams.KEYS | names_in_key(
    "exit_step same_step_across_blocks gradient_checkpointing denoised_timestep_from denoised_timestep_to loss "
    "grad_norms grad_norms_detached_cache"
)
WINDOWS = names_in_key("windows.window windows.start_block windows.end_block windows.frames windows.t windows.grad")
INPUTS = r"noise|context|injected_\d+|denoising_step_list|grad_weight_G"

REPLAY: dict[str, Replay] = {
    "self_forcing": Replay(replay_training, KEYS, INPUTS),
    "causal_forcing": Replay(replay_training, KEYS | names_in_key("exit_step_first_chunk"), INPUTS),
    "longlive": Replay(replay_training, KEYS, INPUTS),
    "rolling_forcing": Replay(
        replay_training,
        KEYS | names_in_key("training_schedule window_phase output_from") | WINDOWS,
        rf"{INPUTS}|injected_block\d+_step\d+",
    ),
}
"""Replays of training rollouts, by the fixtures' `system`."""
