"""Measures rollouts against their prompts: metrics of the student, of its teacher and of real clips."""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from adastate import metrics
from adastate.config.systems import TRAINED, System, read_system
from adastate.encoders.batching import portions
from adastate.evaluation.flight_figures import flight_rows
from adastate.evaluation.look_away_report import LEAST_ROLLOUTS, compare_memories, show_memories
from adastate.evaluation.metrics_table import Figures, MetricsRow, show_metrics
from adastate.evaluation.real_clips import Footage, read_footage, through_codec
from adastate.evaluation.rollout_ends import RolloutEnds, ends, stream_ends
from adastate.models import attention
from adastate.runtime import atomic
from adastate.runtime.ranks import device_for, this_rank
from adastate.stream import StreamSpec
from adastate.training.load_run import load_student, load_teacher, world_of
from adastate.training.student import Student
from datamodules.worlds.flyover import HEADINGS, PALETTES, SPEEDS, Flight, flight, render_flyover

ROLLOUTS = 32

Clips = Callable[[list[str], Tensor | None], Tensor]
"""Decoded clips of a teacher, one row per prompt; takes prompts and actions `[B, F, A]`, if any."""


@dataclass(frozen=True)
class Truth:
    """Ground truth that rollouts are measured against, row by row."""

    prompts: list[str]
    flights: list[Flight] | None = None  # of the tiny world
    footage: Footage | None = None


def even_flights(count: int, seed: int) -> list[Flight]:
    """Flights with evenly spread headings and speeds."""
    headings, speeds = list(HEADINGS), list(SPEEDS)
    return [
        flight(seed, i, heading=headings[i % 8], speed=speeds[(i // 8) % 2], palette=list(PALETTES)[i % len(PALETTES)])
        for i in range(count)
    ]


def measure_stretch(video: Tensor, fps: int, truth: Truth, flow: metrics.Flow | None = None) -> Figures:
    """Metrics of one stretch of video; means over the clips, the residual's median. Flow metrics only with `flow`."""
    motion = metrics.displacement(video)
    found = {
        "displacement": motion.norm(dim=1).mean().item(),
        "change": metrics.change(video).mean().item(),
        "change_in_half_a_second": metrics.change(video, fps // 2).mean().item(),
        "contrast": metrics.contrast(video).mean().item(),
        "saturation": metrics.saturation(video).mean().item(),
        "sharpness": metrics.sharpness(video).mean().item(),
    }
    if flow is not None:
        moved = torch.cat([_lengths(flow(clip)) for clip in video.split(1)])
        found["optical_flow"], found["dynamic_degree"] = moved.mean(0).tolist()
    footage, flights = truth.footage, truth.flights
    if footage is not None and set(truth.prompts) <= set(footage.captions):
        like = [footage.captions[i] for i in metrics.nearest(video, footage.video).tolist()]
        found = {"scene": statistics.fmean(a == b for a, b in zip(like, truth.prompts, strict=True)), **found}
    if flights is None:
        return found
    velocity = torch.tensor([f.velocity for f in flights])
    colours = torch.tensor([PALETTES[p][0] for p in PALETTES]).float() / 127.5 - 1
    palettes = [list(PALETTES)[i] for i in metrics.ground(video, colours).tolist()]
    named = metrics.heading(motion)
    speed = velocity.float().norm(dim=1)
    return {
        "heading": statistics.fmean(a == f.heading for a, f in zip(named, flights, strict=True)),
        "speed": ((motion - velocity).abs().amax(1) < 0.6).float().mean().item(),
        "palette": statistics.fmean(a == f.palette for a, f in zip(palettes, flights, strict=True)),
        "residual": metrics.residual(video, velocity).median().item(),
        "dynamics": (motion.norm(dim=1) / speed).mean().item(),
        **found,
    }


def _lengths(flow: Tensor) -> Tensor:
    """Mean length of all vectors of `[B, T, 2, h, w]`, and of the largest in each picture, `[B, 2]`."""
    return torch.stack([flow.norm(dim=2).mean((1, 2, 3)), metrics.dynamic_degree(flow).mean(1)], 1)


def stretch_rows(
    video: RolloutEnds, name: str, once: int, fps: int, truth: Truth, flow: metrics.Flow | None = None
) -> list[MetricsRow]:
    """The 1x stretch and, for a longer rollout, its last second, with the drift from the first second to it."""
    found = [MetricsRow(name, "1x", measure_stretch(video.first[:, :once], fps, truth, flow))]
    if video.pictures > once:
        first, last = video.first[:, :fps], video.last
        drifts = {
            f"{quality.__name__}_drift": metrics.drift(quality(first), quality(last)).mean().item()
            for quality in (metrics.contrast, metrics.saturation, metrics.sharpness)
        }
        times = video.pictures / once
        found.append(
            MetricsRow(name, f"last second of {times:.0f}x", {**measure_stretch(last, fps, truth, flow), **drifts})
        )
    return found


def evaluate(
    run: Path,
    weights: Path | None,
    count: int,
    horizon: int,
    prompts: list[str] | None,
    seed: int,
    device: str = "cpu",
    flow: metrics.Flow | None = None,
    system: str | None = None,
) -> list[MetricsRow]:
    """Metrics of a run; see `evaluate_student`. `system` is another stream on its weights."""
    student = load_student(run, weights).to(device)

    def teacher(prompts: list[str], actions: Tensor | None) -> Tensor:
        return load_teacher_clips(run, prompts, student.rollout_frames, seed, device, actions)

    world, spec = world_of(run), None if system is None else stream_of(student, system).spec
    return evaluate_student(student, count, horizon, prompts, seed, flow, teacher, run / "shards", world, spec)


def evaluate_student(
    student: Student,
    count: int,
    horizon: int,
    prompts: list[str] | None,
    seed: int,
    flow: metrics.Flow | None = None,
    teacher: Clips | None = None,
    shards: Path | None = None,
    world: str | None = None,
    spec: StreamSpec | None = None,
) -> list[MetricsRow]:
    """Metrics of a student's streams, of its teacher's clips, and of real ones.

    Args:
        count: minimum number of streams; each prompt is used equally often.
        horizon: their length in training horizons.
        prompts: None: those of the student's world, with ground truth.
        teacher: None: it is left out.
        shards: folder of clips whose captions are `prompts`; None: there are none.
        world: built-in world whose prompts the student knows; any but "flight" is measured like the tiny world.
        spec: another stream than the student's own.
    """
    frames, codec = student.rollout_frames, student.codec
    once, fps = codec.video_frames(frames), codec.fps
    if prompts:
        texts = prompts * math.ceil(count / len(prompts))
        footage = None if shards is None else read_footage(shards, texts, once, codec, student.device)
        truth = Truth(texts, footage=footage)
        real = truth.footage.video if truth.footage else None
    elif world == "flight":
        return flight_rows(student, count, horizon, seed, teacher, spec)
    else:
        flights = even_flights(count, seed)
        truth = Truth([f.caption for f in flights], flights)
        real = through_codec(codec, render_flyover(flights, once), student.device)
    streams = stream_ends(student, truth.prompts, horizon * frames, seed, once, spec=spec)
    found = stretch_rows(streams, "student", once, fps, truth, flow)
    clips = None if teacher is None else teacher(truth.prompts, None)
    for name, video in (("teacher", clips), ("real clips", real)):
        if video is not None:
            found += stretch_rows(ends([video], once, fps), name, once, fps, truth, flow)
    return found


def load_teacher_clips(
    run: Path, prompts: list[str], frames: int, seed: int, device: str = "cpu", actions: Tensor | None = None
) -> Tensor:
    """Decoded clips of the run's teacher, one row per prompt; on the CPU."""
    teacher = load_teacher(run).to(device)
    assert teacher.codec is not None
    out = []
    for some in portions(len(prompts), teacher.latent_size):
        steered = None if actions is None else actions[some.start : some.stop]
        clips = teacher.sample([prompts[i] for i in some], frames, seed=seed, index=some, actions=steered)
        out.append(teacher.codec.decode(clips).cpu())
    return torch.cat(out)


def stream_of(student: Student, system: str) -> System:
    """A system of conf/systems, or of a file, with a student's chunk size; may extend the student's RoPE positions."""
    found = read_system(system, student.chunk_frames)
    if found.rope_max_frames > student.net.size.rope_max_frames:
        for net in (student.net, student.ema.net):
            net.size = replace(net.size, rope_max_frames=found.rope_max_frames)
    return found


def flow_or_why(file: Path | None, device: str) -> metrics.Flow | None:
    """RAFT on `device`; None, after printing the reason, if it is not available."""
    try:
        return metrics.raft_flow(file, device)
    except metrics.NoRaft as why:
        print(f"optical flow is left out: {why}")
        return None


def look_away(args: argparse.Namespace) -> None:
    """`--look-away`: memory metrics of the run's own stream and of the requested systems."""
    student = load_student(args.run, args.weights).to(args.device)
    own = System(TRAINED, "The stream that these weights were trained with.", student.spec)
    systems = [stream_of(student, name) for name in args.system or ()] or [own]
    out = args.json or args.run / ("look_away_drifting.json" if args.drifting else "look_away.json")
    count = args.rollouts or LEAST_ROLLOUTS
    found = compare_memories(student, systems, args.look_away, count, args.seed, out, args.drifting)
    show_memories(found, Console())
    print(f"figures in {out}, pictures beside it")


def evaluate_run(args: argparse.Namespace, prompts: list[str] | None) -> None:
    """`adastate evaluate`: measures, prints a table and writes the metrics."""
    args.device = str(device_for(args.device, this_rank(os.environ)))
    if args.look_away:
        look_away(args)
        return
    count, system = args.rollouts or ROLLOUTS, args.system[0] if args.system else None
    flow = flow_or_why(args.raft, args.device)
    attention.use("auto")
    found = evaluate(args.run, args.weights, count, args.horizon, prompts, args.seed, args.device, flow, system)
    show_metrics(found, Console())
    out = args.json or args.run / "evaluation.json"
    protocol: dict[str, Any] = {"rollouts": count, "horizon": args.horizon, "seed": args.seed}
    protocol |= {"system": system} if system else {}
    atomic.write_json(out, {"protocol": protocol, "rows": {r.title: r.figures for r in found}})
    print(f"figures in {out}")
