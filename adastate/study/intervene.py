"""`adastate study intervene`: experiments on the memory of one trained student, by inference alone.

Writes one JSON file. In worlds with fog: the hue after a bank of fog inside which the anchor is exchanged, dropped or
frozen, for several lengths. In every world: the forgetting curve under coupled noise, errors after noise in the window
or in the anchor, and how far the cached keys carry.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from adastate import metrics
from adastate.inference.student_source import RUN, student_source
from adastate.runtime import atomic
from adastate.study import interventions
from adastate.study.interventions import DEEDS, OcclusionResult, occlusion, twins
from adastate.study.plain_numbers import six_digits
from adastate.study.world_truth import world_truth
from adastate.training.load_run import load_student, student_of
from adastate.training.student import Student

FOGGY = ("mist", "fog")

FELT = 0.01
"""Change of the denoised content, in standard deviations, from which an effect counts."""


def occlusions(student: Student, world: str, pairs: int, lengths: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """One row per length and intervention."""
    known, rows = world_truth(world), list[dict[str, Any]]()
    flights = twins(known, pairs, seed)
    for hidden in lengths:
        for deed in DEEDS:
            if deed != "nothing" and student.spec.anchor == "none":
                continue
            found: OcclusionResult = occlusion(student, known, flights, hidden, deed, seed)
            rows.append({"hidden": hidden, "deed": deed, **found.row})
    return rows


def experiments(student: Student, prompts: Sequence[str], chunks: int, seed: int) -> dict[str, Any]:
    """The three experiments that need no fog, each over `chunks` chunks after the window is full."""
    spec = student.spec
    at = math.ceil((spec.window_frames or student.rollout_frames) / spec.chunk_frames) + 1
    curve = interventions.coupled(student, prompts, at + chunks, seed)
    wheres = ("window", "anchor") if spec.anchor != "none" else ("window",)
    felt = interventions.memory_reach(student, prompts, at, chunks, seed)
    return {
        "forgetting": {"curve": curve.tolist(), "lifetime": metrics.lifetime(curve, 0.5)},
        "injection": {where: interventions.injection(student, prompts, where, at, chunks, seed) for where in wheres},
        "reach": {"felt": felt, "chunks": sum(x > FELT for x in felt), "keys": _key_reach(student)},
    }


def _key_reach(student: Student) -> int | None:
    """Maximum number of chunks over which cached keys can carry: layers times past chunks."""
    past = student.spec.past_frames
    return None if past is None else student.net.size.layers * math.ceil(past / student.spec.chunk_frames)


def _shipped() -> Student:
    source = student_source(None, None, None, None, [])
    return student_of(source.config, source.weights)


def intervene_command(args: argparse.Namespace) -> None:
    """`adastate study intervene`."""
    began = time.process_time()
    student = load_student(args.run, args.checkpoint) if args.run else _shipped()
    prompts = [f.caption for f in world_truth(args.world).even(args.rows, args.seed)]
    found = experiments(student, prompts, args.chunks, args.seed)
    if args.world in FOGGY:
        found["occlusions"] = occlusions(student, args.world, args.pairs, args.hidden, args.seed)
    names = ("world", "pairs", "hidden", "chunks", "rows", "seed")
    protocol = {name: getattr(args, name) for name in names}
    seconds = round(time.process_time() - began, 1)
    out = args.json or (args.run or RUN) / "interventions.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(out, six_digits({"protocol": protocol, "core_seconds": seconds, **found}))
    show_interventions(found)
    print(f"{seconds:.0f} core-seconds; figures in {out}")


def show_interventions(found: dict[str, Any]) -> None:
    console = Console()
    if found.get("occlusions"):
        names = ("hidden", "deed", "slope", "error", "hold", "mean", "donor_error", "appeared", "passages")
        table = Table(*(n.replace("_", " ") for n in names), title="through one bank of fog")
        for row in found["occlusions"]:
            table.add_row(*(f"{v:.3f}" if isinstance(v := row[n], float) else str(v) for n in names))
        console.print(table)
    console.print(f"forgetting: half is forgotten after {found['forgetting']['lifetime']:.0f} chunks")
    told = found["reach"]
    console.print(f"reach: the effect lasts for {told['chunks']} chunks; cached keys can carry over {told['keys']}")
    for where, errors in found["injection"].items():
        content = errors["content"]
        console.print(
            f"noise in the {where}: change of the content {content[0]:.3f} at first, {content[-1]:.3f} at the end"
        )
