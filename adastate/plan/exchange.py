"""Data that ranks which share a sample exchange, and the degree from which that is faster; see SequenceSplit.

All figures are calculated, from the rates of products and of the network. A layer's two collectives are sequential.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adastate.models.size import divisors
from adastate.models.video_network import Size
from adastate.plan.cost import CountedPass, pass_flops, patch_width

LAYER_EXCHANGES = 4
"""Queries, keys, values, and the output of attention."""


@dataclass(frozen=True)
class Network:
    """A network between GPUs.

    Attributes:
        rate: bytes per second that a GPU sends while it receives as many.
        wait: latency of an empty collective in seconds.
    """

    name: str
    rate: float
    wait: float


NETWORKS = (
    Network("NVLink", 300e9, 20e-6),
    Network("400 Gbit/s a GPU", 40e9, 40e-6),
    Network("100 Gbit/s a GPU", 10e9, 60e-6),
)
"""Between a machine's GPUs; InfiniBand and Ethernet between machines. Rates are what all-to-all may reach of the
nominal 450, 50 and 12.5 GB/s; none was measured here."""


def degrees(size: Size, tokens: int, most: int = 8) -> list[int]:
    """Degrees up to `most` that divide the number of heads and the tokens of a frame."""
    return [d for d in divisors(size.heads) if d <= most and tokens % d == 0]


def layer_bytes(size: Size, tokens: int, frames: int, batch: int, number: int, degree: int) -> float:
    """Bytes that a rank sends in a layer of a pass over `frames` frames; `number` is bytes per number."""
    own = batch * frames * tokens // degree * size.width * number
    return LAYER_EXCHANGES * own * (degree - 1) / degree


def pass_bytes_sent(size: Size, tokens: int, frames: int, batch: int, number: int, degree: int) -> float:
    """Bytes that a rank sends in a pass: those of its layers, and its share of the velocity to each other rank."""
    velocity = batch * frames * tokens // degree * patch_width(size) * number * (degree - 1)
    return size.layers * layer_bytes(size, tokens, frames, batch, number, degree) + velocity


def seconds(
    size: Size, tokens: int, work: CountedPass, batch: int, number: int, degree: int, flops: float, network: Network
) -> float:
    """Seconds of a pass without gradient: its share of the products, then its exchanges.

    Args:
        flops: FLOP/s of a GPU.
    """
    products = batch * pass_flops(size, tokens, work).forward / degree / flops
    if degree == 1:
        return products
    sent = pass_bytes_sent(size, tokens, work.frames, batch, number, degree)
    return products + sent / network.rate + (2 * size.layers + 1) * network.wait


def pays_from(times: Mapping[int, float]) -> int | None:
    """The lowest degree at which a pass takes less time than on one GPU; None if there is none.

    What a rank sends decreases with the degree, so a slow network may pay off at 4 but not at 2.
    """
    return min((d for d, taken in times.items() if taken < times[1]), default=None)


def exchange(
    size: Size, tokens: int, work: CountedPass, batch: int, number: int, flops: float, most: int = 8
) -> dict[str, Any]:
    """Figures of a pass at every degree: bytes per layer, seconds by network, and the degree from which it pays off."""
    possible = degrees(size, tokens, most)
    times = {n.name: {d: seconds(size, tokens, work, batch, number, d, flops, n) for d in possible} for n in NETWORKS}
    return {
        "bytes a layer": {d: layer_bytes(size, tokens, work.frames, batch, number, d) for d in possible},
        "seconds a pass": times,
        "pays from": {name: pays_from(found) for name, found in times.items()},
    }
