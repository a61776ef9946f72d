"""Compares the passes of a replayed stream with those recorded from the reference."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.models.rope import rope_table, rotate
from adastate.models.wan import DiT
from adastate.parity import tolerances
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import names_in_key
from adastate.parity.tolerances import Compared
from adastate.stream import StateCache, StreamSpec
from adastate.stream.cache import PassMemory
from adastate.types import Memory

CALLS = names_in_key(
    "calls.call calls.chunk calls.step calls.part calls.given calls.t calls.frames calls.start_frame "
    "calls.current_start_tokens calls.grad calls.query_positions calls.key_positions calls.key_frames"
)
"""Keys of a recorded pass that are used: two forms, by chunk and step or by its first frame."""


@dataclass(frozen=True)
class RecordedPass:
    """One call of the network.

    Attributes:
        x, t, flow: its input, timesteps `[B, F]` and flow.
        start: index of its first frame since the start of the cache.
        generated: whether it denoises or writes a generated chunk.
        again: whether it encodes frames again.
        grad: whether it has a gradient.
        query_positions, key_positions, key_frames: RoPE indices of queries and of all visible keys, and the frames that
            the keys belong to.
    """

    x: Tensor
    t: Tensor
    flow: Tensor
    start: int
    generated: bool
    again: bool
    grad: bool
    query_positions: list[int]
    key_positions: list[int]
    key_frames: list[int]


class Recorder:
    """A net with a prompt bound; records its passes in a list that several prompts may share."""

    def __init__(self, net: DiT, text: Tensor, passes: list[RecordedPass], cache: StateCache) -> None:
        self.net, self.text, self.passes, self.cache = net, text, passes, cache
        self.given = False

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        out = self.net(x, t, self.text.expand(len(x), -1, -1), memory=memory)
        assert isinstance(memory, PassMemory)
        seen = [
            (frames.source[i], at) for frames, which, ats in memory._context for i, at in zip(which, ats, strict=True)
        ]
        first = self.cache.frames
        self.passes.append(
            RecordedPass(
                x.detach(),
                t,
                out.detach(),
                first,
                not (self.given or memory.recache),
                memory.recache,
                out.requires_grad,
                list(memory.query_positions),
                [at for _, at in seen] + list(memory.key_positions),
                [source for source, _ in seen] + list(range(first, first + x.shape[1])),
            )
        )
        return out


def compare_latents(f: Fixture, made: Tensor, given: Tensor | None) -> list[Compared]:
    expected = f.outputs.get("latents")
    if expected is None:
        return []
    if given is not None and expected.shape[1] == made.shape[1] + given.shape[1]:
        made = torch.cat([given, made], 1)
    return [tolerances.absolute("latents", made, expected)]


def compare_calls(f: Fixture, spec: StreamSpec, passes: list[RecordedPass]) -> list[Compared]:
    """Compares x0 and flow of single passes, and given frames, found by their position in the list of calls."""
    calls: list[dict[str, Any]] = f.meta.get("calls") or []
    if calls and len(calls) != len(passes):
        # Some recorders list only the denoising and clean passes of generated chunks.
        passes = [p for p in passes if p.generated]
    if calls and len(calls) != len(passes):
        raise FixtureError(f"the reference has {len(calls)} passes, the replay {len(passes)}")
    for i, (call, made) in enumerate(zip(calls, passes, strict=False)):
        _check_call(f, i, call, made)
    found = []
    for name, expected in f.outputs.items():
        got = _recorded(name, calls, passes, spec.timestep_shift)
        if got is None:
            continue
        if name.startswith("recache") and got.shape[1] < expected.shape[1]:  # see _check_call
            name, expected = f"{name} (its last {got.shape[1]} frames)", expected[:, -got.shape[1] :]
        found.append(tolerances.absolute(name, got, expected))
    return found


def _recorded(name: str, calls: list[dict[str, Any]], passes: list[RecordedPass], shift: float) -> Tensor | None:
    """The single-pass tensor that the output `name` denotes: flow, x0, or frames given to a part; None if neither."""
    pairs = list(zip(calls, passes, strict=False))
    if match := re.fullmatch(r"given_part(\d+)", name):
        chosen = [p for c, p in pairs if c.get("given") and c.get("part") == int(match[1])]
    elif match := re.fullmatch(r"chunk(\d+)_call(\d+)_(x0|flow)", name):
        chosen = [p for c, p in pairs if (c.get("chunk"), c.get("step")) == (int(match[1]), int(match[2]))]
    elif match := re.fullmatch(r"recache_call(\d+)_(x0|flow)", name):
        chosen = [p for _, p in pairs[int(match[1]) :][:1] if p.again]
    else:
        return None
    if not chosen:
        raise FixtureError(f"the list of calls does not contain {name}")
    if name.startswith("given"):
        return torch.cat([p.x for p in chosen], 1)
    made = chosen[0]
    return made.flow if name.endswith("flow") else flow.to_x0(made.x, made.flow, made.t, shift)


def _check_call(f: Fixture, i: int, call: dict[str, Any], made: RecordedPass) -> None:
    """Raises FixtureError if a pass differs from the recorded one.

    At a prompt switch the reference also encodes frames again that have no room, and then neither keeps nor sees them.
    Here they are left out, so such a pass is the last part of the reference's.
    """
    frames = call.get("frames", made.x.shape[1])
    left_out = frames - made.x.shape[1] if made.again and frames > made.x.shape[1] else 0
    start = call.get("start_frame")
    if "current_start_tokens" in call:
        start = call["current_start_tokens"] // f.setting("frame_seqlen")
    ours: dict[str, Any] = {
        "frames": frames if left_out else made.x.shape[1],
        "start": made.start - left_out,
        "query_positions": made.query_positions,
        "key_positions": sorted(made.key_positions),
        "key_frames": sorted(made.key_frames),
    }
    theirs = {"frames": frames, "start": start}
    theirs |= {key: sorted(call[key]) for key in ("query_positions", "key_positions", "key_frames") if key in call}
    for key, value in theirs.items():
        if value is not None and value != ours[key]:
            raise FixtureError(f"pass {i} has {key} {ours[key]} here, but {value} in the reference")
    levels, expected = (sorted({round(t, 2) for t in some}) for some in (made.t[0].tolist(), call["t"]))
    if len(levels) != len(expected) or any(abs(a - b) >= 0.02 for a, b in zip(levels, expected, strict=True)):
        raise FixtureError(f"pass {i} is at {levels} here, but at {expected} in the reference")


def compare_windows(f: Fixture, spec: StreamSpec, passes: list[RecordedPass]) -> list[Compared]:
    """Compares x0 of the joint passes of a staircase."""
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


def compare_sink_writes(f: Fixture, spec: StreamSpec) -> list[Compared]:
    """Compares which of the first frames replace later ones with the reference's own record."""
    shown_by = spec.anchor_kind.positions
    for write in f.meta.get("sink_writes") or []:
        if shown_by is None:
            raise FixtureError("sink_writes needs a sink that shows only part of its frames, but this one shows all")
        last = max(write["at_frames"])
        which, places = shown_by(spec, spec.state_frames, spec.past_frames or 0, last + 1 + (spec.past_frames or 0))
        shows = dict(zip(places, which, strict=True))
        ours = [shows.get(at) for at in write["at_frames"]]
        if ours != write["shown_frames"]:
            raise FixtureError(
                f"frames {write['at_frames']} are shown as {ours} here, but as {write['shown_frames']} in the reference"
            )
    return []


def compare_cache(f: Fixture, cache: StateCache) -> list[Compared]:
    """Compares final keys and values, as seen and left by the last clean pass.

    A sink in ping-pong order is rewritten after that pass, so there the next pass is compared, as far back as it sees;
    the reference still holds what precedes that.
    """
    wanted = {n: m for n in f.outputs if (m := re.fullmatch(r"final_kv_layer(\d+)_([kv])", n))}
    if not wanted:
        return []
    walks = cache.spec.anchor_kind.positions is not None
    view = cache.view(cache.spec.chunk_frames, 0) if walks else cache.latest
    assert view is not None
    found = []
    for name, match in wanted.items():
        parts = _held(f, view, int(match[1]), match[2], own=not walks)
        theirs = f.outputs[name].unflatten(1, (-1, f.setting("frame_seqlen")))
        anchor = len(view.places.anchor_frames)
        newest = sum(part.shape[1] for part in parts) - anchor
        first = theirs.shape[1] - newest - anchor if walks else 0
        rows = [*range(first, first + anchor), *range(theirs.shape[1] - newest, theirs.shape[1])]
        found.append(tolerances.absolute(name, torch.cat(parts, 1), theirs[:, rows]))
    return found


def _held(f: Fixture, view: PassMemory, layer: int, kind: str, own: bool) -> list[Tensor]:
    """Keys or values `[B, F, L, N, K]` that a pass saw, and its own, rotated if the reference stores them rotated."""
    tokens = f.setting("frame_seqlen")
    parts = [(frames.take(layer, which), at) for frames, which, at in view._context]
    if own:
        parts.append((view._staged[layer], view.key_positions))
    held = []
    for i, (pair, at) in enumerate(parts):
        x = pair[kind == "v"].unflatten(1, (-1, tokens))
        frames = _rotated(f, x.shape[1], anchor=i == 0 and bool(view.places.anchor_frames)) if kind == "k" else 0
        if frames:
            height, width = (n // 2 for n in f.input("noise").shape[-2:])
            table = rope_table(tuple(at[:frames]), height, width, x.shape[-1], f.size.rope_max_frames, x.device)
            x = torch.cat([rotate(x[:, :frames].flatten(1, 2), table).unflatten(1, (-1, tokens)), x[:, frames:]], 1)
        held.append(x)
    return held


def _rotated(f: Fixture, frames: int, anchor: bool) -> int:
    """How many of the first of these frames have their keys stored rotated in the reference."""
    system = f.setting("system")
    if system in ("self_forcing", "causal_forcing", "longlive", "rolling_sink", "causvid"):
        return frames
    if system == "rolling_forcing":
        return 0 if anchor else frames
    return 1 if system == "infinity_rope" and anchor else 0
