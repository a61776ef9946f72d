"""Streams at a time: one of Wan's size, sixteen of the tiny one, and all of them in the end."""

from __future__ import annotations

from adastate.encoders.batching import portions, streams_at_once


def test_sizes() -> None:
    assert streams_at_once((60, 104)) == 1 and streams_at_once((8, 8)) == 16 and streams_at_once((500, 500)) == 1


def test_every_row_is_in_one_portion() -> None:
    for rows in (1, 15, 16, 17, 33):
        assert [row for part in portions(rows, (8, 8)) for row in part] == list(range(rows))
        assert max(map(len, portions(rows, (8, 8)))) <= 16
