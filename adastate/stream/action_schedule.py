"""How a stream is to be steered, in words: "0s: straight", "2s: left+climb", "4s: look back".

After the time stand words or keys, joined by +. They hold until the next time, and the last ones to the end.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from adastate.runtime.spelling import likeliest_word

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("w", "a", "s", "d", "i", "j", "k", "l")
"""Of the columns of actions, in their order."""

WORDS = {
    "straight": "", "left": "a", "right": "d", "climb": "i", "sink": "k", "faster": "w", "slower": "s", "hover": "ws",
    "look left": "j", "look right": "l", "look back": "jl",
}  # fmt: skip
"""The keys of each word."""

MARKER = re.compile(r"\s*(-?\d+(?:\.\d*)?)\s*s\s*:(.*)", re.DOTALL)


@dataclass(frozen=True)
class ActionCue:
    """Keys, and the time from which they are held, in seconds from the first generated video frame on."""

    seconds: float
    keys: frozenset[str]


def parse_actions(schedule: Sequence[str]) -> list[ActionCue]:
    """The cues of a schedule; one alone needs no time.

    Raises:
        ValueError: a word or a time that is none, times that do not rise, or nothing from the beginning on.
    """
    if len(schedule) == 1 and MARKER.fullmatch(schedule[0]) is None:
        return [ActionCue(0.0, _keys(schedule[0]))]
    cues = []
    for text in schedule:
        match = MARKER.fullmatch(text)
        if match is None:
            raise ValueError(f"the actions {text!r} have no time: write when they begin, '0s: straight', '2s: left'")
        cues.append(ActionCue(float(match[1]), _keys(match[2])))
    if cues and cues[0].seconds != 0:
        raise ValueError(f"the first actions begin at {cues[0].seconds:g}s: a stream needs some from its beginning, 0s")
    for before, after in pairwise(cues):
        if after.seconds <= before.seconds:
            raise ValueError(f"{after.seconds:g}s stands after {before.seconds:g}s: the times of actions must rise")
    return cues


def action_rows(
    cues: Sequence[ActionCue], starts: Sequence[float], columns: int, seconds: float | None = None
) -> Tensor:
    """Actions `[1, F, columns]` of latent frames; each cue begins with the first frame that starts then or later.

    Args:
        starts: second at which each of F frames starts.
        columns: of the network.
        seconds: length that was asked for; without, cues beyond the last frame are left out.

    Raises:
        ValueError: a key that the network has not, a cue after the end, or two for one frame.
    """
    import torch  # of a command line only the words are read

    found, before = torch.zeros(1, len(starts), columns), -1
    for cue in cues:
        at = bisect_left(starts, cue.seconds - 1e-6)
        if at == len(starts) or (seconds is not None and cue.seconds >= seconds):
            if seconds is None:
                break
            raise ValueError(_beyond(cue))
        if at == before:
            raise ValueError(
                f"the actions at {cue.seconds:g}s fall to the same latent frame as those before them, which starts at "
                f"{starts[at]:.4g}s: a frame has one set"
            )
        found[:, at:] = columns_of(cue.keys, columns)
        before = at
    return found


def check_cue_times(cues: Sequence[ActionCue], seconds: float) -> None:
    """Refuses cues that a stream of this length does not reach.

    Raises:
        ValueError: for the first of them.
    """
    for cue in cues:
        if cue.seconds >= seconds:
            raise ValueError(_beyond(cue))


def _beyond(cue: ActionCue) -> str:
    return (
        f"the actions at {cue.seconds:g}s come after the end: no frame begins then or later; make the stream longer "
        "(--seconds), or leave them out"
    )


def columns_of(keys: Iterable[str], columns: int) -> Tensor:
    """Actions `[1, 1, columns]` of keys that are held.

    Raises:
        ValueError: a key that a network of so many columns has not.
    """
    places = [KEYS.index(key) for key in keys]
    if places and max(places) >= columns:
        raise ValueError(
            f"this network is steered by {columns} actions, {', '.join(KEYS[:columns])}, and not by {KEYS[max(places)]}"
        )
    import torch

    found = torch.zeros(1, 1, columns)
    found[..., places] = 1.0
    return found


def held_keys(text: Any) -> str:
    """The keys of KEYS, in its order, that a text asks for: the keys themselves, "ai", or words, "left+climb"."""
    if not isinstance(text, str):
        raise ValueError(f"actions are a text, the keys that are held or words for them, and not {text!r}")
    keys = set(text) if set(text) <= set(KEYS) else _keys(text)
    return "".join(key for key in KEYS if key in keys)


def label(actions: Tensor) -> str:
    """The keys that are held in latent frames `[F, A]`, "ai"; frames that differ one after the other, "a - d"."""
    held = ["".join(k for k, on in zip(KEYS, row, strict=False) if on) or "-" for row in actions.tolist()]
    return " ".join(keys for keys, _ in groupby(held))


def label_of(actions: Tensor, start: int, frames: int) -> str:
    """That of `frames` frames from frame `start` on of a schedule `[1, F, A]`, whose last row holds beyond its end."""
    last = actions.shape[1] - 1
    return label(actions[0, [min(n, last) for n in range(start, start + frames)]])


def _keys(text: str) -> frozenset[str]:
    keys: set[str] = set()
    for part in text.lower().split("+"):
        word = " ".join(part.split())
        if word not in WORDS and word not in KEYS:
            raise ValueError(f"{' '.join(text.split())!r} asks for {word!r}: {_instead(word)}")
        keys.update(WORDS.get(word, word))
    return frozenset(keys)


def _instead(word: str) -> str:
    """The remedy for a word that is no action."""
    if re.search(r"[,&/;|]| and ", word):
        return "several actions are joined by +, left+climb"
    if near := likeliest_word(word, WORDS, cutoff=0.7):
        return f"did you mean {near!r}?"
    return f"actions are {', '.join(WORDS)}, or the keys {', '.join(KEYS)}, several of them joined by +"
