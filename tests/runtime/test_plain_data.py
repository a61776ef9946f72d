"""Archives of arrays and of torch: no more is unpacked than they may hold, no shape believed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from adastate.runtime import plain_data
from adastate.runtime.file_kind import NoWeightsError, kind
from tests.support.hostile_shards import array


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(2, 3), y=np.array(3))
    found = plain_data.load_npz(tmp_path / "a.npz")
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["y"] == 3


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    np.save(out, np.zeros(2**20))
    monkeypatch.setattr(plain_data, "MOST_UNPACKED", 2**23)
    path = archive(tmp_path / "a.npz", x=out.getvalue())
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="unpacks to more than 8 MB"):
        plain_data.load_npz(path)


@pytest.mark.parametrize(
    "data", [array("'<f2'", "(1000000, 1000000)"), array("'|O'", "(1,)", b"\0" * 8), b"", b"\x93NUMPY\x07\x00"]
)
def test_an_array_that_lies_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.npz is no whole file of arrays"):
        plain_data.load_npz(archive(tmp_path / "a.npz", x=data))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"b\.npz is no whole file of arrays"):
        plain_data.load_npz(tmp_path / "b.npz")


def test_a_packed_file_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2**16)}, tmp_path / "a.pt")
    assert kind(tmp_path / "a.pt") == "torch"
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(NoWeightsError, match=r"is packed, .* which no PyTorch file is"):
        kind(tmp_path / "b.pt")
