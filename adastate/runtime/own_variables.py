"""The environment variables of this project, and those that look like one and are none."""

from __future__ import annotations

from collections.abc import Mapping

from adastate.runtime.spelling import likeliest_word

BEGINNING = "ADASTATE_"

KNOWN = (
    "ADASTATE_LIVE_TOKEN",
    "ADASTATE_TRUST_CODE",
    "ADASTATE_SLURM_LOGS",
    "ADASTATE_PYTHON",
    "ADASTATE_REHEARSE_RAISES",
)
"""What commands read. Others that begin so belong to scripts and tests, or to the user."""


def misspelt_variables(environment: Mapping[str, str]) -> str:
    """A sentence about variables that are probably meant for a command and are not read; empty if there are none."""
    near = {
        name: likeliest_word(name.removeprefix(BEGINNING), [known.removeprefix(BEGINNING) for known in KNOWN], 0.75)
        for name in environment
        if name.startswith(BEGINNING) and name not in KNOWN
    }
    return "; ".join(
        f"the environment has {name}, which nothing reads: did you mean {BEGINNING}{word}?"
        for name, word in near.items()
        if word
    )
