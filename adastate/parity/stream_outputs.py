"""What a replayed stream gives, pass by pass, held against what the reference recorded."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.models.rope import rope_table, rotate
from adastate.models.wan import DiT
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.tolerances import Compared
from adastate.stream import StateCache, StreamSpec
from adastate.stream.cache import PassMemory
from adastate.types import Memory

ABSOLUTE = ("self_forcing", "causal_forcing", "longlive", "rolling_forcing")
"""Systems whose cached keys are rotated when they are written."""


@dataclass(frozen=True)
class RecordedPass:
    """One call of the network: its input, timesteps `[B, F]` and flow, and whether it is about a generated chunk."""

    x: Tensor
    t: Tensor
    flow: Tensor
    generated: bool


class Recorder:
    """A net with a prompt bound, noting its passes in a list that several prompts may share."""

    def __init__(self, net: DiT, text: Tensor, passes: list[RecordedPass]) -> None:
        self.net, self.text, self.passes = net, text, passes
        self.given = False

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        out = self.net(x, t, self.text.expand(len(x), -1, -1), memory=memory)
        again = isinstance(memory, PassMemory) and memory.recache
        self.passes.append(RecordedPass(x.detach(), t, out.detach(), not (self.given or again)))
        return out


def compare_latents(f: Fixture, made: Tensor, given: Tensor | None) -> list[Compared]:
    expected = f.outputs.get("latents")
    if expected is None:
        return []
    if given is not None and expected.shape[1] == made.shape[1] + given.shape[1]:
        made = torch.cat([given, made], 1)
    return [tolerances.absolute("latents", made, expected)]


def compare_calls(f: Fixture, spec: StreamSpec, passes: list[RecordedPass]) -> list[Compared]:
    """x0 and flow of single passes, found by their place in the list of calls."""
    named = {n: m for n in f.outputs if (m := re.fullmatch(r"chunk(-?\d+)_call(\d+)_(x0|flow)", n))}
    calls = f.meta.get("calls") or []
    if calls and len(calls) != len(passes):
        # Some recorders list the denoising and clean passes of generated chunks only.
        passes = [p for p in passes if p.generated]
    if calls and len(calls) != len(passes):
        raise FixtureError(f"the reference made {len(calls)} passes, the replay {len(passes)}")
    index: dict[tuple[int, int], RecordedPass] = {}
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
        x0 = flow.to_x0(call_at.x, call_at.flow, call_at.t, spec.timestep_shift)
        found.append(tolerances.absolute(name, call_at.flow if match[3] == "flow" else x0, f.outputs[name]))
    return found


def compare_windows(f: Fixture, spec: StreamSpec, passes: list[RecordedPass]) -> list[Compared]:
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
        got = made.flow if name.endswith("flow") else flow.to_x0(made.x, made.flow, made.t, spec.timestep_shift)
        found.append(tolerances.absolute(name, got, f.outputs[name]))
    return found


def compare_cache(f: Fixture, cache: StateCache) -> list[Compared]:
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
