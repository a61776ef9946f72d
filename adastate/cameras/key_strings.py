"""Keys that are held, as other projects write them: "w-3, right-0.5", "a*4,w*8", "w-80,jw-40", "yaw:left:60@40"."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adastate.runtime.spelling import likeliest_word
from adastate.stream.action_schedule import KEYS

Keys = NDArray[np.uint8]

LOOKS = {"up": "i", "down": "k", "left": "j", "right": "l"}
"""Words for turns of the camera."""

MOST_ROWS = 1_000_000
"""Rows that a string may ask for: those of a day."""


def hy_worldplay(text: str) -> Keys:
    """HY-WorldPlay's "w-3, right-0.5": a row a latent. A number is cut to whole latents, as its own code cuts it."""
    pieces = [_match(r"(\w+)-(\d+(?:\.\d*)?)", piece, "w-3, right-2") for piece in _split(text)]
    return _rows([(LOOKS.get(m[1], m[1]), int(float(m[2]))) for m in pieces], text)


def minwm(text: str) -> Keys:
    """minWM's "a*4,w*8": a row a latent; a key without a number stands for one."""
    pieces = [_match(r"([a-z]+)(?:\*(\d+))?", piece, "a*4,w*8") for piece in _split(text)]
    return _rows([(m[1], int(m[2] or 1)) for m in pieces], text)


def sana_wm(text: str) -> Keys:
    """SANA-WM's "w-80,jw-40", several keys at once, or none: a row a frame of the video."""
    pieces = [_match(r"([a-z]+)-([1-9]\d*)", piece.lower(), "w-80,jw-40") for piece in _split(text)]
    return _rows([("" if m[1] == "none" else m[1], int(m[2])) for m in pieces], text)


def wrbench(text: str) -> Keys:
    """WRBench's "yaw:left:60@40,yaw:right:60@41": a row a frame. How far it turns, keys cannot tell."""
    turns = {("yaw", "left"), ("yaw", "right"), ("pitch", "up"), ("pitch", "down")}
    held = []
    for piece in _split(text):
        m = _match(r"(\w+)(?::(\w+):[\d.]+)?@(\d+)", piece, "yaw:left:60@40")
        if m[1] != "static" and (m[1], m[2]) not in turns:
            raise ValueError(f"{piece!r} is a movement that no key makes: use yaw, pitch or static")
        held.append(("" if m[1] == "static" else LOOKS[m[2]], int(m[3])))
    return _rows(held, text)


def from_conditions(keyboard: NDArray[np.float32], mouse: NDArray[np.float32] | None) -> Keys:
    """Matrix-Game 2's: `keyboard` [F, 4], forward, back, left, right; `mouse` [F, 2], pitch (up), yaw (right)."""
    if keyboard.ndim != 2 or keyboard.shape[1] != 4:
        raise ValueError(f"keyboard_condition has shape {list(keyboard.shape)}, and not [F, 4]")
    found = np.zeros((len(keyboard), len(KEYS)), np.uint8)
    for column, key in enumerate("wsad"):
        found[:, KEYS.index(key)] = keyboard[:, column] > 0.5
    if mouse is not None:
        if mouse.shape != (len(keyboard), 2):
            raise ValueError(f"mouse_condition has shape {list(mouse.shape)}, and not {[len(keyboard), 2]}")
        for column, (more, less) in enumerate((("i", "k"), ("l", "j"))):
            found[:, KEYS.index(more)], found[:, KEYS.index(less)] = mouse[:, column] > 0, mouse[:, column] < 0
    return found


def _split(text: str) -> list[str]:
    return [piece.strip() for piece in text.replace("\uff0c", ",").split(",") if piece.strip()]


def _match(pattern: str, piece: str, example: str) -> re.Match[str]:
    found = re.fullmatch(pattern, piece)
    if found is None:
        raise ValueError(f"{piece!r} is not part of a key string such as {example!r}")
    return found


def _rows(held: Sequence[tuple[str, int]], text: str) -> Keys:
    rows = []
    if sum(count for _, count in held) > MOST_ROWS:
        raise ValueError(f"{text[:40]!r} asks for more than {MOST_ROWS:,} rows: give fewer")
    for keys, count in held:
        unknown = [key for key in keys if key not in KEYS]
        if unknown:
            near = likeliest_word(keys, LOOKS, cutoff=0.7)
            known = f"did you mean {near!r}?" if near else f"there are the keys {', '.join(KEYS)}"
            raise ValueError(f"{text!r} asks for {keys!r}: {known}")
        row = np.array([key in keys for key in KEYS], np.uint8)
        rows += [row] * count
    if not rows:
        raise ValueError(f"{text!r} holds no key for a whole frame")
    return np.stack(rows)
