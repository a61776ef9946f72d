"""Half a line, of a process that was killed, costs itself and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from adastate.runtime import json_lines


@pytest.mark.parametrize("half", [b'{"n": 1, "te', '"caf\u00e9'.encode()[:-1], b"\xff"])
def test_the_record_behind_half_a_line_is_read(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "log.jsonl"
    json_lines.append(path, {"n": 0})
    with path.open("ab") as file:
        file.write(half)
    json_lines.append(path, {"n": 2, "prompt": "a\u2028b"})
    json_lines.append(path, {"n": 3})
    assert [record["n"] for record in json_lines.whole_records(path)] == [0, 2, 3]
    assert not json_lines.whole_records(tmp_path / "none")
