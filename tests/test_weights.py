"""Weights in and out of files: the same again, or a sentence that says what is amiss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adastate.net import DiT
from adastate.weights import load, save
from tests.tiny import SIZE, random_net


@pytest.fixture
def file(tmp_path: Path, net: DiT) -> Path:
    path = tmp_path / "deep" / "net.safetensors"
    save(net, path)
    return path


def test_round_trip(file: Path, net: DiT) -> None:
    other = random_net(seed=5)
    assert not torch.equal(other.head.head.weight, net.head.head.weight)
    load(other, str(file))
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert [p.name for p in file.parent.iterdir()] == [file.name], "nothing half-written is left behind"


def test_half_precision(tmp_path: Path, net: DiT) -> None:
    save(net, tmp_path / "half.safetensors", half=True)
    other = random_net(seed=5)
    load(other, str(tmp_path / "half.safetensors"))
    assert {v.dtype for v in other.state_dict().values()} == {torch.float32}
    assert torch.allclose(other.head.head.weight, net.head.head.weight, atol=1e-3)


def test_names_are_wan_s(file: Path) -> None:
    names = load_file(file).keys()
    assert {
        "patch_embedding.weight",
        "blocks.1.self_attn.norm_q.weight",
        "head.modulation",
        "time_projection.1.bias",
    } <= names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 32}, "width 64 in the file, 32 here"),
        ({"layers": 3}, "layers 2 in the file, 3 here"),
        ({"heads": 2}, "heads 4 in the file, 2 here"),
        ({"patch": (1, 1, 1)}, r"patch \[1, 2, 2\] in the file, \[1, 1, 1\] here"),
    ],
)
def test_another_size_names_both(file: Path, change: dict[str, int], sentence: str) -> None:
    """Heads shape no weight: only the header tells."""
    with pytest.raises(ValueError, match=f"{file.name} holds a network of another size: .*{sentence}.*conf/sizes"):
        load(DiT(replace(SIZE, **change)), str(file))


def test_what_shapes_no_weight_may_differ(file: Path, net: DiT) -> None:
    other = DiT(replace(SIZE, rope_rows=8192, text_tokens=9))
    load(other, str(file))
    assert torch.equal(other.head.head.weight, net.head.head.weight)


def test_a_foreign_file_is_checked_tensor_by_tensor(tmp_path: Path, net: DiT) -> None:
    """Without our header, as Wan's own files come."""
    path, state = tmp_path / "foreign.safetensors", {k: v.clone() for k, v in net.state_dict().items()}
    save_file(state, path)
    load(random_net(seed=5), str(path))
    state["head.head.weight"] = torch.zeros(3, 64)
    state["extra"] = state.pop("head.modulation")
    save_file(state, path)
    with pytest.raises(ValueError, match="does not fit") as error:
        load(random_net(seed=5), str(path))
    for part in (
        "head.head.weight (3, 64) in the file, (16, 64) here",
        "1 missing (head.modulation)",
        "1 unexpected (extra)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"net.safetensors is not a whole safetensors file .*: copy or train it again"):
        load(random_net(), str(file))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone.safetensors; give a .safetensors file or train"):
        load(random_net(), str(tmp_path / "gone.safetensors"))


def test_a_failed_load_changes_nothing(file: Path) -> None:
    other = DiT(replace(SIZE, layers=3))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match="another size"):
        load(other, str(file))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
