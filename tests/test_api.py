"""What the documents promise of Python: five lines, and everything that the command line can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import adastate
from adastate.live.step import Step
from tests.support.tiny import ROOT

PROMPTS = (
    "flying west over a blue ocean, fast, a red ball bounces",
    "flying north over a pale snow, slow, a white ball bounces",
)


@pytest.fixture(scope="module")
def model() -> adastate.Model:
    return adastate.load()


def pictures(path: Path) -> int:
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def test_a_stream_has_its_length_and_its_states(model: adastate.Model) -> None:
    steps = list(model.stream(PROMPTS[0], seconds=2))
    assert sum(len(step.video) for step in steps) == 18 >= 2 * model.fps
    assert all(step.state is not None and step.state.shape == step.video.shape for step in steps)
    assert {step.video.dtype for step in steps} == {torch.uint8}
    assert [step.chunk for step in steps] == list(range(6))
    assert not torch.equal(steps[-1].video, next(model.stream(PROMPTS[0], seed=1)).video)


def test_a_schedule_turns_the_stream_as_a_session_would(model: adastate.Model) -> None:
    steps = list(model.stream([f"0s: {PROMPTS[0]}", f"1s recache: {PROMPTS[1]}"], seconds=2))
    assert [step.prompt == PROMPTS[1] for step in steps] == [False] * 3 + [True] * 3
    session = model.session(PROMPTS[0])
    for step in steps:
        if step.chunk == 3:
            session.prompt(PROMPTS[1], kind="recache")
        assert torch.equal(session.step().video, step.video)
    assert [r.chunk for step in steps for r in step.receipts] == [3]


def test_files_are_those_of_the_command_line(model: adastate.Model, tmp_path: Path) -> None:
    found = model.generate(PROMPTS, tmp_path / "out", seconds=1, states=True)
    assert [path.parent for path in found] == [tmp_path / "out"] * 2 and [pictures(path) for path in found] == [9, 9]
    Image.new("RGB", (50, 40), "navy").save(tmp_path / "first.png")
    (one,) = model.generate(PROMPTS[0], str(tmp_path / "given"), seconds=1, image=str(tmp_path / "first.png"))
    assert pictures(one) == 12, "what is given stands before"


def test_what_stands_before_a_stream(model: adastate.Model, tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), "navy")
    picture.save(tmp_path / "first.png")
    for image in (picture, tmp_path / "first.png", str(tmp_path / "first.png")):
        first = next(model.stream(PROMPTS[0], image=image))
        red, _, blue = first.video[0].float().mean((0, 1)).tolist()
        assert len(first.video) == 6 and blue > 90 > red


def test_a_snapshot_goes_on_in_another_model(model: adastate.Model, tmp_path: Path) -> None:
    session = model.session(PROMPTS[0])
    for _ in range(6):
        session.step()
    kept = session.snapshot().save(tmp_path / "kept.safetensors")
    assert torch.equal(adastate.load().restore(kept).step().video, session.step().video)


def test_all_systems_run_from_the_same_weights(model: adastate.Model) -> None:
    assert {"adastate", "self_forcing", "rolling_forcing"} <= set(model.systems)
    other = adastate.load(system="longlive")
    assert other.system == "longlive" and next(other.stream(PROMPTS[0])).state is None
    assert torch.equal(next(other.stream(PROMPTS[0])).video, model.session(PROMPTS[0], system="longlive").step().video)


def test_figures(model: adastate.Model) -> None:
    found = model.evaluate(rollouts=2, horizon=1)
    assert [row.name for row in found] == ["student", "real clips"] and 0 <= found[0].figures["heading"] <= 1
    assert [row.name for row in model.evaluate(1, 1, prompts=[PROMPTS[0]])] == ["student"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda m: adastate.load(size="huge"), "no size 'huge'"),
        (lambda m: adastate.load(system="nope"), "no system 'nope'"),
        (lambda m: adastate.load("/none"), "no weights at /none"),
        (lambda m: adastate.load(size="wan_1_3b"), "no student of the size wan_1_3b is bundled"),
        (lambda m: m.stream([]), "a stream has one prompt, or a schedule"),
        (lambda m: m.stream(["a", "b"]), "a stream has one prompt, or a schedule"),
        (lambda m: m.stream("a", seconds=0), "0 seconds is not a length"),
        (lambda m: m.stream("a", actions="left"), "this network cannot be steered"),
        (lambda m: m.stream(["0s: a", "9s: b"], seconds=1), "9s"),
        (lambda m: m.stream("a", image="/none.png"), "there is no picture /none.png"),
        (lambda m: m.generate([], "x"), "no prompt"),
        (lambda m: m.strip([]), "no steps"),
        (lambda m: adastate.load(device="gpu"), "there is no device 'gpu'; say cuda"),
        (lambda m: m.stream(None), "a prompt is a text, or a list of texts, and not None"),
        (lambda m: m.stream([3]), "a prompt is a text, and not 3"),
        (lambda m: m.stream("a", seconds="4"), "'4' seconds is not a length"),
        (lambda m: m.stream("a", seed=1.5), "seed is 1.5: give a whole number"),
        (lambda m: m.stream("a", seed="x"), "seed is 'x': give a whole number"),
        (lambda m: m.stream("a", image=np.zeros((4, 4, 3))), "a picture is the path of a file, or what PIL has opened"),
        (lambda m: m.generate([""], "x"), "a prompt is a text, and not '': describe what to show"),
        (lambda m: m.generate("a", "/dev/null/x"), "cannot write to /dev/null/x (/dev/null is not a folder); give"),
        (lambda m: m.evaluate(rollouts=0), "rollouts is 0: give at least 1"),
        (lambda m: m.evaluate(1, 0), "horizon is 0: give at least 1"),
        (lambda m: m.evaluate(1, 1, prompts=[]), "no prompt: give at least one text"),
        (lambda m: m.session("a", history="x"), "history is 'x': give a whole number"),
        (lambda m: m.session("a", script=[3]), "a script is a list of controls, as Session.script has them, and not 3"),
        (lambda m: m.session("a").rollback(chunks=-1), "chunks is -1: give at least 0"),
        (
            lambda m: m.session("a").snapshot().save("/dev/null/x"),
            "cannot write to /dev/null (/dev/null is not a folder",
        ),
        (lambda m: m.restore("/dev"), "/dev is a folder: give the file of a snapshot"),
    ],
)
def test_wrong_arguments_are_told_at_once(
    model: adastate.Model, wrong: Callable[[adastate.Model], Any], sentence: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(sentence)):
        wrong(model)


def code_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_lines_of_the_readme_and_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page in ("README.md", "docs/guide/python.md"):
        names: dict[str, Any] = {}
        blocks = [code for code in code_of(page) if "runs/tiny" not in code]
        assert blocks, f"{page} has no Python"
        for code in blocks:
            exec(compile(code, page, "exec"), names)
    assert (tmp_path / "kept.safetensors").is_file() and len(names["steps"]) == 3


def test_the_notebook_runs_and_shows_what_it_showed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell; where the last line of one is a picture, one is kept in the file."""
    book = json.loads((ROOT / "docs/guide/quickstart.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    monkeypatch.chdir(tmp_path)
    names, numbers = dict[str, Any](), count(1)
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["execution_count"] == next(numbers), "it was saved after it had been run from the top"
        *lines, last = "".join(cell["source"]).strip().splitlines()
        exec(compile("\n".join(lines), "quickstart.ipynb", "exec"), names)
        shown = eval(last, names) if re.fullmatch(r"[\w.]+(\(.*\))?", last) else exec(last, names)
        kept = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        assert kept == isinstance(shown, Image.Image)
    assert isinstance(names["steps"][0], Step)


def test_a_program_that_runs_alone_is_told_how_it_is_started_as_two() -> None:
    with pytest.raises(ValueError, match="runs as 1 process: start it by `torchrun --nproc-per-node 2 FILE`"):
        adastate.load(sequence_parallel=2)
