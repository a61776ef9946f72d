"""Which rows of a long table `make test` runs; `make test-slow` runs the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(values: Iterable[Any], every: int) -> list[Any]:
    """The first of every `every` values as it is, and the others marked as slow."""
    return [pytest.param(v, marks=pytest.mark.slow if i % every else ()) for i, v in enumerate(values)]
