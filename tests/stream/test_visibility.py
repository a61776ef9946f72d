"""What each chunk sees: source frame @ RoPE index, after the tables of the public systems and of AdaState.

Context comes from clean passes; a chunk's own frames come last and are given as the query's positions.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import PromptSwitch, StateCache, StreamSpec, SwitchPolicy
from adastate.stream.kv_frames import HIDDEN
from adastate.stream.rollout import rollout
from tests.support.tiny import Drawn, TaggedStudent, read_system, slots, visible


def views(spec: StreamSpec, chunks: int) -> list[list[Any]]:
    """The views of every pass, chunk by chunk; the last of each chunk is the clean pass."""
    student = TaggedStudent()
    list(rollout(student, Drawn(), StateCache(spec), chunks, (1, 1, 1)))
    per = len(spec.timesteps) + 1
    return [student.views[i : i + per] for i in range(0, len(student.views), per)]


ONE_LEVEL = {"denoising_steps": (1000,)}
SLOT: dict[str, Any] = {"position": "slot", "warmup": "growing", **ONE_LEVEL}


class SourceStudent:
    """Every frame is one token: its key is the frame it shows, its value whether a clean pass made it.

    What a pass sees is noted as "frame@index" for its context and its own keys, with the queries' indices.
    """

    def __init__(self, cache: StateCache) -> None:
        self.cache = cache
        self.saw: list[tuple[str, str, str, float]] = []  # context, own, queries, timestep of the first frame

    def __call__(self, x: Tensor, t: Tensor, memory: Any) -> Tensor:
        # What is rotated is kept for the other passes of a chunk, so the place goes into the key itself.
        past = memory.read(0, lambda k, at: k + 1000 * torch.tensor(at, dtype=k.dtype).reshape(1, -1, 1, 1))
        context = []
        if past is not None:
            keys, clean = past[0].flatten().tolist(), past[1].flatten().tolist()
            assert clean == [1.0] * len(keys), "every cached key is a clean pass's"
            context = [f"{round(k % 1000, 3):g}@{int(k // 1000)}" for k in keys]
        rows = torch.arange(x.shape[1], dtype=torch.float64).reshape(1, -1, 1, 1) + self.cache.frames
        own = [f"{k:g}@{at}" for k, at in zip(rows.flatten().tolist(), memory.key_positions, strict=True)]
        queries = " ".join(map(str, memory.query_positions))
        self.saw.append((" ".join(context), " ".join(own), queries, float(t[0, 0])))
        memory.stage(0, rows, torch.full_like(rows, float(t[0, 0] == 0)))
        return torch.zeros_like(x)


def span(first: int, last: int, at: int | None = None) -> str:
    """Frames first..last, at their own indices or from `at` on."""
    return " ".join(f"{s}@{s if at is None else at + s - first}" for s in range(first, last + 1))


def watch(
    system: str, chunks: int, switches: dict[int, SwitchPolicy] | None = None
) -> list[list[tuple[str, str, str, float]]]:
    """Per chunk, what its passes saw; the last of each chunk is the clean pass."""
    spec = replace(
        read_system(system), denoising_steps=(1000, 500), first_chunk_denoising_steps=(), steps_are_unshifted=True
    )
    cache = StateCache(spec)
    student = SourceStudent(cache)
    marks = []
    made = {at: PromptSwitch(student, policy) for at, policy in (switches or {}).items()}
    for _ in rollout(student, Drawn(), cache, chunks, (1, 1, 1), switches=made):
        marks.append(len(student.saw))
    ends = [0, *(m + 1 for m in marks)]  # the clean pass comes after the chunk
    return [student.saw[a:b] for a, b in pairwise(ends)]


SINK = "0@0 1@1 2@2"
# From the design tables: system, chunk, context, own keys, and the queries where they stand elsewhere.
TABLE: list[tuple[str, int, str, str]] = [
    ("self_forcing", 0, "", span(0, 2)),
    ("self_forcing", 6, span(0, 17), span(18, 20)),
    ("self_forcing", 7, span(3, 20), span(21, 23)),
    ("causal_forcing", 7, span(3, 20), span(21, 23)),
    ("causal_forcing_pp", 20, span(0, 19), span(20, 20)),
    ("causal_forcing_pp", 22, span(2, 21), span(22, 22)),
    ("longlive", 1, SINK, span(3, 5)),
    ("longlive", 4, f"{SINK} {span(6, 11)}", span(12, 14)),
    ("longlive", 11, f"{SINK} {span(27, 32)}", span(33, 35)),
    ("longlive_slot", 2, span(0, 5), span(6, 8)),
    ("longlive_slot", 11, f"{SINK} {span(27, 32, 3)}", span(33, 35, 9)),
    ("reward_forcing", 2, span(0, 5), span(6, 8)),
    ("reward_forcing", 3, f"0.003@0 1.003@1 2.003@2 {span(6, 8, 3)}", span(9, 11, 6)),
    ("reward_forcing", 9, f"0.084@0 1.084@1 2.084@2 {span(24, 26, 3)}", span(27, 29, 6)),
    ("infinity_rope", 0, "", span(0, 2)),
    ("infinity_rope", 1, span(0, 2), span(3, 5)),
    ("infinity_rope", 7, f"0@0 {span(19, 20, 1)}", span(21, 23, 3)),
    ("memrope", 3, span(0, 8), span(9, 11)),
    ("memrope", 4, f"{SINK} 6@3 6@4 {span(8, 11, 5)}", span(12, 14, 9)),
    ("memrope", 9, f"{SINK} 6.444@3 9.943@4 {span(23, 26, 5)}", span(27, 29, 9)),
    ("rolling_sink", 7, span(3, 20), span(21, 23)),
    ("rolling_sink", 8, f"{span(6, 17)} 17@18 16@19 15@20 {span(21, 23)}", span(24, 26)),
    (
        "rolling_sink",
        14,
        " ".join(f"{35 - p}@{p}" for p in range(24, 36)) + f" 0@36 1@37 2@38 {span(39, 41)}",
        span(42, 44),
    ),
    ("causvid", 6, span(0, 17), span(18, 20)),
]


@pytest.mark.parametrize(("system", "chunk", "context", "own"), TABLE, ids=[f"{t[0]} {t[1]}" for t in TABLE])
def test_public_systems(system: str, chunk: int, context: str, own: str) -> None:
    """Every pass of a chunk sees the same, the clean one too, and queries stand where their keys do."""
    passes = watch(system, chunk + 1)[chunk]
    assert len(passes) == 3
    for seen, keys, queries, _ in passes:
        assert seen == context
        assert keys == own
        assert queries == " ".join(k.split("@")[1] for k in own.split())


@pytest.mark.parametrize("system", ["longlive_slot", "reward_forcing", "memrope", "adastate"])
@pytest.mark.parametrize("past", [3, 6])
def test_with_fixed_slots_a_chunk_has_its_final_ones_from_the_beginning(system: str, past: int) -> None:
    """The places of an average that is not there yet belong to it: before, they hold the oldest past frames."""
    s = replace(read_system(system), warmup="fixed", past_frames=past, denoising_steps=(1000,))
    first = s.anchor_frames + past
    for seen, _ in views(s, 9):
        assert seen.places.chunk == (first, first + 1, first + 2)
        assert seen.places.past == tuple(range(first - len(seen.places.past), first))
        taken = (*seen.places.anchor, *seen.places.past)
        assert min(taken, default=0) >= 0 and len(set(taken)) == len(taken)


def test_infinity_rope_cut() -> None:
    """The first chunk after the cut stands far away in all its passes; the next one is back."""
    chunks = watch("infinity_rope", 7, {5: SwitchPolicy("cut", 2)})
    for seen, own, queries, _ in chunks[5]:
        assert seen == "0@0 13@1 14@2" and own == span(15, 17, 45) and queries == "45 46 47"
    assert {c[:3] for c in chunks[6]} == {("0@0 16@1 17@2", span(18, 20, 3), "3 4 5")}


def test_infinity_rope_flush_in_a_longer_window() -> None:
    """Two past frames are left; until the window is full again the queries stand where the stream would have them."""
    spec = replace(read_system("infinity_rope"), past_frames=5, denoising_steps=(1000,))
    cache = StateCache(spec)
    student = SourceStudent(cache)
    list(rollout(student, Drawn(), cache, 6, (1, 1, 1), switches={4: PromptSwitch(student)}))
    assert student.saw[2 * 3][:3] == ("0@0 4@1 5@2 6@3 7@4 8@5", span(9, 11, 6), "6 7 8")
    assert student.saw[2 * 4][:3] == ("0@0 10@1 11@2", span(12, 14, 3), "6 7 8")
    assert student.saw[2 * 5][:3] == ("0@0 10@1 11@2 12@3 13@4 14@5", span(15, 17, 6), "6 7 8")


@pytest.mark.parametrize("sink", [1, 2, 3])
def test_infinity_rope_flush_takes_the_last_places_of_the_window(sink: int) -> None:
    """Empty ones before it is full; those of when it last was full after that, whatever has come since."""
    s = replace(read_system("infinity_rope"), state_frames=sink, past_frames=6 - sink, denoising_steps=(1000,))
    cache, student = StateCache(s), TaggedStudent()
    switches = {at: PromptSwitch(student) for at in (1, 4, 5)}
    list(rollout(student, Drawn(), cache, 6, (1, 1, 1), switches=switches))
    contexts = [" ".join(slots(view)) for view in student.views[::2]]
    assert contexts[1] == "0@0 S@1 S@2" and contexts[2] == "0@0 S@1 S@2 3@3 4@4 5@5"
    assert contexts[4] == contexts[5] == "0@0 10@1 11@2"


def test_rolling_forcing() -> None:
    spec = read_system("rolling_forcing")
    cache = StateCache(spec)
    student = SourceStudent(cache)
    list(rollout(student, Drawn(), cache, 18, (1, 1, 1)))
    levels = spec.timesteps
    # the stream fills up: windows of 1..5 chunks from frame 0 on, then one chunk further at each pass
    filling = [saw for saw in student.saw[:5]]
    assert [saw[1] for saw in filling] == [span(0, 3 * n - 1) for n in range(1, 6)]
    assert [saw[0] for saw in filling] == [""] * 5
    denoise, clean = student.saw[4::2], student.saw[5::2]
    by_start = {int(saw[1].split("@")[0]): saw for saw in denoise}
    assert by_start[9][:2] == (f"0@3 1@4 2@5 {span(6, 8)}", span(9, 23))
    assert by_start[27][:2] == (f"0@21 1@22 2@23 {span(24, 26)}", span(27, 41))
    assert all(saw[3] == levels[-1] for saw in denoise), "the first chunk is the cleanest"
    # towards its end the window shrinks, and more of the past comes into view
    assert by_start[45][:2] == (f"0@33 1@34 2@35 {span(36, 44)}", span(45, 53))
    written = {int(saw[1].split("@")[0]): saw for saw in clean}
    assert written[27][:2] == (span(9, 26), span(27, 29)) and written[27][3] == 0
    assert written[6][:2] == (span(0, 5), span(6, 8)), "the anchor at its own place while it is recent"


def test_a_rolling_cache_as_large_as_the_view_keeps_the_anchor_in_it() -> None:
    """The clean pass sees the last 21 frames that are kept: of a cache of 21 all, the anchor at its own place."""
    cache = StateCache(replace(read_system("rolling_forcing"), past_frames=15))
    student = SourceStudent(cache)
    list(rollout(student, Drawn(), cache, 11, (1, 1, 1)))
    written = {int(saw[1].split("@")[0]): saw[:2] for saw in student.saw if saw[3] == 0}
    assert written[27] == (f"{span(0, 2)} {span(12, 26)}", span(27, 29))


def test_causvid_starts_anew_from_three_frames() -> None:
    cache = StateCache(replace(read_system("causvid"), denoising_steps=(1000,), steps_are_unshifted=True))
    student = SourceStudent(cache)
    again = {"reencode": lambda latents, n: latents[:, -n:][:, :1] + 5}
    chunks = list(rollout(student, Drawn(), cache, 9, (1, 1, 1), **again))
    assert [c.start for c in chunks] == [3 * i for i in range(9)]
    assert student.saw[14][:2] == ("", span(0, 2)), "given frames are cached first"
    assert student.saw[15][:2] == (span(0, 2), span(3, 5))
    assert cache.origin == 18 and cache.frames == 9


def test_a_stream_that_starts_anew_again_and_again_counts_its_frames_on() -> None:
    s = replace(
        read_system("causvid"), restart_frames=9, restart_overlap=3, denoising_steps=(1000,), steps_are_unshifted=True
    )
    cache = StateCache(s)
    chunks = list(rollout(TaggedStudent(), Drawn(), cache, 8, (1, 1, 1)))
    assert [(c.index, c.start) for c in chunks] == [(i, 3 * i) for i in range(8)]
    assert (cache.origin, cache.frames) == (18, 6), "three restarts, each from the last three frames"


def test_longlive_recache() -> None:
    """Switch at 12, window 9, sink 3: frames 6-11 are encoded again beside the kept sink, all seeing each other."""
    spec = replace(read_system("longlive"), past_frames=3, denoising_steps=(1000,), switch=SwitchPolicy("recache", 9))
    cache = StateCache(spec)
    student = SourceStudent(cache)
    list(rollout(student, Drawn(), cache, 5, (1, 1, 1), switches={4: PromptSwitch(student)}))
    again, after = student.saw[8], student.saw[9]
    assert again[:2] == (SINK, span(6, 11)) and again[3] == 0
    assert after[:2] == (f"{SINK} {span(9, 11)}", span(12, 14))
    assert cache.chunks == 5 and cache.frames == 15


@pytest.mark.parametrize(("at", "anchor"), [(4, "reset"), (2, "keep")])
def test_longlive_recache_makes_the_sink_anew(at: int, anchor: Any) -> None:
    """Where it is not to be kept, and where the frames that are encoded again reach back to the beginning."""
    spec = replace(read_system("longlive"), past_frames=3, denoising_steps=(1000,))
    cache = StateCache(spec)
    student = SourceStudent(cache)
    switches = {at: PromptSwitch(student, SwitchPolicy("recache", 9, anchor))}
    list(rollout(student, Drawn(), cache, at + 1, (1, 1, 1), switches=switches))
    again, after = student.saw[2 * at], student.saw[2 * at + 1]
    first = max(0, 3 * at - 9)
    assert again[:2] == ("", span(first, 3 * at - 1))
    sink = " ".join(f"{s}@{s}" for s in range(first, first + 3))
    assert after[0] == f"{sink} {span(3 * at - 3, 3 * at - 1)}"


@pytest.mark.parametrize(("anchor", "context"), [("keep", "S 6 7 8"), ("reset", "6 7 8")])
def test_a_state_is_kept_or_begins_anew_at_a_switch(anchor: Any, context: str) -> None:
    for kind in ("keep", "flush", "recache"):
        cache = StateCache(StreamSpec(denoising_steps=(1000,)))
        student = TaggedStudent()
        switch = PromptSwitch(student, SwitchPolicy(kind, 3, anchor))  # type: ignore[arg-type]
        list(rollout(student, Drawn(), cache, 4, (1, 1, 1), switches={3: switch}))
        view = student.views[-2]
        assert " ".join(s.split("@")[0] for s in slots(view)) == context, kind
        assert view.places.past == (1, 2, 3) and view.places.chunk == (4, 5, 6)
        if kind == "recache":
            again = student.views[-3]
            assert again.places.chunk == (1, 2, 3), "at the places of the past"
            assert again.state_queries == 0


def test_a_state_is_kept_by_a_recache_that_reaches_back_to_the_beginning() -> None:
    """Frames are made anew of the first ones; what a state holds is in no frame."""
    cache = StateCache(StreamSpec(denoising_steps=(1000,)))
    student = TaggedStudent()
    list(rollout(student, Drawn(), cache, 2, (1, 1, 1), switches={1: PromptSwitch(student, SwitchPolicy("recache"))}))
    assert slots(student.views[-2]) == ["S@0", "0@1", "1@2", "2@3"]
    assert [view.clean for view in student.views] == [False, True, True, False, True], "the one that makes anew, too"


def test_text_is_the_new_scene_s_from_the_switch_on() -> None:
    """The clean pass before it still has the old prompt; the frames that are encoded again have the new one."""
    cache = StateCache(replace(read_system("longlive"), denoising_steps=(1000,)))
    calls: list[str] = []

    def named(name: str) -> Any:
        student = SourceStudent(cache)
        return lambda x, t, memory: (calls.append(name), student(x, t, memory))[1]

    list(rollout(named("old"), Drawn(), cache, 3, (1, 1, 1), switches={2: PromptSwitch(named("new"))}))
    assert calls == ["old"] * 4 + ["new"] * 3


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
            for source, _, written in visible(view):
                assert written == (chunk - 1 if source == HIDDEN else source // chunk_frames)


def test_a_clean_pass_may_be_barred_from_the_old_state() -> None:
    stream = views(StreamSpec(clean_pass_sees_old_state=False, **ONE_LEVEL), 3)
    denoising, clean = stream[2]
    assert slots(denoising) == ["S@0", "3@1", "4@2", "5@3"]
    assert slots(clean) == ["3@1", "4@2", "5@3"]
    assert clean.query_positions == denoising.query_positions == (0, 4, 5, 6)
    static = views(StreamSpec(clean_pass_sees_old_state=False, anchor="static", **ONE_LEVEL), 3)
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
