"""Outings: a landmark before and after, out of view between, and what perfect, frozen and no memory give on renders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adastate.config.systems import System
from adastate.encoders import ResidualCodec, TinyText
from adastate.evaluation.look_away import (
    AFTER,
    GIVEN,
    Outing,
    outings,
    script,
    standing_still,
    stream_outings,
    turned_head,
)
from adastate.evaluation.look_away_report import RENDER, STILL, compare_memories, memory_row
from adastate.metrics.flight_landmarks import FOUND, spotted
from adastate.metrics.flight_return import HALF_VIEW
from adastate.models.video_network import Size
from adastate.stream import StreamSpec
from adastate.training.student import Student
from datamodules.worlds.flight.camera_path import KEYS, PICTURES
from datamodules.worlds.flight.landmarks import sight
from datamodules.worlds.flight.voxel_render import render_flight

SMALL = Size(16, 1, 2, 16, 32, text_width=64, text_tokens=24, time_embedding_dim=16, actions=8)


@pytest.fixture(scope="module")
def standing() -> list[Outing]:
    return outings(31, 3, 3)


@pytest.fixture(scope="module")
def drifting() -> list[Outing]:
    return outings(31, 3, 6, drifting=True)


def student(spec: StreamSpec | None = None) -> Student:
    torch.manual_seed(0)
    text = TinyText(24, 64)
    return Student(SMALL, ResidualCodec(None), text, spec or StreamSpec(1, 3), (8, 8), 6).eval()


def test_the_script_looks_aside_after_what_is_given_and_returns() -> None:
    keys = script("back", 3, "a")
    aside = keys[:, [KEYS.index(k) for k in "jl"]].all(1)
    assert aside.nonzero()[:, 0].tolist() == [GIVEN, GIVEN + 1, GIVEN + 2]
    assert keys[:, KEYS.index("s")].all() and not keys[:, [KEYS.index(k) for k in "wdik"]].any()
    assert keys[:, KEYS.index("a")].nonzero()[:, 0].tolist() == [GIVEN]
    assert script("left", 1, "")[:, [KEYS.index(k) for k in "ws"]].all()


def test_a_landmark_is_in_view_before_and_after_and_not_between(standing: list[Outing]) -> None:
    assert [task.look for task in standing] == ["left", "right", "back"]
    for task in standing:
        last = GIVEN * PICTURES - 1
        keys = torch.cat([script(task.look, 3, "")[:GIVEN], task.actions])
        keys[:GIVEN, KEYS.index("w")] = 0
        head = turned_head(task.flight, keys, task.poses).abs()
        assert head[: last + 1].max() == 0 and head[task.first :].max() < 1e-6 < head[task.first - 1]
        assert head[last + 1 : task.first].max() > HALF_VIEW and task.hidden > 3
        turned = task.poses[-1, 3] - task.flight.heading
        assert turned.sign() == (-1 if task.actions[0, KEYS.index("a")] else 1) and turned.abs() > 0.1
        assert (spotted(torch.cat([task.given[-1:], task.true])[None]).score > FOUND).all()
        assert "hot-air balloons" in task.prompt
        again = render_flight(task.flight, task.poses[task.first : task.first + AFTER * PICTURES])
        assert (task.true - again).abs().mean() < 1e-4


def test_memories_of_renders(standing: list[Outing]) -> None:
    true = torch.stack([task.true for task in standing])
    bare = torch.stack(
        [
            render_flight(replace(task.flight, landmark="nothing else"), task.poses[task.first : task.first + 6])
            for task in standing
        ]
    )
    frozen = torch.stack([task.given[-1:].expand(6, -1, -1, -1) for task in standing])
    made = {"perfect": true, "none": bare, "frozen": frozen}
    rows = {k: memory_row(k, 3, standing, spotted(v), spotted(true), 8, False) for k, v in made.items()}
    assert rows["perfect"].found.value == 1 and rows["perfect"].bearing.value == rows["perfect"].colour.value == 0
    assert rows["none"].found.value < 0.2 and rows["none"].bearing.value > 25 and rows["none"].colour.value > 0.8
    assert rows["frozen"].found.value == 1 and 8 < rows["frozen"].bearing.value < 25
    assert rows["frozen"].colour.value < 0.2 and rows["perfect"].seconds > 0.4 and rows["none"].gone_on is None


@pytest.mark.slow
def test_a_balloon_that_drifts_has_gone_on_and_a_kept_picture_has_not(drifting: list[Outing]) -> None:
    true = torch.stack([task.true for task in drifting])
    frozen = torch.stack([task.given[-1:].expand(6, -1, -1, -1) for task in drifting])
    rows = [memory_row("", 6, drifting, spotted(v), spotted(true), 8, True).gone_on for v in (true, frozen)]
    assert rows[0] is not None and rows[1] is not None
    assert rows[0].value == 1 and abs(rows[1].value) < 0.4
    for task in drifting:
        assert sight(task.flight, task.poses).colour.tolist() == [4]  # it alone is there


@pytest.mark.slow
def test_what_a_student_shows_is_cut_where_the_camera_is_back(standing: list[Outing]) -> None:
    made = student()
    shown = stream_outings(made, standing, seed=3)
    assert shown.shape == (3, AFTER * PICTURES, 3, 64, 64)
    still = standing_still(made, standing)
    assert torch.equal(still[:, 0], still[:, -1])
    alone = stream_outings(made, standing, replace(made.spec, anchor="none", state_frames=0), seed=3)
    assert not torch.equal(shown, alone)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 3])
def test_figures_and_pictures_are_written(tmp_path: Path, chunk: int) -> None:
    made = student(StreamSpec(chunk, 3))
    systems = [
        System("as trained", "", made.spec),
        System("none", "", replace(made.spec, anchor="none", state_frames=0)),
    ]
    found = compare_memories(made, systems, [1, 3], 3, 31, tmp_path / "memory.json")
    told = json.loads((tmp_path / "memory.json").read_text())
    assert [row["system"] for row in told["rows"]] == [row.system for row in found]
    assert [row.system for row in found] == 2 * [STILL, RENDER, "as trained", "none"]
    assert {p.name for p in tmp_path.iterdir()} == {"memory.json", "memory.png", "memory_examples.png"}
    assert found[4].seconds > found[0].seconds and found[1].bearing.low <= found[1].bearing.value


def test_what_cannot_be_steered_cannot_look_away(tmp_path: Path) -> None:
    made = student()
    made.net.size = replace(SMALL, actions=0)
    with pytest.raises(ValueError, match="cannot be steered"):
        compare_memories(made, [], [1], 1, 0, tmp_path / "x.json")
