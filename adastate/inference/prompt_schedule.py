"""A schedule of prompts for one stream: "0s: a red ball", "10s: ...", "20s cut reset: ...".

Between the time and the colon may stand what becomes of the cache, a kind of SwitchPolicy, and `reset`, which drops the
anchor, a state too; it is kept otherwise. Without a kind the stream's own switch holds.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from adastate.stream import SwitchPolicy

KINDS = ("keep", "recache", "flush", "cut")
RESET = "reset"
DECADE = 1000
"""Seconds from which on a first prompt means a decade: no schedule begins so late."""

MARKER = re.compile(r"\s*(-?\d+(?:\.\d*)?)\s*s((?:\s+[^\W\d_]+)*)\s*:(.*)", re.DOTALL)

LOOSE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(?:s|sec|secs|seconds)?\s*(?::|\s)")
"""What a time may look like that is none."""


@dataclass(frozen=True)
class TimedPrompt:
    """A prompt and its time.

    Attributes:
        at: what stands before the colon, as it was written.
        seconds: from the first generated picture on.
        kind: of the switch; None takes the stream's own.
        reset: whether the anchor begins anew.
    """

    at: str
    seconds: float
    text: str
    kind: str | None = None
    reset: bool = False

    def policy(self, own: SwitchPolicy) -> SwitchPolicy | None:
        """What becomes of the cache in a stream whose own policy is `own`; None where nothing else is asked for."""
        if self.kind is None and not self.reset:
            return None
        kind: Any = self.kind
        return own.turned(kind, "reset" if self.reset else "keep")


def parse_prompts(prompts: Sequence[str]) -> list[TimedPrompt] | None:
    """The prompts of a schedule; None if they are no schedule.

    One begins at 0s, so a single prompt with another time, "1980s: a street", one among others without a time, and
    several that name decades are prompts as they stand.

    Raises:
        ValueError: only some have a time, the times do not rise, or all look like times and are none.
    """
    matches = [MARKER.fullmatch(prompt) for prompt in prompts]
    timed = next((m for m in matches if m), None)
    begins = any(m and float(m[1]) == 0 for m in matches)
    decades = all(m and float(m[1]) >= DECADE for m in matches)
    loose = [LOOSE.match(prompt) for prompt in prompts]
    if timed is None and len(prompts) > 1 and loose[0] and float(loose[0][1]) == 0 and None not in loose:
        raise ValueError(f"{_short(prompts[0])!r} begins like a time: write '0s: ...', with an s and a colon")
    if timed is None or (not begins and (len(prompts) == 1 or None in matches or decades)):
        return None
    found = []
    for prompt, match in zip(prompts, matches, strict=True):
        if match is None:
            raise ValueError(
                f"the prompt {_short(prompt)!r} has no time, but {_short(timed[0])!r} has: either all are parts of one "
                "stream ('0s: ...', '10s cut: ...'), or none is"
            )
        found.append(_timed(match))
    if found[0].seconds != 0:
        raise ValueError(
            f"the first prompt begins at {found[0].seconds:g}s: a stream needs one from its beginning, '0s: ...'"
        )
    if found[0].kind or found[0].reset:
        raise ValueError(f"nothing comes before {found[0].at!r}: the first prompt takes no switch, write '0s: ...'")
    for before, after in pairwise(found):
        if after.seconds <= before.seconds:
            raise ValueError(f"{after.seconds:g}s stands after {before.seconds:g}s: the times of the prompts must rise")
    return found


def prompts_by_chunk(timed: Sequence[TimedPrompt], starts: Sequence[float], seconds: float) -> dict[int, TimedPrompt]:
    """The prompts after the first, by the chunk with which they begin: the first that starts at their time or later.

    Args:
        starts: second at which every chunk of the stream starts.
        seconds: length that was asked for.
    """
    check_prompt_times(timed, seconds)
    chunks: dict[int, TimedPrompt] = {}
    for prompt in timed[1:]:
        chunk = bisect_left(starts, prompt.seconds - 1e-6)
        if chunk == len(starts):
            raise ValueError(
                f"no chunk starts at {prompt.seconds:g}s or later: the last of the {seconds:g} seconds starts at "
                f"{starts[-1]:.4g}s"
            )
        if chunk in chunks:
            raise ValueError(
                f"{chunks[chunk].seconds:g}s and {prompt.seconds:g}s fall to the same chunk, which starts at "
                f"{starts[chunk]:.4g}s: a chunk has one prompt"
            )
        chunks[chunk] = prompt
    return chunks


def check_prompt_times(timed: Sequence[TimedPrompt], seconds: float) -> None:
    """Refuses prompts that a stream of this length does not reach.

    Raises:
        ValueError: for the first of them.
    """
    for prompt in timed[1:]:
        if prompt.seconds >= seconds:
            raise ValueError(
                f"the prompt at {prompt.seconds:g}s comes after the end: the stream has {seconds:g} seconds; make it "
                "longer (--seconds), or leave the prompt out"
            )


def _timed(match: re.Match[str]) -> TimedPrompt:
    at = match[0].partition(":")[0].strip()
    words = match[2].lower().split()
    for word in words:
        if word not in (*KINDS, RESET):
            raise ValueError(
                f"{at!r} asks for {word!r}: after a time stands one of {', '.join(KINDS)}, and {RESET} beside it "
                "(a prompt that begins like this goes into a file, --prompts)"
            )
    kinds = [word for word in words if word != RESET]
    if len(kinds) > 1:
        raise ValueError(f"{at!r} asks for {' and '.join(kinds)}: a change of the prompt has one kind")
    prompt = match[3].strip()
    if not prompt:
        raise ValueError(f"{at!r} has no prompt after the colon")
    return TimedPrompt(at, float(match[1]), prompt, kinds[0] if kinds else None, RESET in words)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
