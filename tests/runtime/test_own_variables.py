"""A variable of the environment that is misspelt is not passed over in silence."""

from __future__ import annotations

import re
from pathlib import Path

from adastate.runtime.own_variables import KNOWN, misspelt_variables

ROOT = Path(__file__).parents[2]


def test_the_nearest_variable_is_named() -> None:
    told = misspelt_variables({"ADASTATE_TRUSTCODE": "1", "ADASTATE_MINE": "1", "HOME": "/", KNOWN[0]: "x"})
    assert told == "the environment has ADASTATE_TRUSTCODE, which nothing reads: did you mean ADASTATE_TRUST_CODE?"


def test_those_that_are_read_are_known() -> None:
    files = [*(ROOT / "adastate").rglob("*.py"), ROOT / "conf/slurm.sh"]
    assert {name for file in files for name in re.findall(r"\bADASTATE_[A-Z_]+\b", file.read_text())} == {*KNOWN}
