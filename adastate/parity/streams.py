"""Replays of streams: the system's stream with the reference's noise; compares all passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion.noise import RecordedNoise
from adastate.parity import specs, tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.formula import formula_value
from adastate.parity.keys import NET, Replay, names_in_key
from adastate.parity.specs import spec_of
from adastate.parity.stream_outputs import (
    CALLS,
    RecordedPass,
    Recorder,
    compare_cache,
    compare_calls,
    compare_latents,
    compare_sink_writes,
    compare_windows,
)
from adastate.parity.tolerances import Compared
from adastate.stream import Exits, PromptSwitch, StateCache, StreamSpec, prefill
from adastate.stream.passes import Reencode
from adastate.stream.rollout import rollout


def stream(f: Fixture, **changes: Any) -> list[Compared]:
    """Compares a rollout at inference; `changes` override the stream's settings."""
    spec, net, passes = spec_of(f, **changes), f.net(), list[RecordedPass]()
    cache = StateCache(spec)
    given = f.inputs.get("initial_latent")
    students = [Recorder(net, row, passes, cache) for row in _prompts(f)]
    starts = _starts(f, spec)
    chunks = f.setting("chunks") if spec.shared_noise else spec.chunks(starts.shape[1])
    if given is None and not spec.first_chunk_frames and f.setting("chunks", chunks) != chunks:
        raise FixtureError(f"there is noise for {chunks} chunks, but {f.meta['chunks']} are needed")
    noise = RecordedNoise(list(draws(f, spec, chunks)))
    switches = _switches(f, spec, students, given.shape[1] if given is not None else 0)
    with torch.no_grad():
        if given is not None:
            alone = given.shape[1] % spec.chunk_frames == 1 % spec.chunk_frames and spec.chunk_frames > 1
            students[0].given = True
            prefill(students[0], cache, given, first_alone=bool(f.setting("independent_first_frame", alone)))
            students[0].given = False
        shape = (starts.shape[2], starts.shape[3], starts.shape[4])
        found = list(rollout(students[0], noise, cache, chunks, shape, switches=switches, reencode=_reencode(f)))
    made = torch.cat([c.content for c in found], 1)
    return [
        *compare_table(f, spec),
        *compare_latents(f, made, given),
        *compare_calls(f, spec, passes),
        *compare_windows(f, spec, passes),
        *compare_sink_writes(f, spec),
        *compare_cache(f, cache),
    ]


def draws(f: Fixture, spec: StreamSpec, chunks: int, exits: Exits = Exits()) -> Iterator[Tensor]:  # noqa: B008 - frozen
    """The recorded normal draws in the order in which `rollout` asks for them."""
    if spec.schedule == "staircase":
        yield from _staircase_draws(f, spec, chunks)
        return
    noise = _starts(f, spec)
    injected = iter([v for k, v in sorted(f.inputs.items()) if k.startswith("injected_")])
    first = 0
    for chunk in range(chunks):
        frames = spec.frames_of(chunk)
        if not (chunk and spec.shared_noise):
            yield noise[:, first : first + frames]
        first += frames
        for _ in range(exits.at(spec, chunk) + spec.context_renoise):
            draw = next(injected, None)
            if draw is None:
                raise FixtureError(f"too few recorded draws: chunk {chunk} needs more")
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
                draw = f.input(f"injected_block{chunk:02d}_step{window - chunk}")
                yield draw.reshape(len(noise), size, *noise.shape[2:])


def _starts(f: Fixture, spec: StreamSpec) -> Tensor:
    """What the chunks start from, in order. CausVid draws noise for the given frames of a part too."""
    noise = f.input("noise")
    if not spec.restart_frames:
        return noise
    first, *later = noise.split(spec.restart_frames, 1)
    if f.setting("parts", 1 + len(later)) != 1 + len(later):
        raise FixtureError(f"there is noise for {1 + len(later)} parts, but {f.meta['parts']} are needed")
    return torch.cat([first, *(part[:, spec.restart_overlap :] for part in later)], 1)


def _reencode(f: Fixture) -> Reencode:
    """The stand-in for a VAE, applied to the latent frame whose picture would be encoded again."""
    text = f.setting("reencode_formula", "x")
    return lambda latents, n: formula_value("reencode_formula", text, {"x": latents[:, -n:][:, :1]})


def _prompts(f: Fixture) -> list[Tensor]:
    """One embedding `[1 or B, L, D]` per prompt of the stream; `context_rows` gives the row of each, as "p0,p1,p0"."""
    rows, told = f.input("context"), f.setting("context_rows", None)
    which = told if told is None or isinstance(told, list) else [int(n) for n in re.findall(r"\bp(\d+)\b", told)]
    changes = f.setting("switch_frame", None) is not None or bool(f.setting("scene_start_blocks", None))
    if which is None:
        which = list(range(len(rows)))
    elif not which or max(which) >= len(rows) or (len(which) > 1 and not changes):
        raise FixtureError(f"context_rows {told!r} does not assign the {len(rows)} rows of context to prompts")
    if not changes:
        return [rows]
    return [rows[i][None] for i in which]


def _switches(f: Fixture, spec: StreamSpec, students: list[Recorder], given: int) -> dict[int, PromptSwitch[Any]]:
    """The prompt changes, as the system makes them, each at the first chunk that begins there or later."""
    at = f.setting("switch_frame", None)
    if at is not None:
        policy = replace(spec.switch, frames=None, anchor="keep" if f.setting("global_sink", True) else "reset")
        return {-((given - at) // spec.chunk_frames): PromptSwitch(students[1], policy)}
    starts = [b for b in f.setting("scene_start_blocks", None) or [] if b > 0]
    cuts = set(f.setting("scene_cut_blocks", None) or [])
    if starts and len(students) != 1 + len(starts):
        raise FixtureError(f"{len(starts)} scenes begin after the first, but there are {len(students)} contexts")
    if cuts - set(starts):
        raise FixtureError(f"a cut at block {min(cuts - set(starts))}, where no scene begins")
    return {
        block: PromptSwitch(student, replace(spec.switch, kind="cut") if block in cuts else None)
        for block, student in zip(starts, students[1:], strict=True)
    }


def compare_table(f: Fixture, spec: StreamSpec) -> list[Compared]:
    """Compares the warped step lists, if they are given."""
    found = []
    for suffix, times in (("", torch.tensor(spec.timesteps)), ("_first_chunk", torch.tensor(spec.levels(0)))):
        output, key = f"denoising_step_list{suffix}", f"warped{suffix}"
        if output in f.outputs:
            found.append(tolerances.compare_largest(output, times, f.outputs[output].float()))
        if key in f.meta:
            found.append(tolerances.compare_largest(f"meta.{key}", times, torch.tensor(f.meta[key])))
    return found


KEYS = specs.KEYS | CALLS | NET
INPUTS = r"noise|context|initial_latent|injected_\d+|denoising_step_list"
SWITCH = names_in_key("switch_frame global_sink context_rows")
SCENES = names_in_key("scene_start_blocks scene_cut_blocks context_rows")
MEMORIES = names_in_key(
    "compression_method ema_alpha_long ema_alpha_short ema_adaptive memory_frames recent_size use_block_rope"
)
SINK = names_in_key(
    "shared_noise pingpong_frames pingpong_slots sink_writes.written_after_chunk sink_writes.at_frames "
    "sink_writes.shown_frames"
)
PARTS = names_in_key("restart_frames restart_overlap parts reencode reencode_formula")
WINDOWS = names_in_key("windows.window windows.start_frame windows.frames windows.t windows.clean_rewrite_frames")

REPLAY: dict[str, Replay] = {
    "self_forcing": Replay(stream, KEYS, INPUTS),
    "causal_forcing": Replay(stream, KEYS, INPUTS),
    "longlive": Replay(stream, KEYS | SWITCH, INPUTS),
    "longlive_slot": Replay(stream, KEYS | SWITCH, INPUTS),
    "infinity_rope": Replay(stream, KEYS | SCENES, INPUTS),
    "reward_forcing": Replay(stream, KEYS | names_in_key("compression_alpha"), INPUTS),
    "rolling_forcing": Replay(stream, KEYS | WINDOWS, r"noise|context|injected_block\d+_step\d+"),
    "memrope": Replay(stream, KEYS | MEMORIES, INPUTS),
    "rolling_sink": Replay(stream, KEYS | SINK, INPUTS),
    "causvid": Replay(stream, KEYS | PARTS, INPUTS),
}
"""All replays, by the fixtures' `system`, which is the name of a file in conf/systems."""
