"""A complete rehearsal: its trials, and their verdict."""

from __future__ import annotations

from adastate.config.schema import Config
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.fit_trial import fit_trial
from adastate.rehearsal.pretended_machine import Cluster
from adastate.rehearsal.rehearsal_verdict import RehearsalVerdict, fill_verdict
from adastate.rehearsal.shallow import at_depth, depth_trials, depths
from adastate.rehearsal.stream_trial import stream_trial, student_node


def rehearse(
    config: Config,
    device: str,
    gpus: int = 1,
    nodes: int = 1,
    rank: int = 0,
    what: str = "fit",
    sessions: int = 4,
    full_depth: bool = False,
) -> RehearsalVerdict:
    """Rehearses a training stage, on `nodes` machines with `gpus` of `device` each, as seen by process `rank`.

    Args:
        what: `fit` is the stage; `stream` a stream of its student on one device, `live` several `sessions` of it.
        full_depth: run all layers once, instead of extrapolating from two and three layers. Events in every layer
            then cannot be distinguished from others.

    Raises:
        NoDeviceError: no device can be simulated here.
    """
    cluster = Cluster(ACCELERATORS[device], gpus, nodes, rank)
    lightning = config.lightning if what == "fit" else {"model": student_node(config.lightning)}
    found = depths(lightning)
    runs, done = [{depth: depth for depth in found}] if full_depth else depth_trials(found), []
    for run in runs:
        shallow = at_depth(lightning, run)
        if what == "fit":
            done.append(fit_trial(shallow, config.variables, cluster))
        else:
            done.append(stream_trial(shallow, cluster, sessions if what == "live" else 0))
        if done[-1].failed:
            break
    stage = str((config.variables.get("run") or {}).get("stage") or "fit") if what == "fit" else what
    verdict = RehearsalVerdict(stage, cluster.device, cluster.world, rank, done[0].parts, found, full_depth)
    return fill_verdict(verdict, done, runs[: len(done)], device, gpus)
