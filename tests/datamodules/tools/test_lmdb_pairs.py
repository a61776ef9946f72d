"""Published pairs are read as they are, and nothing that their files claim is believed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from datamodules.shards.shard_error import ShardError
from datamodules.tools.lmdb_pairs import LmdbPairs
from tests.support.lmdbs import write_pairs

SHAPE = (3, 2, 4, 3, 3)


def test_pairs_come_back_by_their_number(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    told = write_pairs(tmp_path / "a", 4, SHAPE)
    pairs = LmdbPairs(tmp_path / "a")
    assert len(pairs) == 4 and pairs.shape == SHAPE
    found = {n: (latents, prompt) for n, latents, prompt in pairs.rows([1, 3])}
    assert found.keys() == {1, 3}
    for n, (latents, prompt) in found.items():
        assert latents.dtype == torch.float16 and torch.equal(latents.float(), told[n][0]) and prompt == told[n][1]


def test_a_folder_of_several_counts_on(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    told = [*write_pairs(tmp_path / "0", 3, SHAPE), *write_pairs(tmp_path / "1", 2, SHAPE, seed=1)]
    pairs = LmdbPairs(tmp_path)
    assert len(pairs) == 5
    assert all(torch.equal(latents.float(), told[n][0]) for n, latents, _ in pairs.rows(range(5)))
    write_pairs(tmp_path / "2", 1, (4, *SHAPE[1:]))
    with pytest.raises(ShardError, match=r"holds pairs of different shapes: 1 .*; 2 \[4, 2, 4, 3, 3\]"):
        LmdbPairs(tmp_path)


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        ("4 3 2 4 3 9999999999", "not six whole numbers"),
        ("4 3 2 4 3 -3", "not six whole numbers"),
        ("4 3 2 4 3", "not six whole numbers"),
        ("x" * 10_000, "not six whole numbers"),
        ("4 3 2 4 300000 300000", "a pair has at most 2147483648 bytes"),
        ("4 3 2 4 3 0", "latents_shape claims"),
        ("900000 3 2 4 3 3", "claims 900000 pairs, the file has 9 entries"),
        ("4 1 6 4 3 3", "holds clips and no paths"),
        ("", "has no latents_shape"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_before_anything_is_made_of_it(
    tmp_path: Path, claim: str, sentence: str
) -> None:
    pytest.importorskip("lmdb")
    write_pairs(tmp_path / "a", 4, SHAPE, claim)
    with pytest.raises(ShardError, match=sentence):
        LmdbPairs(tmp_path / "a")


def test_pairs_that_are_not_what_the_shape_says(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    write_pairs(tmp_path / "a", 4, SHAPE, "4 3 2 4 3 4")
    with pytest.raises(ShardError, match=r"pair 0 has 432 bytes, its shape \[3, 2, 4, 3, 4\] in float16 has 576"):
        list(LmdbPairs(tmp_path / "a").rows([0]))
    write_pairs(tmp_path / "b", 4, SHAPE)
    with lmdb.open(str(tmp_path / "b"), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"latents_1_data")
        transaction.put(b"prompts_2_data", b"\xff\xfe")
        transaction.put(b"prompts_3_data", b"x" * (1 << 20) + b"x")
    pairs = LmdbPairs(tmp_path / "b")
    for row, sentence in ((1, "has no latents_1_data"), (2, "pair 2 is not utf-8"), (3, "pair 3 has a prompt of")):
        with pytest.raises(ShardError, match=sentence):
            list(pairs.rows([row]))


def test_a_truncated_file_is_told_and_does_not_end_the_process(tmp_path: Path) -> None:
    """A page that is mapped and not there would be a bus error."""
    pytest.importorskip("lmdb")
    write_pairs(tmp_path / "a", 40, SHAPE)
    file = tmp_path / "a" / "data.mdb"
    data = file.read_bytes()
    for left in (len(data) - 4096, len(data) // 2, 8192):
        file.write_bytes(data[:left])
        with pytest.raises(ShardError, match=f"is truncated, {left} of {len(data)} bytes: fetch it again"):
            LmdbPairs(tmp_path / "a")


def test_what_is_no_lmdb_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardError, match="no LMDB at"):
        LmdbPairs(tmp_path)
    pytest.importorskip("lmdb")
    (tmp_path / "data.mdb").write_bytes(b"\0" * 4096)
    with pytest.raises(ShardError, match="cannot be read as an LMDB"):
        LmdbPairs(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ShardError, match=r"needs the package lmdb: pip install -e"):
        LmdbPairs(tmp_path)
