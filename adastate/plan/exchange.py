"""What ranks that share a sample send each other, and from which degree on that is faster; see SequenceSplit.

All is calculated: products at a rate, exchanges at a network's. A layer's two collectives also wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adastate.models.size import divisors
from adastate.models.video_network import Size
from adastate.plan.cost import CountedPass, pass_flops, patch_width

LAYER_EXCHANGES = 4
"""Queries, keys, values, and what attention made of them."""


@dataclass(frozen=True)
class Network:
    """Between GPUs.

    Attributes:
        rate: bytes a second that a GPU sends while it receives as many.
        wait: seconds for a collective of nothing.
    """

    name: str
    rate: float
    wait: float


NETWORKS = (
    Network("NVLink", 300e9, 20e-6),
    Network("400 Gbit/s a GPU", 40e9, 40e-6),
    Network("100 Gbit/s a GPU", 10e9, 60e-6),
)
"""Of a machine's GPUs; of InfiniBand and of Ethernet between machines. Rates are what all-to-all may reach of the
450, 50 and 12.5 GB/s on paper; none was measured here."""


def degrees(size: Size, tokens: int, most: int = 8) -> list[int]:
    """Degrees up to `most` that divide the heads and the tokens of a frame."""
    return [d for d in divisors(size.heads) if d <= most and tokens % d == 0]


def layer_bytes(size: Size, tokens: int, frames: int, batch: int, number: int, degree: int) -> float:
    """That a rank sends in a layer of a pass over so many frames; `number` bytes each."""
    own = batch * frames * tokens // degree * size.width * number
    return LAYER_EXCHANGES * own * (degree - 1) / degree


def pass_bytes_sent(size: Size, tokens: int, frames: int, batch: int, number: int, degree: int) -> float:
    """That a rank sends in a pass: its layers', and its share of the velocity to each of the others."""
    velocity = batch * frames * tokens // degree * patch_width(size) * number * (degree - 1)
    return size.layers * layer_bytes(size, tokens, frames, batch, number, degree) + velocity


def seconds(
    size: Size, tokens: int, work: CountedPass, batch: int, number: int, degree: int, flops: float, network: Network
) -> float:
    """Of a pass without gradient: its products shared, then its exchanges.

    Args:
        flops: products a second of a GPU.
    """
    products = batch * pass_flops(size, tokens, work).forward / degree / flops
    if degree == 1:
        return products
    sent = pass_bytes_sent(size, tokens, work.frames, batch, number, degree)
    return products + sent / network.rate + (2 * size.layers + 1) * network.wait


def pays_from(times: Mapping[int, float]) -> int | None:
    """The lowest degree at which a pass takes less time than on one GPU; None if none does.

    What a rank sends falls with the degree, so a slow network may pay at 4 and not at 2.
    """
    return min((d for d, taken in times.items() if taken < times[1]), default=None)


def exchange(
    size: Size, tokens: int, work: CountedPass, batch: int, number: int, flops: float, most: int = 8
) -> dict[str, Any]:
    """Figures of a pass at every degree: bytes of a layer, seconds by network, and the degree from which it pays."""
    possible = degrees(size, tokens, most)
    times = {n.name: {d: seconds(size, tokens, work, batch, number, d, flops, n) for d in possible} for n in NETWORKS}
    return {
        "bytes a layer": {d: layer_bytes(size, tokens, work.frames, batch, number, d) for d in possible},
        "seconds a pass": times,
        "pays from": {name: pays_from(found) for name, found in times.items()},
    }
