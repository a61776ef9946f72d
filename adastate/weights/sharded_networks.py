"""Checkpoints that several processes wrote in pieces (ZeRO, FSDP2), as whole weights on one."""

from __future__ import annotations

from pathlib import Path

from adastate.weights.files import Entry, WeightsError
from adastate.weights.sharded_checkpoint import ShardedCheckpointError, consolidate

NAMES = {
    "student": "student.net",
    "student_average": "student.ema.net",
    "critic": "critic.net",
    "teacher": "net",
    "teacher_average": "ema.net",
}
"""Our names of a checkpoint's networks -> those of an unsharded one."""


def state_of(folder: Path) -> Path | None:
    """What a checkpoint folder of a run holds: a file, or a folder of pieces; None where it is no such folder."""
    state = folder / "state.ckpt"
    return state if state.exists() else folder if (folder / "rest.pt").is_file() else None


def gather(state: Path) -> dict[str, Entry]:
    """Every network's float32 weights, under the names that an unsharded checkpoint gives them."""
    try:
        networks = consolidate(state)
    except ShardedCheckpointError as error:
        raise WeightsError(str(error)) from error
    return {
        f"{NAMES.get(network, network)}.{name}": Entry.of(tensor)
        for network, weights in networks.items()
        for name, tensor in weights.items()
    }
