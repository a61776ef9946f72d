"""A run's networks at small depths, and extrapolation to the real depths.

The memory, transfers and work of a phase are linear in the number of layers of each network. So they are measured with
two layers, and once more with three for the networks of each depth, and extrapolated to the depths of the run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FEW, MORE = 2, 3


def sizes(node: Any) -> Iterator[dict[str, Any]]:
    """The parts of a configuration that are network sizes."""
    if isinstance(node, dict):
        if {"layers", "width"} <= node.keys():
            yield node
        for value in node.values():
            yield from sizes(value)
    elif isinstance(node, list):
        for value in node:
            yield from sizes(value)


def depths(lightning: dict[str, Any]) -> list[int]:
    """The distinct depths of its networks."""
    return sorted({int(size["layers"]) for size in sizes(lightning)})


def channels_of(lightning: dict[str, Any]) -> int:
    """Channels of the latents that its networks process."""
    return next((int(size["channels"]) for size in sizes(lightning) if size.get("channels")), 16)


def at_depth(lightning: dict[str, Any], now: Mapping[int, int]) -> dict[str, Any]:
    """The same configuration with each real depth replaced by the one in `now`."""
    made = copy.deepcopy(lightning)
    for size in sizes(made):
        size["layers"] = now.get(int(size["layers"]), int(size["layers"]))
    return made


def depth_trials(found: list[int]) -> list[dict[int, int]]:
    """The depths to run: all small, then for each of them one larger."""
    small = {depth: min(depth, FEW) for depth in found}
    return [small, *({**small, depth: min(depth, MORE)} for depth in found if depth > FEW)]


def drawn_on(values: list[float], found: list[int], runs: list[dict[int, int]]) -> float:
    """Extrapolates a quantity to full depth, from its `values` in `runs`."""
    base, total = values[0], values[0]
    deeper = [depth for depth in found if depth > FEW]
    for value, depth, run in zip(values[1:], deeper, runs[1:], strict=True):
        step = run[depth] - runs[0][depth]
        total += (value - base) / step * (depth - runs[0][depth])
    return total


def per_layer(values: list[float], runs: list[dict[int, int]]) -> float:
    """Increase of a quantity per additional layer, for the network with the largest increase."""
    more = [
        (value - values[0]) / sum(run[d] - runs[0][d] for d in run)
        for value, run in zip(values[1:], runs[1:], strict=True)
    ]
    return max(more, default=0.0)


def drawn_on_peak(
    trials: Sequence[tuple[float, Mapping[Any, float]]], found: list[int], runs: list[dict[int, int]]
) -> float:
    """What a peak would be at full depth.

    Memory at one moment is linear in the depth, and the peak is the largest of many moments, of which another one may
    be the largest at full depth. So each moment that all trials have is extrapolated for itself.

    Args:
        trials: the peak of each trial, and its memory at moments that have a name.
    """
    candidates = [[peak for peak, _ in trials]]
    for name in trials[0][1]:
        if all(name in moments for _, moments in trials):
            candidates.append([moments[name] for _, moments in trials])
    return max(drawn_on([float(value) for value in values], found, runs) for values in candidates)
