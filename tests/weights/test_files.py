"""Files: what is written is what safetensors reads, whole or not at all; nothing in a pickle runs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adastate.weights.files import DIGEST, StoredTensor, WeightsError, open_file, read_header, write_safetensors

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor(2.5, dtype=torch.bfloat16),
    "wide": torch.randn(3, 4, dtype=torch.float64),
    "half": torch.randn(5).half(),
    "turned": torch.randn(4, 3).t(),
    "number": torch.tensor([1, 2], dtype=torch.int64),
    "nothing": torch.zeros(0, 3),
    "eight": torch.ones(3, dtype=torch.float8_e4m3fn),
}


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {name: StoredTensor.of(t) for name, t in TENSORS.items()}, {"size": "ü"})
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape, name
        assert torch.equal(read[name].double(), tensor.double()), name
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"size", DIGEST} and read_header(path) == {"size": "ü"}


@pytest.mark.parametrize("name", ["safe.pt", "zip.bin", "legacy.pth"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "safe.pt":
        write_safetensors(path, {"a": StoredTensor.of(TENSORS["b"])}, {})
    else:
        torch.save({"a": TENSORS["b"]}, path, _use_new_zipfile_serialization=name == "zip.bin")
    entries, _ = open_file(path)
    assert torch.equal(entries["a"].read(), TENSORS["b"])


def test_nested_dictionaries_become_dotted_names(tmp_path: Path) -> None:
    torch.save(
        {"g": {"model.x": torch.ones(2)}, "step": 3, "list": [torch.ones(1)], 7: torch.ones(1)}, tmp_path / "x.pt"
    )
    entries, header = open_file(tmp_path / "x.pt")
    assert entries.keys() == {"g.model.x", "7"} and header == {}


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, modern: bool) -> None:
    path, mark = tmp_path / "x.pt", tmp_path / "ran"
    torch.save({"a": torch.ones(2), "b": Harmful(mark)}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match=r"x\.pt is refused: it holds a Python object, \S+, that is not plain data"):
        open_file(path)
    assert not mark.exists()


def test_a_harmless_object_is_named(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(x=1)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"a Python object, argparse.Namespace, .* save its tensors alone"):
        open_file(tmp_path / "x.pt")


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("kept", [0, 100, -300])
def test_a_truncated_torch_file(tmp_path: Path, modern: bool, kept: int) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.randn(100)}, path, _use_new_zipfile_serialization=modern)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"x\.pt is (not a whole PyTorch file .*: copy it again|refused|empty)"):
        open_file(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("hello")
    with pytest.raises(WeightsError, match=r"x\.pt is text \('hello'\) and no weights"):
        open_file(tmp_path / "x.pt")


def test_a_cast_leaves_integers_alone() -> None:
    assert StoredTensor.of(TENSORS["number"]).cast(torch.float16).read().dtype == torch.int64
    assert StoredTensor.of(TENSORS["b"]).cast(torch.float16).read().dtype == torch.float16


def test_a_file_of_ours_that_has_lost_a_bit_is_refused_and_others_have_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    write_safetensors(path, {"a": StoredTensor.of(torch.arange(40.0)), "b": StoredTensor.of(torch.ones(3))}, {"c": "d"})
    entries, header = open_file(path)
    assert header == {"c": "d"} and entries["a"].read().equal(torch.arange(40.0))
    content = path.read_bytes()
    for at in range(len(content) - 160, len(content), 13):
        flipped = bytearray(content)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(WeightsError, match=r"ours.safetensors is damaged: it has other bytes than were written"):
            open_file(path)
    save_file({"a": torch.ones(2)}, path)
    assert open_file(path)[1] == {}
