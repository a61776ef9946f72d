"""Files of sessions hold numbers and texts, and are refused where they do not belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adastate.live.session import Session
from adastate.live.snapshot import Snapshot
from tests.live.conftest import live_model

Make = Callable[..., Session]


@pytest.fixture
def file(session: Make, tmp_path: Path) -> Path:
    one = session()
    for _ in range(5):
        one.step()
    return one.snapshot().save(tmp_path / "kept.safetensors")


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["adastate"])
    tensors = load_file(file)
    change(told, tensors)
    save_file(tensors, file, {"adastate": json.dumps(told)})
    return file


def test_a_file_is_not_larger_than_the_session(session: Make, file: Path) -> None:
    one = session(history=0)
    for _ in range(5):
        one.step()
    assert one.bytes <= file.stat().st_size <= one.bytes + 16_000


def test_it_goes_on_with_its_own_weights_and_stream_alone(session: Make, file: Path) -> None:
    kept = Snapshot.load(file)
    with pytest.raises(ValueError, match="made with other stream: it continues only with those that made it"):
        session(system="longlive").restore(kept)
    other = live_model(actions=4, chunk_frames=1, past_frames=3)
    other.__dict__["fingerprint"] = "another"
    with pytest.raises(ValueError, match="made with other weights"):
        Session(other, "snow").restore(kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda told, tensors: told["state"]["map"].pop("cache"),
        lambda told, tensors: told["state"]["map"]["cache"]["map"].update(window={"tensor": "none"}),
        lambda told, tensors: told["state"]["map"].update(prompt=3),
        lambda told, tensors: told.update(script=[3]),
        lambda told, tensors: told.update(seed="x"),
        lambda told, tensors: told.update(format="adastate session 9"),
        lambda told, tensors: told.update(identity=3),
        lambda told, tensors: tensors.pop(next(iter(tensors))),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(session: Make, file: Path, change: Callable[..., None]) -> None:
    rewritten(file, change)
    one = session()
    with pytest.raises(ValueError, match="snapshot"):
        one.restore(Snapshot.load(file))
    assert one.step().chunk == 0


def test_a_snapshot_of_other_shapes_fails_in_its_own_session_alone(session: Make, file: Path) -> None:
    def shrink(told: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        name = next(n for n in tensors if "window.keys" in n)
        tensors[name] = tensors[name][:, :1].clone()

    one = session()
    with pytest.raises(ValueError, match="this snapshot is damaged"):
        one.restore(Snapshot.load(rewritten(file, shrink)))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04N.", b"x" * 4096])
def test_files_that_are_no_snapshots(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="is not a snapshot of a session"):
        Snapshot.load(tmp_path / "x")
    with pytest.raises(ValueError, match="there is no snapshot"):
        Snapshot.load(tmp_path / "y")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="is not a snapshot of a session"):
        Snapshot.load(tmp_path / "w.safetensors")
