"""Replays of streams and of training rollouts: the reference's settings as a StreamSpec, its noise, its passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion.noise import RecordedNoise
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, names
from adastate.parity.stream_outputs import (
    RecordedPass,
    Recorder,
    compare_cache,
    compare_calls,
    compare_latents,
    compare_windows,
)
from adastate.parity.tolerances import Compared
from adastate.stream import PromptSwitch, StateCache, StreamSpec, SwitchPolicy, prefill, rollout


def spec_of(fixture: Fixture, **changes: Any) -> StreamSpec:
    """The reference's settings as ours, but for `changes`; its window counts sink and current chunk."""
    system, chunk = fixture.setting("system"), fixture.setting("num_frame_per_block", 3)
    window, sink = fixture.setting("local_attn_size", -1), fixture.setting("sink_size", 0)
    settings: dict[str, Any] = {
        "chunk_frames": chunk,
        "past_frames": None if window == -1 else window - sink - chunk,
        "anchor": "static" if sink else "none",
        "state_frames": sink,
        "position": "absolute",
        "denoising_steps": fixture.setting("denoising_step_list_raw", [1000, 750, 500, 250]),
        "first_chunk_denoising_steps": fixture.setting("denoising_step_list_first_chunk_raw", None) or (),
        "timestep_shift": fixture.setting("shift", 5.0),
        "context_noise": float(fixture.setting("context_noise", 0)),
    }
    if system in ("longlive_slot", "infinity_rope", "reward_forcing"):
        settings |= {"position": "slot", "warmup": "growing"}
    if system == "infinity_rope" and window != -1:
        settings |= {"query_position": "stream"}
    if system == "reward_forcing" and sink:
        settings |= {"anchor": "ema", "decay": [fixture.setting("compression_alpha", 0.999)]}
    if system == "rolling_forcing":
        tokens = fixture.setting("frame_seqlen")
        kept = fixture.setting("kv_cache_tokens", 24 * tokens) // tokens
        settings |= {
            "anchor": "static",
            "state_frames": chunk,
            "past_frames": kept - 2 * chunk,
            "position": "anchor_contiguous",
            "attention_frames": fixture.setting("max_attention_tokens", 21 * tokens) // tokens,
            "clean_pass_context": "recent",
            "schedule": "staircase",
        }
    generated = fixture.inputs["noise"].shape[1] if "noise" in fixture.inputs else 0
    if "initial_latent" not in fixture.inputs and generated % chunk == 1 and chunk > 1:
        settings["first_chunk_frames"] = 1
    try:
        return StreamSpec(**{**settings, **changes})
    except ValueError as error:
        raise FixtureError(f"these settings make no stream here: {error}") from error


def stream(f: Fixture, **changes: Any) -> list[Compared]:
    """A rollout at inference; `changes` to the stream's settings make it another one."""
    spec, net, passes = spec_of(f, **changes), f.net(), list[RecordedPass]()
    given = f.inputs.get("initial_latent")
    rows = f.input("context")
    students = [Recorder(net, row, passes) for row in _prompts(f, rows)]
    cache = StateCache(spec)
    noise = f.input("noise")
    chunks = spec.chunks(noise.shape[1])
    draws = list(_staircase_draws(f, spec, chunks) if spec.schedule == "staircase" else _draws(f, spec, chunks))
    switches = _switches(f, spec, students, given.shape[1] if given is not None else 0)
    with torch.no_grad():
        if given is not None:
            alone = given.shape[1] % spec.chunk_frames == 1 % spec.chunk_frames and spec.chunk_frames > 1
            students[0].given = True
            prefill(students[0], cache, given, first_alone=alone or bool(f.setting("independent_first_frame", False)))
            students[0].given = False
        shape = (noise.shape[2], noise.shape[3], noise.shape[4])
        found = list(rollout(students[0], RecordedNoise(draws), cache, chunks, shape, switches=switches))
    made = torch.cat([c.content for c in found], 1)
    return [
        *_table(f, spec),
        *compare_latents(f, made, given),
        *compare_calls(f, spec, passes),
        *compare_windows(f, spec, passes),
        *compare_cache(f, cache),
    ]


def training(f: Fixture) -> list[Compared]:
    """A training rollout with its gradients, through the cache as the reference has them and with it detached."""
    found: list[Compared] = []
    if f.setting("same_step_across_blocks", True) is not True:
        raise FixtureError("the exit step differs between blocks: here it is one for the whole rollout")
    for cache_grad, prefix, norms in (
        ("straight_through", "grad.", "grad_norms"),
        ("detached", "grad_detached_cache.", "grad_norms_detached_cache"),
    ):
        if not any(name.startswith(prefix) for name in f.outputs):
            continue
        latents, loss, gradients = train(f, cache_grad)
        if not found:
            found += [tolerances.absolute("output", latents, f.outputs["output"])]
            if "loss" in f.outputs:
                found += [tolerances.scalar("loss", loss, f.outputs["loss"])]
        for name, expected in f.outputs.items():
            if name.startswith(prefix):
                found.append(tolerances.gradient(name, gradients[name.removeprefix(prefix)], expected))
        if norms in f.meta:
            found.append(tolerances.norms(f"meta.{norms}", gradients, f.meta[norms]))
    return found


def train(f: Fixture, cache_grad: str, **changes: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(frames, loss, gradients) of the training rollout; the loss is the frames weighted with `grad_weight_G`."""
    spec = spec_of(f, context_renoise=True, cache_grad=cache_grad, **changes)
    exit_level = f.setting("exit_step")
    net = f.net(checkpointing=bool(f.setting("gradient_checkpointing", False)))
    noise = f.input("noise")
    chunks = spec.chunks(noise.shape[1])
    draws = list(_draws(f, spec, chunks, exit_level + 1))
    student = Recorder(net, f.input("context"), [])
    shape = (noise.shape[2], noise.shape[3], noise.shape[4])
    made = rollout(student, RecordedNoise(draws), StateCache(spec), chunks, shape, exit_level, grad=True)
    x = torch.cat([c.content for c in made], 1)
    loss = (x * f.input("grad_weight_G")).sum()
    loss.backward()
    return x, loss, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def _draws(f: Fixture, spec: StreamSpec, chunks: int, passes: int | None = None) -> Iterator[Tensor]:
    """The recorded normals in the order in which `rollout` asks for them, `passes` denoising passes a chunk."""
    noise = f.input("noise")
    injected = iter([v for k, v in sorted(f.inputs.items()) if k.startswith("injected_")])
    first = 0
    for chunk in range(chunks):
        frames = spec.frames_of(chunk)
        yield noise[:, first : first + frames]
        first += frames
        for _ in range((passes or len(spec.levels(chunk))) - 1 + spec.context_renoise):
            draw = next(injected, None)
            if draw is None:
                raise FixtureError(f"too few recorded draws: chunk {chunk} asks for more")
            yield draw.unflatten(0, (-1, frames))
    if next(injected, None) is not None:
        raise FixtureError("recorded draws are left over")


def _staircase_draws(f: Fixture, spec: StreamSpec, chunks: int) -> Iterator[Tensor]:
    noise, size, levels = f.input("noise"), spec.chunk_frames, len(spec.timesteps)
    for window in range(chunks + levels - 1):
        if window < chunks:
            yield noise[:, window * size : (window + 1) * size]
        for chunk in range(max(0, window - levels + 1), min(chunks - 1, window) + 1):
            if window - chunk < levels - 1:
                yield f.input(f"injected_block{chunk:02d}_step{window - chunk}")


def _prompts(f: Fixture, rows: Tensor) -> list[Tensor]:
    """One embedding `[1 or B, L, D]` per prompt of the stream."""
    if f.setting("switch_frame", None) is not None or f.setting("scene_start_blocks", None):
        return [row[None] for row in rows]
    return [rows]


def _switches(f: Fixture, spec: StreamSpec, students: list[Recorder], given: int) -> dict[int, PromptSwitch[Any]]:
    at = f.setting("switch_frame", None)
    if at is not None:
        kept = "keep" if f.setting("global_sink", False) else "reset"
        policy = SwitchPolicy("recache", None, kept)  # type: ignore[arg-type]
        return {(at - given) // spec.chunk_frames: PromptSwitch(students[1], policy)}
    starts = [b for b in f.setting("scene_start_blocks", []) or [] if b > 0]
    cuts = set(f.setting("scene_cut_blocks", []) or [])
    if len(students) < 1 + len(starts):
        raise FixtureError(f"{len(starts)} scenes begin after the first, but there are {len(students)} contexts")
    if cuts - set(starts):
        raise FixtureError(f"a cut at block {min(cuts - set(starts))}, where no scene begins")
    return {
        block: PromptSwitch(students[1 + i], SwitchPolicy("cut" if block in cuts else "flush", 2))
        for i, block in enumerate(starts)
    }


def _table(f: Fixture, spec: StreamSpec) -> list[Compared]:
    """The warped step lists, where they are told."""
    found = []
    for suffix, times in (("", torch.tensor(spec.timesteps)), ("_first_chunk", torch.tensor(spec.levels(0)))):
        output, key = f"denoising_step_list{suffix}", f"warped{suffix}"
        if output in f.outputs:
            found.append(tolerances.table(output, times, f.outputs[output].float()))
        if key in f.meta:
            found.append(tolerances.table(f"meta.{key}", times, torch.tensor(f.meta[key])))
    return found


def _either(f: Fixture) -> list[Compared]:
    return training(f) if "exit_step" in f.meta else stream(f)


KEYS = names(
    "local_attn_size sink_size num_frame_per_block chunks shift denoising_step_list_raw "
    "denoising_step_list_first_chunk_raw context_noise calls independent_first_frame warped_first_chunk"
)
INPUTS = r"noise|context|initial_latent|injected_\d+|denoising_step_list|grad_weight_G"
TRAINING = names(
    "exit_step same_step_across_blocks gradient_checkpointing denoised_timestep_from denoised_timestep_to loss "
    "grad_norms grad_norms_detached_cache"
)

REPLAY: dict[str, Replay] = {
    "self_forcing": Replay(_either, KEYS | TRAINING, INPUTS),
    "causal_forcing": Replay(_either, KEYS | TRAINING, INPUTS),
    "longlive": Replay(_either, KEYS | TRAINING | names("switch_frame global_sink"), INPUTS),
    "longlive_slot": Replay(stream, KEYS | names("switch_frame global_sink"), INPUTS),
    "infinity_rope": Replay(stream, KEYS | names("scene_start_blocks scene_cut_blocks"), INPUTS),
    "reward_forcing": Replay(stream, KEYS | names("compression_alpha"), INPUTS),
    "rolling_forcing": Replay(stream, KEYS | names("windows"), r"noise|context|injected_block\d+_step\d+"),
}
"""All replays, by the fixtures' `system`."""
