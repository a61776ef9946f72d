"""Resources to request from a cluster for a run: when to signal it before the end, and host memory per machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

GIB = 2**30

SLOWER = 3.0
"""Factor by which an iteration may take longer than the arithmetic alone: data, networks between GPUs, decoding."""

SAVED_A_SECOND = 1e9
"""Bytes/s that a shared file system is assumed to accept in total. Not measured."""

START_S, LEAST_LEAD_S = 60, 120
"""Seconds for the steps before and after a save: agreement of ranks, digests, requeueing."""

LEAST_SILENCE_S = 1200
"""Default of callbacks.Heartbeat, which leaves time for previews."""

PROCESS = 8 * GIB
"""Host memory of a process besides its networks: Python, CUDA, loader workers, pinned batches. Not measured."""


@dataclass(frozen=True)
class JobNeeds:
    """Resources that a job requests.

    Attributes:
        lead_s: seconds before its end at which to signal it: enough to finish an iteration that has updated the
            student, and to save.
        silence_s: seconds in one phase after which a run counts as hung (`run.heartbeat_s`).
        memory_gib: host memory per machine, while its processes start.
    """

    lead_s: int
    silence_s: int
    memory_gib: int

    def lines(self) -> str:
        """Options of sbatch, and on the second line of `adastate fit`."""
        return f"--signal=USR1@{self.lead_s} --mem={self.memory_gib}G\n--run.heartbeat_s={self.silence_s}"


def job_needs(found: dict[str, Any], processes: int) -> JobNeeds:
    """The needs of a plan, with `host`, for this many processes per machine."""
    whole = found["memory"]["0"]["networks"].values()  # of a process that holds each network in full
    saved = sum(n["weights"] + n["optimiser"] + n["ema"] for n in whole if n["optimiser"])
    iteration, save = SLOWER * found["seconds an iteration"], saved / SAVED_A_SECOND
    return JobNeeds(
        max(LEAST_LEAD_S, _tens(iteration + save + START_S)),
        max(LEAST_SILENCE_S, _tens(2 * (iteration + save))),
        math.ceil((found["host"] + processes * PROCESS) / GIB),
    )


def _tens(seconds: float) -> int:
    return 10 * math.ceil(seconds / 10)
