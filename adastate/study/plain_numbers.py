"""Numbers for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def six_digits(value: Any) -> Any:
    """The same structure with numbers rounded to six digits and unknown values as None, at any depth."""
    if isinstance(value, Mapping):
        return {k: six_digits(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [six_digits(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
