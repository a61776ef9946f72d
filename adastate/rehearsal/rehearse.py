"""A whole rehearsal: the trials that it takes, and their verdict."""

from __future__ import annotations

from adastate.config.schema import Config
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.fit_trial import fit_trial
from adastate.rehearsal.pretended_machine import Cluster
from adastate.rehearsal.rehearsal_verdict import RehearsalVerdict, judge
from adastate.rehearsal.shallow import at_depth, depths, trials


def rehearse(config: Config, device: str, gpus: int = 1, nodes: int = 1, rank: int = 0) -> RehearsalVerdict:
    """Of a training stage, on `nodes` machines with `gpus` of `device` each, as process `rank` sees it.

    Raises:
        NoDeviceError: no device can be pretended here.
    """
    cluster = Cluster(ACCELERATORS[device], gpus, nodes, rank)
    found = depths(config.lightning)
    runs, done = trials(found), []
    for run in runs:
        done.append(fit_trial(at_depth(config.lightning, run), config.variables, cluster))
        if done[-1].failed:
            break
    stage = str((config.variables.get("run") or {}).get("stage") or "fit")
    verdict = RehearsalVerdict(stage, cluster.device, cluster.world, rank, done[0].parts, found)
    return judge(verdict, done, runs[: len(done)], device, gpus)
