"""A run's networks at small depths, and what they tell of the real one.

What a phase holds, moves and computes is linear in the number of layers of each network. So it is measured with two
layers, and once more with three for the networks of each depth, and drawn on to the depths of the run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

FEW, MORE = 2, 3


def sizes(node: Any) -> Iterator[dict[str, Any]]:
    """The blocks of a configuration that are a network's size."""
    if isinstance(node, dict):
        if {"layers", "width"} <= node.keys():
            yield node
        for value in node.values():
            yield from sizes(value)
    elif isinstance(node, list):
        for value in node:
            yield from sizes(value)


def depths(lightning: dict[str, Any]) -> list[int]:
    """The depths of its networks, each once."""
    return sorted({int(size["layers"]) for size in sizes(lightning)})


def channels_of(lightning: dict[str, Any]) -> int:
    """Of the latents that its networks work on."""
    return next((int(size["channels"]) for size in sizes(lightning) if size.get("channels")), 16)


def at_depth(lightning: dict[str, Any], now: Mapping[int, int]) -> dict[str, Any]:
    """The same configuration with other depths, by the real one."""
    made = copy.deepcopy(lightning)
    for size in sizes(made):
        size["layers"] = now.get(int(size["layers"]), int(size["layers"]))
    return made


def depth_trials(found: list[int]) -> list[dict[int, int]]:
    """The depths to run: all few, then for each of them more."""
    small = {depth: min(depth, FEW) for depth in found}
    return [small, *({**small, depth: min(depth, MORE)} for depth in found if depth > FEW)]


def drawn_on(values: list[float], found: list[int], runs: list[dict[int, int]]) -> float:
    """What a quantity would be at full depth, from its `values` in `runs`."""
    base, total = values[0], values[0]
    deeper = [depth for depth in found if depth > FEW]
    for value, depth, run in zip(values[1:], deeper, runs[1:], strict=True):
        step = run[depth] - runs[0][depth]
        total += (value - base) / step * (depth - runs[0][depth])
    return total


def per_layer(values: list[float], runs: list[dict[int, int]]) -> float:
    """How much more of a quantity a further layer brings, of whichever network brings the most."""
    more = [
        (value - values[0]) / sum(run[d] - runs[0][d] for d in run)
        for value, run in zip(values[1:], runs[1:], strict=True)
    ]
    return max(more, default=0.0)
