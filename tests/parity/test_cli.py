"""`adastate parity`: one line a fixture, and everything that can be wrong with one is told."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adastate.main import main
from adastate.parity.fixture_folders import find_fixtures
from adastate.parity.replay import replay
from adastate.parity.tolerances import Compared, absolute
from adastate.parity.verdict import Verdict
from tests.parity import DATA, load, write

NAME = "B_causal_block3_local6"


def run(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """(exit code, lines)."""
    code = 0
    try:
        main(["parity", str(root)])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().out.splitlines()


def test_fixtures_pass_wherever_they_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(load(NAME), tmp_path / "deep" / "one")
    write(load("D_scheduler_shift5"), tmp_path / "two")
    shutil.copytree(tmp_path / "two", tmp_path / "_passed_over" / "three")
    code, lines = run(tmp_path, capsys)
    assert code == 0
    assert lines[0].startswith("pass  deep/one  ") and lines[0].endswith("(2.0e-05)  flow")
    assert lines[1].startswith("pass  two       ")
    assert lines[2:] == ["2 of 2 fixtures pass"]


def test_a_folder_is_a_fixture_itself(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(DATA / "D_scheduler_shift5", capsys)
    assert code == 0 and lines[0].startswith("pass  D_scheduler_shift5")


def test_every_fixture_of_the_project_is_found() -> None:
    assert {p.name for p in find_fixtures(DATA)} == {p.name for p in DATA.iterdir() if p.is_dir() and p.name[0] != "_"}


def test_without_fixtures_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no fixtures in .*make parity FIXTURES=folder"):
        main(["parity", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"there is no folder .*nowhere"):
        main(["parity", str(tmp_path / "nowhere")])


def test_a_changed_input_fails_and_the_others_still_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f = load(NAME)
    write(f, tmp_path / "a", inputs={"x": f.inputs["x"] + 1e-3})
    write(f, tmp_path / "b")
    code, lines = run(tmp_path, capsys)
    assert code == 1
    assert lines[0].startswith("fail  a  ") and lines[0].endswith("(2.0e-05)  flow")
    assert lines[1].startswith("pass  b  ") and lines[2] == "1 of 2 fixtures pass"


def test_changed_weights_fail_with_and_without_their_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f = load(NAME)
    state = f.net().state_dict()
    state["blocks.1.self_attn.k.weight"] = state["blocks.1.self_attn.k.weight"] * 1.01
    save_file(state, tmp_path / "w.safetensors")
    entry = {**f.meta["weights"]["model"], "file": "../w.safetensors"}
    write(f, tmp_path / "a", {"weights": {"model": entry}})
    write(f, tmp_path / "b", {"weights": {"model": {"file": "../w.safetensors"}}})
    code, lines = run(tmp_path, capsys)
    assert code == 1
    assert "../w.safetensors is not the file of meta.json: sha256" in lines[0]
    assert lines[1].startswith("fail  b") and lines[1].endswith("flow")


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({"sink_size": 3}, "unknown key 'sink_size' of system 'block_causal'"),
        ({"new_switch": True}, "unknown key 'new_switch'"),
        ({"system": "next_forcing"}, "no replay for system 'next_forcing'"),
        ({"system": "gone"}, "meta.json has no 'system'"),
        ({"config": {"dim": 128, "moe": 2}}, "unknown key 'config.moe'"),
        ({"config": {"dim": 128, "qk_norm": False}}, "the config has qk_norm False; only True is supported"),
        ({"config": {"dim": 128}}, "the config has no 'eps'"),
        ({"num_frame_per_block": "gone"}, "meta.json has no 'num_frame_per_block'"),
        ({"num_frame_per_block": 4}, "15 frames do not divide into blocks of 4"),
        ({"weights": {}}, "meta.json has no weights of the model"),
        ({"inputs_file": "../none.safetensors"}, "no file none.safetensors"),
    ],
)
def test_what_is_unknown_or_missing_is_named(
    meta: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    f = load(NAME)
    write(f, tmp_path / "a")
    changed = json.loads((tmp_path / "a" / "meta.json").read_text()) | meta
    (tmp_path / "a" / "meta.json").write_text(json.dumps({k: v for k, v in changed.items() if v != "gone"}))
    code, lines = run(tmp_path, capsys)
    assert code == 1 and lines[0].startswith("fail  a  ") and sentence in lines[0]


@pytest.mark.parametrize("value", [0, 1, 0.5, False, True, None, "", "a whole sentence about the run", [], [1], {}])
def test_an_unknown_key_is_an_error_whatever_its_value(value: Any, tmp_path: Path) -> None:
    f = write(load("D_scheduler_shift5"), tmp_path, {"cut_note": "a remark"})
    assert not [c for c in replay(f) if not c.passed]
    f = write(f, tmp_path, {"new_switch": value})
    with pytest.raises(ValueError, match=r"^unknown key 'new_switch' of system 'flow_match'$"):
        replay(f)


@pytest.mark.parametrize(
    ("name", "key", "named"),
    [
        ("C_sf_nowindow", "calls", "calls.jump"),
        ("C_rolling_4step_5blocks", "windows", "windows.jump"),
        ("E_dmd_default", "args", "args.jump"),
        ("E_dmd_default", "call_kwargs", "call_kwargs.jump"),
        ("B_causal_block3_local6", "config", "config.jump"),
        ("B_causal_block3_local6", "weights", "weights.model.jump"),
    ],
)
def test_so_is_one_within_another(name: str, key: str, named: str, tmp_path: Path) -> None:
    f = load(name)
    inner = copy.deepcopy(write(f, tmp_path).meta[key])
    for part in [inner["model"]] if key == "weights" else inner if isinstance(inner, list) else [inner]:
        part["jump"] = 0
    with pytest.raises(ValueError, match=f"^unknown key '{re.escape(named)}'"):
        replay(write(f, tmp_path, {key: inner}))


@pytest.mark.parametrize(("key", "value"), [("batch", 2), ("latent_hw", [8, 8]), ("frame_seqlen", 16), ("chunks", 4)])
def test_shapes_are_those_of_the_tensors(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=key):
        replay(write(load("C_sf_nowindow"), tmp_path, {key: value}))


def test_tensors_that_nobody_heeds_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f = load(NAME)
    write(f, tmp_path / "a", inputs={"camera": torch.ones(3)})
    write(f, tmp_path / "b", outputs={**f.outputs, "attention": torch.ones(3)})
    _, lines = run(tmp_path, capsys)
    assert "unknown key 'input camera' of system 'block_causal'" in lines[0]
    assert "unknown output 'attention' of system 'block_causal'" in lines[1]


def test_broken_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        write(load(NAME), tmp_path / name)
    (tmp_path / "a" / "outputs.safetensors").unlink()
    (tmp_path / "b" / "inputs.safetensors").write_bytes(b"12345678")
    (tmp_path / "c" / "meta.json").write_text("{")
    write(load(NAME), tmp_path / "d", inputs={"x": torch.zeros(1, 16, 15, 12)})
    write(load(NAME), tmp_path / "e")
    (tmp_path / "e" / "meta.json").unlink()
    code, lines = run(tmp_path, capsys)
    assert code == 1 and lines[-1] == "0 of 5 fixtures pass"
    for line, sentence in zip(
        lines,
        (
            "no file outputs.safetensors in a",
            "inputs.safetensors is not a whole safetensors file",
            "meta.json is not valid JSON",
            "ValueError",
            "no meta.json in",
        ),
        strict=False,
    ):
        assert sentence in line


def test_a_line_tells_the_worst_quantity_and_counts_the_others() -> None:
    bad = [Compared("loss", 1e-4, 1e-5), Compared("flow", 3e-5, 2e-5), Compared("latents", 0.0, 2e-5)]
    assert Verdict("x", bad).line(3) == "fail  x    1.0e-04 (1.0e-05)  loss, and 1 more: flow"
    good = [Compared("latents", 1e-6, 2e-5), Compared("timesteps", 0.0, 0.0)]
    assert Verdict("x", good).line(1) == "pass  x  1.0e-06 (2.0e-05)  latents"


def test_not_a_number_and_a_wrong_shape_are_no_pass() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert not absolute("flow", nan, torch.ones(2)).passed and not absolute("flow", nan, nan).passed
    assert absolute("mask", torch.ones(2), torch.ones(2), 0.0).passed
    with pytest.raises(ValueError, match=r"flow is \(2,\) here, but \(3,\) in the fixture"):
        absolute("flow", torch.ones(2), torch.ones(3))
