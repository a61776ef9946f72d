"""Replays of streams: they are the system files' own, and every key says what to run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from adastate.config.systems import read_system
from adastate.parity.replay import replay
from adastate.parity.specs import spec_of
from tests.parity import failed, load, write

CAUSVID, SCENES, SWITCH = "C_causvid_part21_overlap3", "C_infrope_window6_sink1_scenes", "C_longlive_switch12_gsink"
MEMORIES, SINK = "C_memrope_window12_sink3", "C_rolling_sink_window21"


@pytest.mark.parametrize("name", [CAUSVID, SCENES, MEMORIES, SINK])
def test_a_fixture_of_the_published_setting_is_the_system_s_own_stream(name: str) -> None:
    f = load(name)
    assert spec_of(f) == read_system(f.meta["system"], 3).spec


@pytest.mark.parametrize(
    ("name", "meta", "wrong"),
    [
        (SWITCH, {"switch_frame": 10}, set()),  # no chunk begins between 10 and 12
        (SWITCH, {"context_rows": "p0 before, p0 after"}, {"latents"}),
        (SCENES, {"context_rows": [0, 1, 2]}, set()),
        (SCENES, {"context_rows": "p0,p1,p0"}, {"latents", "chunk4_call0_flow"}),
        (CAUSVID, {"reencode_formula": "2 * x - torch.abs(x) * 0 - x"}, set()),
        (CAUSVID, {"reencode_formula": "-0.5 * x"}, {"latents", "given_part1", "chunk7_call0_flow"}),
    ],
)
def test_what_a_key_says_is_run(name: str, meta: dict[str, Any], wrong: set[str], tmp_path: Path) -> None:
    found = failed(replay(write(load(name), tmp_path, meta)))
    assert {c.output for c in found} - {"recache_call20_x0"} == wrong


def changed(name: str, key: str, place: int, inner: str, value: Any) -> dict[str, Any]:
    """One number of a list of meta.json, changed."""
    told = copy.deepcopy(load(name).meta[key])
    told[place][inner] = value
    return {key: told}


@pytest.mark.parametrize(
    ("name", "meta", "sentence"),
    [
        (SWITCH, changed(SWITCH, "calls", 20, "start_frame", 6), "pass 20 has start 3 here, but 6 in the reference"),
        (SWITCH, changed(SWITCH, "calls", 7, "t", [800.0]), r"pass 7 is at \[833.33\] here, but at \[800.0\]"),
        (CAUSVID, changed(CAUSVID, "calls", 4, "key_positions", [0, 1, 2]), "pass 4 has key_positions"),
        (CAUSVID, {"parts": 3}, "there is noise for 2 parts, but 3 are needed"),
        (CAUSVID, {"reencode_formula": "vae(x)"}, r"cannot evaluate 'vae\(x\)'"),
        (SCENES, {"context_rows": "p0,p1,p3"}, "context_rows 'p0,p1,p3' does not assign"),
        (SCENES, {"scene_cut_blocks": [3]}, "a cut at block 3, where no scene begins"),
        (SCENES, {"scene_start_blocks": [0, 2]}, "1 scenes begin after the first, but there are 3 contexts"),
        (MEMORIES, {"memory_frames": 3}, "memory_frames is 3; only 2 is supported"),
        (MEMORIES, {"use_block_rope": False}, "use_block_rope is False"),
        (MEMORIES, {"local_attn_size": 6}, "these settings are not a valid stream"),
    ],
)
def test_what_cannot_be_or_is_not_the_recorded_run_is_told(
    name: str, meta: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        replay(write(load(name), tmp_path, meta))


@pytest.mark.slow
def test_a_sink_shows_what_the_reference_says_it_wrote(tmp_path: Path) -> None:
    meta = changed(SINK, "sink_writes", 1, "shown_frames", [12, 13, 14])
    with pytest.raises(
        ValueError,
        match=r"frames \[21, 22, 23\] are shown as \[14, 13, 12\] here, but as \[12, 13, 14\] in the reference",
    ):
        replay(write(load(SINK), tmp_path, meta))
