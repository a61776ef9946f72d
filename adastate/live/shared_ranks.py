"""The processes of a live server that share every pass: started, and brought together."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adastate.launch.process_group import processes
from adastate.runtime import signals

if TYPE_CHECKING:
    from adastate.distributed.sequence_split import SequenceSplit


def start(argv: Sequence[str], world: int) -> None:
    """Runs `adastate ARGV` as `world` processes of this machine, until the first of them has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        processes(list(argv), world)
    except SystemExit as end:
        if end.code != signals.AGAIN:  # which is how a server ends
            raise SystemExit(1) from None  # the process has said why


def meet(world: int, device: str) -> SequenceSplit:
    """This process's place among `world`, which all call it; those that follow end with the first one alone.

    Raises:
        ValueError: there are not so many.
    """
    import torch

    from adastate.distributed.sequence_split import make_split

    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    there = torch.distributed.get_world_size()
    if there != world:
        raise ValueError(f"--sequence-parallel is {world}, and {there} processes were started: start as many")
    split = make_split(world)
    assert split is not None
    if split.rank:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return split
