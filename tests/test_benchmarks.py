"""Benchmarks run: what they measure is for docs/results, that they still can is for here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import faults, growth, live_sessions, mutants, replay_memory, stage_table, stream, training
from benchmarks.shapes import SHAPES

ROOT = Path(__file__).parents[1]
TINY = replay_memory.SIZES["tiny"]


@pytest.mark.slow
def test_replay_takes_less_memory_than_the_whole_graph(tmp_path: Path) -> None:
    ways = {way: {n: replay_memory.measure_replay(*TINY, n, way) for n in (1, 3)} for way in ("plain", "replay")}
    assert ways["replay"][3] < 0.7 * ways["plain"][3] and ways["plain"][3] > 2 * ways["plain"][1]
    replay_memory.draw_memory(
        {"tiny": {way: {str(n): b for n, b in found.items()} for way, found in ways.items()}}, tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").is_file()


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    found = growth.growth(8, tmp_path / "growth.png")
    sizes = [made["bytes"] for made in found["past_frames"].values()]
    assert sizes == sorted(sizes) and (tmp_path / "growth.png").is_file()


def test_all_variants_of_a_stream_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", replace(SHAPES["tiny"], chunks=4))
    rows = stream.measure_stream("tiny", "self_forcing, window 6", [torch.float32], ["eager"], False, 1, "cpu")
    assert [r.variant for r in rows] == ["plain float32", "simple float32", "eager float32"]
    assert max(r.off for r in rows) < 1e-4 and stream.stream_table(rows, "").row_count == 3


@pytest.mark.slow
def test_both_sides_of_a_training_step_have_the_same_gradient() -> None:
    rows = training.measure_steps(torch.float32, 1, "cpu")
    assert training.faults_of_steps(rows)[1] == [] and training.steps_table(rows, "").row_count == 4


def test_sessions_are_measured_in_one_pass_and_one_by_one() -> None:
    model = live_sessions.load_live()
    (row,) = live_sessions.stepped(model, [2], 1)
    held = live_sessions.flat(model, 4, history=2)
    assert row.sessions == 2 and row.pictures_s > 0 and held["early"] == held["late"] == held["computed"]
    served = live_sessions.Served(2, 1.0, 8.0, (1.0, 2.0), 0, 9, 300.0, 1, 1.5)
    found = {"pictures_s_wanted": 8, "ready_s": 1.0, "served": [vars(served)], "stepped": [vars(row)], "flat": held}
    assert len(live_sessions.session_tables(found, "")) == 4 and live_sessions.faults_of_sessions(found) == []


def test_every_step_of_the_table_of_stages_comes_after_what_it_needs(tmp_path: Path) -> None:
    steps = stage_table.steps(tmp_path / "base", tmp_path / "out", 2, 2, 2)
    before = set[tuple[str, str]]()
    for step in steps:
        assert step.key not in before and before.issuperset(step.needs), step
        before.add(step.key)
    assert len(list(stage_table.table_lines(tmp_path / "out", steps))) == 2, "nothing is done yet"


@pytest.mark.parametrize("path", faults.TESTS.values())
def test_the_tests_of_faults_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


TOY = """def capped(x: int, most: int = 9) -> int:
    if x > most:
        return most
    return x


def told(x: int) -> str:
    return f"{x + 1}"
"""
TOY_TESTS = (
    "from toy.cap import capped\n\n\ndef test_capped():\n    assert [capped(x) for x in (3, 9, 12)] == [3, 9, 9]\n"
)


def test_every_mutant_is_another_program() -> None:
    source = (ROOT / "adastate/stream/cache.py").read_text()
    found = mutants.planted("cache.py", source)
    assert len({m.source(source) for m in found} | {source}) == len(found) + 1
    for mutant in found:
        compile(mutant.source(source), "mutant", "exec")
    assert {"comparison", "arithmetic", "boolean", "statement", "slice", "swapped arguments"} < {m.kind for m in found}


def test_mutants_die_where_a_test_tells_them_apart(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir(), (tmp_path / "checks").mkdir()
    (tmp_path / "toy/cap.py").write_text(TOY), (tmp_path / "checks/test_cap.py").write_text(TOY_TESTS)
    (tmp_path / "same.txt").write_text("toy/cap.py\n- if x > most:\n+ if (x >= most):\nboth are most\n")
    program = f"""
import sys
from pathlib import Path
from benchmarks import mutate
mutate.ROOT, mutate.EQUIVALENT = Path({str(tmp_path)!r}), Path("same.txt")
mutate.HEART, mutate.TESTS, mutate.COPIED, mutate.WARM = ("toy",), ("checks",), ("toy", "checks"), ()
sys.exit(mutate.main(["--out", "out"]))
"""
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "1 of 1 killed (100.0%); 1 more change nothing" in made.stdout, made.stdout + made.stderr
    assert made.returncode == 0 and (tmp_path / "toy/cap.py").read_text() == TOY
