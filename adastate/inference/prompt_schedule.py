"""A schedule of prompts for one stream: "0s: a red ball", "10s: ...", "20s cut reset: ...".

Between the time and the colon may stand what becomes of the cache, a kind of Switch, and `reset`, which drops the
anchor, a state too; it is kept otherwise. Without a kind the stream's own switch holds.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from adastate.stream import Switch

KINDS = ("keep", "recache", "flush", "cut")
RESET = "reset"
MARKER = re.compile(r"\s*(-?\d+(?:\.\d*)?)\s*s((?:\s+[^\W\d_]+)*)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True)
class PromptCue:
    """A prompt and its time.

    Attributes:
        at: what stands before the colon, as it was written.
        seconds: from the first generated picture on.
        kind: of the switch; None takes the stream's own.
        reset: whether the anchor begins anew.
    """

    at: str
    seconds: float
    prompt: str
    kind: str | None = None
    reset: bool = False

    def switch(self, own: Switch) -> Switch | None:
        """The switch of this cue in a stream whose own is `own`; None where nothing else is asked for."""
        if self.kind is None:
            return replace(own, anchor="reset") if self.reset else None
        kind: Any = self.kind
        # counts that belong to another kind mean nothing to this one
        base = own if own.kind == self.kind else Switch(kind=kind)
        return replace(base, anchor="reset" if self.reset else "keep")


def parse(prompts: Sequence[str]) -> list[PromptCue] | None:
    """The cues of a schedule; None if no prompt has a time. ValueError if only some have, or the times do not rise."""
    matches = [MARKER.fullmatch(prompt) for prompt in prompts]
    timed = next((m for m in matches if m), None)
    if timed is None:
        return None
    cues = []
    for prompt, match in zip(prompts, matches, strict=True):
        if match is None:
            raise ValueError(
                f"the prompt {_short(prompt)!r} has no time, but {_short(timed[0])!r} has: either all are turns of one "
                "stream ('0s: ...', '10s cut: ...'), or none is"
            )
        cues.append(_cue(match))
    if cues[0].seconds != 0:
        raise ValueError(
            f"the first prompt begins at {cues[0].seconds:g}s: a stream needs one from its beginning, '0s: ...'"
        )
    if cues[0].kind or cues[0].reset:
        raise ValueError(f"nothing comes before {cues[0].at!r}: the first prompt takes no switch, write '0s: ...'")
    for before, after in pairwise(cues):
        if after.seconds <= before.seconds:
            raise ValueError(f"{after.seconds:g}s stands after {before.seconds:g}s: the times of the prompts must rise")
    return cues


def place(cues: Sequence[PromptCue], starts: Sequence[float], seconds: float) -> dict[int, PromptCue]:
    """The cues after the first, by the chunk with which they begin: the first that starts at their time or later.

    Args:
        starts: second at which every chunk of the stream starts.
        seconds: length that was asked for.
    """
    chunks: dict[int, PromptCue] = {}
    for cue in cues[1:]:
        if cue.seconds >= seconds:
            raise ValueError(f"the prompt at {cue.seconds:g}s comes after the end: the stream has {seconds:g} seconds")
        chunk = bisect_left(starts, cue.seconds - 1e-6)
        if chunk == len(starts):
            raise ValueError(
                f"no chunk starts at {cue.seconds:g}s or later: the last of the {seconds:g} seconds starts at "
                f"{starts[-1]:.4g}s"
            )
        if chunk in chunks:
            raise ValueError(
                f"{chunks[chunk].seconds:g}s and {cue.seconds:g}s fall to the same chunk, which starts at "
                f"{starts[chunk]:.4g}s: a chunk has one prompt"
            )
        chunks[chunk] = cue
    return chunks


def _cue(match: re.Match[str]) -> PromptCue:
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
    return PromptCue(at, float(match[1]), prompt, kinds[0] if kinds else None, RESET in words)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
