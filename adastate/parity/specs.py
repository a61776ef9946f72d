"""A fixture's settings as a stream: that of its system in conf/systems, with the fixture's changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adastate.config.systems import read_system
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import names_in_key
from adastate.stream import StreamSpec

KEYS = names_in_key(
    "local_attn_size sink_size num_frame_per_block chunks shift denoising_step_list_raw "
    "denoising_step_list_first_chunk_raw warp_denoising_step context_noise independent_first_frame rope_rows "
    "kv_cache_tokens max_attention_tokens warped warped_first_chunk"
)
"""Keys that every system uses; some have more of their own."""

LONGEST = 21
"""Frames that the public code reserves if no window is set."""


def spec_of(f: Fixture, **changes: Any) -> StreamSpec:
    """The system's own stream, with the fixture's keys and `changes` applied."""
    base = read_system(f.setting("system"), f.setting("num_frame_per_block", 3)).spec
    steps = f.setting("denoising_step_list_raw", base.denoising_steps)
    settings: dict[str, Any] = {
        "denoising_steps": steps,
        "first_chunk_denoising_steps": f.setting("denoising_step_list_first_chunk_raw", None) or (),
        "steps_are_unshifted": f.setting("warp_denoising_step", base.steps_are_unshifted),
        "timestep_shift": float(f.setting("shift", base.timestep_shift)),
        "context_noise": float(f.setting("context_noise", 0)),
        "first_chunk_frames": 1 if _begins_with_one(f, base.chunk_frames) else None,
        **OWN.get(f.setting("system"), _windowed)(f, base),
    }
    try:
        return replace(base, **{**settings, **changes})
    except ValueError as error:
        raise FixtureError(f"these settings are not a valid stream: {error}") from error


def _begins_with_one(f: Fixture, chunk: int) -> bool:
    if "initial_latent" in f.inputs or chunk == 1:
        return False
    frames = f.input("noise").shape[1] if "noise" in f.inputs else 0
    return bool(f.setting("independent_first_frame", frames % chunk == 1))


def _windowed(f: Fixture, base: StreamSpec) -> dict[str, Any]:
    """Sink and window; the reference's window counts sink, memories and the current chunk."""
    sink, memories = f.setting("sink_size", base.state_frames), base.anchor_frames - base.state_frames
    anchor, decay = base.anchor, base.decay
    if base.anchor == "ema":
        decay = (f.setting("compression_alpha", base.decay[0]),)
    if base.anchor == "dual_ema":
        decay, anchor, memories = _memories(f, base)
    if not sink and not memories:
        anchor, decay = "none", ()
    elif anchor == "none":
        anchor = "static"
    window = f.setting("local_attn_size", base.window_frames)
    past = window - sink - memories - base.chunk_frames
    if window == -1:  # nothing leaves the window, even if an anchor would absorb it
        past = base.chunk_frames * -(-LONGEST // base.chunk_frames)
    return {"anchor": anchor, "state_frames": sink, "decay": decay, "past_frames": past}


def _memories(f: Fixture, base: StreamSpec) -> tuple[tuple[float, ...], str, int]:
    """(decays, anchor, frames of memory) of MemRoPE; the reference gives the new frame's weight, not the old one's."""
    for key, value in (("memory_frames", 2), ("use_block_rope", True), ("ema_adaptive", False)):
        if f.setting(key, value) != value:
            raise FixtureError(f"{key} is {f.meta[key]!r}; only {value!r} is supported")
    method = f.setting("compression_method", "ema")
    if method not in ("ema", "eviction"):
        raise FixtureError(f"compression_method is {method!r}; only 'ema' and 'eviction' are supported")
    if method == "eviction":
        return (), "static", 0
    new = [f.setting(f"ema_alpha_{which}", 1 - old) for which, old in zip(("long", "short"), base.decay, strict=True)]
    return tuple(1 - alpha for alpha in new), base.anchor, 2


def _rolling(f: Fixture, base: StreamSpec) -> dict[str, Any]:
    """The first block is the anchor, whatever `sink_size` says; cache and view are given in tokens."""
    chunk, tokens = base.chunk_frames, f.setting("frame_seqlen")
    kept = f.setting("kv_cache_tokens", (LONGEST + chunk) * tokens) // tokens
    return {
        "state_frames": chunk,
        "past_frames": kept - 2 * chunk,
        "attention_frames": f.setting("max_attention_tokens", LONGEST * tokens) // tokens,
    }


def _rolling_sink(f: Fixture, base: StreamSpec) -> dict[str, Any]:
    window = f.setting("local_attn_size", LONGEST)
    window = LONGEST if window == -1 else window
    slots = f.setting("pingpong_slots", window - 2 * base.chunk_frames)
    return {
        "shared_noise": f.setting("shared_noise", base.shared_noise),
        "state_frames": f.setting("pingpong_frames", window - base.chunk_frames),
        "pingpong_slots": slots,
        "past_frames": window - slots - base.chunk_frames,
    }


def _causvid(f: Fixture, base: StreamSpec) -> dict[str, Any]:
    """Nothing leaves the window within a part."""
    frames = f.setting("restart_frames", base.restart_frames)
    return {
        "restart_frames": frames,
        "restart_overlap": f.setting("restart_overlap", base.restart_overlap),
        "past_frames": frames - base.chunk_frames,
    }


OWN = {"rolling_forcing": _rolling, "rolling_sink": _rolling_sink, "causvid": _causvid}
"""Systems whose anchor and window follow from other keys."""
