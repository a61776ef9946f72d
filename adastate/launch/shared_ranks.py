"""Processes of a command that share every pass of their streams: started, and brought together."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adastate.launch.process_group import processes
from adastate.runtime import signals

if TYPE_CHECKING:
    from adastate.distributed.sequence_split import SequenceSplit


def start_ranks(argv: Sequence[str], world: int) -> None:
    """Runs `adastate ARGV` as `world` processes of this machine to its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        processes(list(argv), world)
    except SystemExit as end:
        if end.code != signals.AGAIN:  # a server is ended so
            raise SystemExit(1) from None  # the process has said why


def meet(degree: int, device: str) -> SequenceSplit:
    """This process's place in a group of `degree`; all processes that were started call it.

    Raises:
        ValueError: they do not divide into such groups.
    """
    import torch

    from adastate.distributed.sequence_split import make_split

    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    split = make_split(degree)
    assert split is not None, "a process alone meets nobody"
    return split
