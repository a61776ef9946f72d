"""The names of the built-in worlds."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["plain", "journey", "fog", "circuit", "mist", "flight"]
WORLDS: tuple[Kind, ...] = get_args(Kind)
