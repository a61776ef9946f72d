"""What each chunk sees: source frame @ RoPE index, after the tables of the public systems and of AdaState.

Context comes from clean passes; a chunk's own frames come last and are given as the query's positions.
"""

from __future__ import annotations

from typing import Any

import pytest

from adastate.stream import StateCache, StreamSpec, rollout
from adastate.stream.frames import HIDDEN
from tests.tiny import Drawn, TaggedStudent, slots

Own = dict[int, list[Any]]


def views(spec: StreamSpec, chunks: int) -> list[list[Any]]:
    """The views of every pass, chunk by chunk; the last of each chunk is the clean pass."""
    student = TaggedStudent()
    list(rollout(student, Drawn(), StateCache(spec), chunks, (1, 1, 1)))
    per = len(spec.timesteps) + 1
    return [student.views[i : i + per] for i in range(0, len(student.views), per)]


def span(source: range, at: range | None = None) -> list[str]:
    return [f"{s}@{p}" for s, p in zip(source, source if at is None else at, strict=True)]


ONE_LEVEL = {"steps": (1000,)}
ABSOLUTE: dict[str, Any] = {"position": "absolute", **ONE_LEVEL}
SLOT: dict[str, Any] = {"position": "slot", "warmup": "growing", **ONE_LEVEL}
TABLES = {
    "Self-Forcing, window 21": (
        {"anchor": "none", "state_frames": 0, "past_frames": 18, **ABSOLUTE},
        {0: ([], range(3)), 6: (span(range(18)), range(18, 21)), 7: (span(range(3, 21)), range(21, 24))},
    ),
    "Self-Forcing, window 21, sink 3": (
        {"anchor": "static", "state_frames": 3, "past_frames": 15, **ABSOLUTE},
        {7: (span(range(3)) + span(range(6, 21)), range(21, 24))},
    ),
    "LongLive 12/3": (
        {"anchor": "static", "state_frames": 3, "past_frames": 6, **ABSOLUTE},
        {
            1: (span(range(3)), range(3, 6)),
            4: (span(range(3)) + span(range(6, 12)), range(12, 15)),
            7: (span(range(3)) + span(range(15, 21)), range(21, 24)),
            11: (span(range(3)) + span(range(27, 33)), range(33, 36)),
        },
    ),
    "LongLive's slots": (
        {"anchor": "static", "state_frames": 3, "past_frames": 6, **SLOT},
        {
            2: (span(range(6)), range(6, 9)),
            11: (span(range(3)) + span(range(27, 33), range(3, 9)), range(9, 12)),
        },
    ),
    "Infinity-RoPE 6/1": (
        {"anchor": "static", "state_frames": 1, "past_frames": 2, **SLOT},
        {
            0: ([], range(3)),
            1: (span(range(3)), range(3, 6)),
            7: (["0@0", "19@1", "20@2"], range(3, 6)),
        },
    ),
}


@pytest.mark.parametrize("system", TABLES)
def test_public_systems(system: str) -> None:
    kwargs, rows = TABLES[system]
    spec = StreamSpec(**kwargs)
    stream = views(spec, 12)
    for chunk, (context, own) in rows.items():
        for view in stream[chunk]:
            assert slots(view) == context, f"chunk {chunk}"
            assert list(view.query_positions) == list(own)
            assert view.visible is None
            assert [w for _, _, w in view.seen] == [s // 3 for s, _, _ in view.seen], (
                "written by its own chunk's clean pass"
            )


ADASTATE: dict[str, tuple[dict[str, Any], dict[int, tuple[str, str, str]]]] = {
    "defaults": (
        {},
        {
            0: ("", "0", "4 5 6"),
            1: ("S@0 0@1 1@2 2@3", "0", "4 5 6"),
            2: ("S@0 3@1 4@2 5@3", "0", "4 5 6"),
            9: ("S@0 24@1 25@2 26@3", "0", "4 5 6"),
        },
    ),
    "F_s = 3, W_p = 6": (
        {"state_frames": 3, "past_frames": 6},
        {
            0: ("", "0 1 2", "9 10 11"),
            1: ("S@0 S@1 S@2 0@6 1@7 2@8", "0 1 2", "9 10 11"),
            2: ("S@0 S@1 S@2 0@3 1@4 2@5 3@6 4@7 5@8", "0 1 2", "9 10 11"),
            9: ("S@0 S@1 S@2 21@3 22@4 23@5 24@6 25@7 26@8", "0 1 2", "9 10 11"),
        },
    ),
    "one frame a chunk": (
        {"chunk_frames": 1},
        {
            0: ("", "0", "4"),
            1: ("S@0 0@3", "0", "4"),
            2: ("S@0 0@2 1@3", "0", "4"),
            3: ("S@0 0@1 1@2 2@3", "0", "4"),
            4: ("S@0 1@1 2@2 3@3", "0", "4"),
        },
    ),
    "a window that is no multiple of the chunk": (
        {"past_frames": 4},
        {1: ("S@0 0@2 1@3 2@4", "0", "5 6 7"), 2: ("S@0 2@1 3@2 4@3 5@4", "0", "5 6 7")},
    ),
    "no past": ({"past_frames": 0}, {0: ("", "0", "1 2 3"), 3: ("S@0", "0", "1 2 3")}),
    "growing": (
        {"warmup": "growing", "past_frames": 6},
        {
            0: ("", "0", "1 2 3"),
            1: ("S@0 0@1 1@2 2@3", "0", "4 5 6"),
            2: ("S@0 0@1 1@2 2@3 3@4 4@5 5@6", "0", "7 8 9"),
            3: ("S@0 3@1 4@2 5@3 6@4 7@5 8@6", "0", "7 8 9"),
        },
    ),
    "state behind the chunk": (
        {"state_position": "behind"},
        {0: ("", "7", "4 5 6"), 2: ("S@0 3@1 4@2 5@3", "7", "4 5 6")},
    ),
    "first frame": (
        {"state_init": "first_frame"},
        {0: ("", "", "4 5 6"), 1: ("0@0 1@2 2@3", "0", "4 5 6"), 2: ("S@0 3@1 4@2 5@3", "0", "4 5 6")},
    ),
    "first three frames, growing": (
        {"state_init": "first_frame", "state_frames": 3, "warmup": "growing"},
        {
            0: ("", "", "0 1 2"),
            1: ("0@0 1@1 2@2", "0 1 2", "3 4 5"),
            2: ("S@0 S@1 S@2 3@3 4@4 5@5", "0 1 2", "6 7 8"),
        },
    ),
}


@pytest.mark.parametrize("name", ADASTATE)
@pytest.mark.parametrize("state_visibility", ["both", "previous", "replace"])
def test_adastate(name: str, state_visibility: Any) -> None:
    """The places do not depend on who sees whom; the clean pass sees what a denoising pass sees."""
    kwargs, rows = ADASTATE[name]
    stream = views(StreamSpec(**kwargs, **ONE_LEVEL, state_visibility=state_visibility), 10)
    for chunk, (context, state, own) in rows.items():
        for view in stream[chunk]:
            assert " ".join(slots(view)) == context, f"chunk {chunk}"
            assert " ".join(map(str, view.places.state)) == state
            assert " ".join(map(str, view.places.chunk)) == own
            assert view.query_positions == view.places.state + view.places.chunk


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_which_pass_wrote_what_a_chunk_sees(chunk_frames: int) -> None:
    """The state always comes from the chunk just before, the past from each frame's own chunk."""
    stream = views(StreamSpec(chunk_frames=chunk_frames, state_frames=2, past_frames=4, **ONE_LEVEL), 8)
    for chunk, passes in enumerate(stream):
        for view in passes:
            for source, _, written in view.seen:
                assert written == (chunk - 1 if source == HIDDEN else source // chunk_frames)


def test_a_clean_pass_may_be_barred_from_the_old_state() -> None:
    stream = views(StreamSpec(clean_sees_old=False, **ONE_LEVEL), 3)
    denoising, clean = stream[2]
    assert slots(denoising) == ["S@0", "3@1", "4@2", "5@3"]
    assert slots(clean) == ["3@1", "4@2", "5@3"]
    assert clean.query_positions == denoising.query_positions == (0, 4, 5, 6)
    static = views(StreamSpec(clean_sees_old=False, anchor="static", **ONE_LEVEL), 3)
    assert slots(static[2][1]) == ["0@0", "3@1", "4@2", "5@3"], "a static anchor is no old state"


MASKS = {  # rows: state, chunk, chunk; columns: old state, past, past, state, chunk, chunk
    "both": None,
    "previous": ["xxxxxx", "xxx.xx", "xxx.xx"],
    "replace": ["xxxxxx", ".xxxxx", ".xxxxx"],
}
FIRST = {"both": None, "previous": ["xxx", ".xx", ".xx"], "replace": ["xxx", "xxx", "xxx"]}


@pytest.mark.parametrize("state_visibility", MASKS)
def test_who_sees_whom(state_visibility: Any) -> None:
    stream = views(StreamSpec(chunk_frames=2, past_frames=2, state_visibility=state_visibility, **ONE_LEVEL), 3)
    for expected, passes in ((FIRST, stream[0]), (MASKS, stream[2])):
        for view in passes:
            rows = None if view.visible is None else ["".join(".x"[seen] for seen in row) for row in view.visible]
            assert rows == expected[state_visibility]


def test_a_static_anchor_fills_up_before_the_window_does() -> None:
    stream = views(StreamSpec(chunk_frames=1, anchor="static", state_frames=2, past_frames=2, **SLOT), 6)
    assert [" ".join(slots(passes[0])) for passes in stream] == [
        "",
        "0@0",
        "0@0 1@1",
        "0@0 1@1 2@2",
        "0@0 1@1 2@2 3@3",
        "0@0 1@1 3@2 4@3",
    ]
    assert [passes[0].query_positions for passes in stream] == [(0,), (1,), (2,), (3,), (4,), (4,)]
