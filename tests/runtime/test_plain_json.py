"""JSON of others: whatever is wrong with it is one kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest

from adastate.runtime.plain_json import load_json
from adastate.weights import WeightsError
from adastate.weights.files import parse_header

DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["", "{", DEEP, '{"a": ' * 100_000, "9" * 10_000, b"\xff\xfe\xfd"])
def test_what_cannot_be_read_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        load_json(text)


def test_a_header_that_is_nested_too_deep_is_no_header() -> None:
    with pytest.raises(WeightsError, match=r"a\.safetensors has a header whose size cannot be read"):
        parse_header(Path("a.safetensors"), {"size": DEEP})
