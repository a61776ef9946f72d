"""Replays of streams and of training rollouts: the reference's settings as a StreamSpec, its noise, its passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import RecordedNoise
from adastate.models.rope import rope_table, rotate
from adastate.models.wan import DiT
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, names
from adastate.parity.tolerances import Compared
from adastate.stream import Scene, StateCache, StreamSpec, Switch, prefill, rollout
from adastate.stream.cache import View
from adastate.types import Memory

ABSOLUTE = ("self_forcing", "causal_forcing", "longlive", "rolling_forcing")
"""Systems whose cached keys are rotated when they are written."""


@dataclass(frozen=True)
class Pass:
    """One call of the network: its input, timesteps `[B, F]` and flow, and whether it is about a generated chunk."""

    x: Tensor
    t: Tensor
    flow: Tensor
    generated: bool


class Recorder:
    """A net with a prompt bound, noting its passes in a list that several prompts may share."""

    def __init__(self, net: DiT, text: Tensor, passes: list[Pass]) -> None:
        self.net, self.text, self.passes = net, text, passes
        self.given = False

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        out = self.net(x, t, self.text.expand(len(x), -1, -1), memory=memory)
        again = isinstance(memory, View) and memory.recache
        self.passes.append(Pass(x.detach(), t, out.detach(), not (self.given or again)))
        return out


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
        "steps": fixture.setting("denoising_step_list_raw", [1000, 750, 500, 250]),
        "first_steps": fixture.setting("denoising_step_list_first_chunk_raw", None) or (),
        "shift": fixture.setting("shift", 5.0),
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
            "clean_keys": "recent",
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
    spec, net, passes = spec_of(f, **changes), f.net(), list[Pass]()
    given = f.inputs.get("initial_latent")
    rows = f.input("context")
    students = [Recorder(net, row, passes) for row in _prompts(f, rows)]
    cache = StateCache(spec)
    noise = f.input("noise")
    chunks = spec.chunks(noise.shape[1])
    draws = list(_staircase_draws(f, spec, chunks) if spec.schedule == "staircase" else _draws(f, spec, chunks))
    scenes = _scenes(f, spec, students, given.shape[1] if given is not None else 0)
    with torch.no_grad():
        if given is not None:
            alone = given.shape[1] % spec.chunk_frames == 1 % spec.chunk_frames and spec.chunk_frames > 1
            students[0].given = True
            prefill(students[0], cache, given, first_alone=alone or bool(f.setting("independent_first_frame", False)))
            students[0].given = False
        shape = (noise.shape[2], noise.shape[3], noise.shape[4])
        found = list(rollout(students[0], RecordedNoise(draws), cache, chunks, shape, scenes=scenes))
    made = torch.cat([c.content for c in found], 1)
    return [
        *_table(f, spec),
        *_latents(f, made, given),
        *_calls(f, spec, passes),
        *_windows(f, spec, passes),
        *_cache(f, cache),
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


def _scenes(f: Fixture, spec: StreamSpec, students: list[Recorder], given: int) -> dict[int, Scene]:
    at = f.setting("switch_frame", None)
    if at is not None:
        kept = "keep" if f.setting("global_sink", False) else "reset"
        return {(at - given) // spec.chunk_frames: Scene(students[1], Switch("recache", None, kept))}  # type: ignore[arg-type]
    starts = [b for b in f.setting("scene_start_blocks", []) or [] if b > 0]
    cuts = set(f.setting("scene_cut_blocks", []) or [])
    if len(students) < 1 + len(starts):
        raise FixtureError(f"{len(starts)} scenes begin after the first, but there are {len(students)} contexts")
    if cuts - set(starts):
        raise FixtureError(f"a cut at block {min(cuts - set(starts))}, where no scene begins")
    return {
        block: Scene(students[1 + i], Switch("cut" if block in cuts else "flush", 2)) for i, block in enumerate(starts)
    }


def _table(f: Fixture, spec: StreamSpec) -> list[Compared]:
    """The warped step lists, where they are told."""
    found = []
    for key, expected in (("denoising_step_list", f.outputs.get("denoising_step_list")),):
        if expected is not None:
            found.append(tolerances.table(key, torch.tensor(spec.timesteps), expected.float()))
    for key, times in (("warped", spec.timesteps), ("warped_first_chunk", spec.levels(0))):
        if key in f.meta:
            found.append(tolerances.table(f"meta.{key}", torch.tensor(times), torch.tensor(f.meta[key])))
    first = f.outputs.get("denoising_step_list_first_chunk")
    if first is not None:
        found.append(tolerances.table("denoising_step_list_first_chunk", torch.tensor(spec.levels(0)), first.float()))
    return found


def _latents(f: Fixture, made: Tensor, given: Tensor | None) -> list[Compared]:
    expected = f.outputs.get("latents")
    if expected is None:
        return []
    if given is not None and expected.shape[1] == made.shape[1] + given.shape[1]:
        made = torch.cat([given, made], 1)
    return [tolerances.absolute("latents", made, expected)]


def _calls(f: Fixture, spec: StreamSpec, passes: list[Pass]) -> list[Compared]:
    """x0 and flow of single passes, found by their place in the list of calls."""
    named = {n: m for n in f.outputs if (m := re.fullmatch(r"chunk(-?\d+)_call(\d+)_(x0|flow)", n))}
    calls = f.meta.get("calls") or []
    if calls and len(calls) != len(passes):
        # Some recorders list the denoising and clean passes of generated chunks only.
        passes = [p for p in passes if p.generated]
    if calls and len(calls) != len(passes):
        raise FixtureError(f"the reference made {len(calls)} passes, the replay {len(passes)}")
    index: dict[tuple[int, int], Pass] = {}
    for i, (call, made) in enumerate(zip(calls, passes, strict=False)):
        levels = sorted({round(t, 2) for t in made.t[0].tolist()})
        expected = sorted({round(t, 2) for t in call["t"]})
        frames = call.get("frames", made.x.shape[1])
        alike = len(levels) == len(expected) and all(abs(a - b) < 0.02 for a, b in zip(levels, expected, strict=True))
        if not alike or frames != made.x.shape[1]:
            raise FixtureError(
                f"pass {i} has {made.x.shape[1]} frames at {levels} here, {frames} at {expected} in the reference"
            )
        index[call["chunk"], call["step"]] = made
    found = []
    for name, match in named.items():
        call_at = index.get((int(match[1]), int(match[2])))
        if call_at is None:
            found.append(tolerances.not_comparable(name, "the list of calls does not hold it"))
            continue
        x0 = flow.to_x0(call_at.x, call_at.flow, call_at.t, spec.shift)
        found.append(tolerances.absolute(name, call_at.flow if match[3] == "flow" else x0, f.outputs[name]))
    return found


def _windows(f: Fixture, spec: StreamSpec, passes: list[Pass]) -> list[Compared]:
    """x0 of the joint passes of a staircase."""
    told = f.meta.get("windows")
    names_ = [n for n in f.outputs if re.fullmatch(r"window\d+_(x0|flow)", n)]
    joint = [p for p in passes if not bool((p.t == spec.context_noise).all())]
    for window, made in zip(told or [], joint, strict=bool(told)):
        expected = torch.tensor(window["t"], dtype=torch.float32)
        if expected.shape != made.t[0].shape or (expected - made.t[0].cpu()).abs().max() > 1e-3:
            raise FixtureError(f"window {window['window']} is denoised at {made.t[0].tolist()} here")
    found = []
    for name in names_:
        made = joint[int(name[6:8])]
        got = made.flow if name.endswith("flow") else flow.to_x0(made.x, made.flow, made.t, spec.shift)
        found.append(tolerances.absolute(name, got, f.outputs[name]))
    return found


def _cache(f: Fixture, cache: StateCache) -> list[Compared]:
    """Keys and values at the end, of the frames that both keep: the reference still has the ones that we let go."""
    found: list[Compared] = []
    for name, expected in f.outputs.items():
        match = re.fullmatch(r"final_kv_layer(\d+)_([kv])", name)
        if match is None:
            continue
        layer, tokens = int(match[1]), f.setting("frame_seqlen")
        theirs = expected.unflatten(1, (-1, tokens))
        kept = theirs.shape[1]
        anchor = cache.anchor.count if cache.anchor is not None else 0
        places = {s: anchor + i for i, s in enumerate(range(cache.frames - (kept - anchor), cache.frames))}
        if cache.anchor is not None:
            places |= {s: i for i, s in enumerate(cache.anchor.source) if s >= 0}
        differences = []
        for frames in (cache.anchor, cache.window):
            if frames is None or (frames is cache.anchor and _moves(f)):
                continue
            ours = (frames.keys if match[2] == "k" else frames.values)[layer]
            if match[2] == "k" and _rotated(f, frames is cache.anchor):
                height, width = (n // 2 for n in f.input("noise").shape[-2:])
                at = tuple(frames.source)
                ours = rotate(ours, rope_table(at, height, width, ours.shape[-1], 8192, ours.device))
            rows = [places[s] for s in frames.source]
            differences.append(tolerances.absolute(name, ours.unflatten(1, (-1, tokens)), theirs[:, rows]))
        if differences:
            found.append(max(differences, key=lambda c: c.share))
        else:
            found.append(tolerances.not_comparable(name, "no frame of it is kept here"))
    return found


def _moves(f: Fixture) -> bool:
    """Whether the anchor moves: it does so here when a chunk is written, there before the next one is denoised."""
    return f.setting("system") == "reward_forcing"


def _rotated(f: Fixture, anchor: bool) -> bool:
    """Whether the reference keeps these keys rotated."""
    system = f.setting("system")
    if system == "rolling_forcing":
        return not anchor
    return system in ABSOLUTE or (system == "infinity_rope" and anchor)


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
