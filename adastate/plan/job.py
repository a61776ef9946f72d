"""What a cluster has to be told of a run: when to warn it before the end, and how much memory a machine needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

GIB = 2**30

SLOWER = 3.0
"""How much longer an iteration may take than the arithmetic alone: data, networks between GPUs, decoding."""

SAVED_A_SECOND = 1e9
"""Bytes that a shared file system is taken to accept, in all. Not measured."""

START_S, LEAST_LEAD_S = 60, 120
"""For what comes before and after a save: agreeing, digests, requeueing."""

LEAST_SILENCE_S = 1200
"""callbacks.Heartbeat's own, which leaves room for previews."""

PROCESS = 8 * GIB
"""Host memory of a process beside its networks: Python, CUDA, loader workers, pinned batches. Not measured."""


@dataclass(frozen=True)
class JobNeeds:
    """What a job asks for.

    Attributes:
        lead_s: seconds before its end at which it is to be signalled: an iteration of which the student has been
            updated is finished, and saved.
        silence_s: seconds in one phase after which a run counts as hung (`run.heartbeat_s`).
        memory_gib: host memory of a machine, while its processes start.
    """

    lead_s: int
    silence_s: int
    memory_gib: int

    def lines(self) -> str:
        """Options of sbatch, and on the second line of `adastate fit`."""
        return f"--signal=USR1@{self.lead_s} --mem={self.memory_gib}G\n--run.heartbeat_s={self.silence_s}"


def job_needs(found: dict[str, Any], processes: int) -> JobNeeds:
    """Of a plan, with `host`, for so many processes a machine."""
    whole = found["memory"]["0"]["networks"].values()  # of one process that holds all of each network
    saved = sum(n["weights"] + n["optimiser"] + n["ema"] for n in whole if n["optimiser"])
    iteration, save = SLOWER * found["seconds an iteration"], saved / SAVED_A_SECOND
    return JobNeeds(
        max(LEAST_LEAD_S, _tens(iteration + save + START_S)),
        max(LEAST_SILENCE_S, _tens(2 * (iteration + save))),
        math.ceil((found["host"] + processes * PROCESS) / GIB),
    )


def _tens(seconds: float) -> int:
    return 10 * math.ceil(seconds / 10)
