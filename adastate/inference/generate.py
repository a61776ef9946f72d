"""Videos from prompts, streamed to the file as they are made, however long.

Memory does not grow with the length: the cache is bounded, the decoder keeps its own small cache, and pictures go
straight to the encoder. The timing report says what streaming costs with decoding and without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adastate.cameras import read_rows
from adastate.config.systems import read_system
from adastate.distributed.sequence_split import split_networks
from adastate.encoders.batching import streams_at_once
from adastate.inference import conditioning as standing
from adastate.inference import prompt_schedule, vbench
from adastate.inference.asked_prompts import AskedPrompts
from adastate.inference.conditioning import Prefix
from adastate.inference.prompt_schedule import TimedPrompt
from adastate.inference.student_source import StudentSource
from adastate.inference.vbench import Item, write_record
from adastate.inference.video_length import chunk_starts, frame_starts, frames_for
from adastate.inference.video_writer import Plan, Timing, write_videos
from adastate.launch import shared_ranks
from adastate.media.video import file_name
from adastate.models import attention
from adastate.models.size import check_degree
from adastate.runtime import atomic
from adastate.runtime.ranks import Rank, device_for, this_rank
from adastate.runtime.spelling import how_many
from adastate.stream import PromptSwitch, StreamSpec, action_schedule
from adastate.stream.action_schedule import ActionCue
from adastate.training.load_run import student_file, student_of
from adastate.training.student import Student
from adastate.weights import header_facts, mismatch

SHOWN = 8
"""Paths of videos that are printed at the end."""


def generate(args: argparse.Namespace, source: StudentSource, asked: AskedPrompts) -> None:
    """Streams what the command line asks for to files, and tells what that took."""
    bench, rank = args.layout == "vbench", this_rank(os.environ)
    prompts, told, timed = asked.prompts, asked.told, asked.timed
    if bench:
        items = vbench.items(prompts, told, args.samples or vbench.SAMPLES)
    else:
        title = timed[0].text if timed else None
        pairs = enumerate(zip(prompts, told, strict=True))
        items = [Item(i, prompt, t, f"{file_name(title or prompt, i)}.mp4", i) for i, (prompt, t) in pairs]
    student = student_of(source.config, source.weights).to(device_for(args.device, rank))
    split, degree, size = None, args.sequence_parallel, student.net.size
    whole = None if rank.world == degree else rank.world
    check_degree(degree, size.heads, size.tokens(student.latent_size), whole)
    if degree > 1:
        split = shared_ranks.meet(degree, student.device.type)
        split_networks([student.net, student.ema.net], split)
        rank = Rank(rank.rank // degree, rank.world // degree, rank.local)
    speaks = rank.rank == 0 and (split is None or split.rank == 0)
    student.engine, student.fp8 = args.engine, args.fp8
    kernels = attention.use(args.attention)
    if speaks:
        print(f"{kernels}, engine: {args.engine}" + ", products in FP8" * args.fp8)
    spec = _spec(student, args.system, source, speaks)
    given = _given(student, args, asked.listed)
    folder: Path = args.out
    frames = frames_for(args.seconds, student.codec, spec, given.frames if given else 0)
    switches = _switches(timed, student, spec, frames, given, args.seconds)
    actions = _actions(asked.actions, student, frames, given, args.seconds)
    records = folder.with_name(f"{folder.name}.info") if bench else folder
    plan = Plan(frames, args.seed, spec, folder, records, given, switches, args.states, actions, args.animated)
    if bench and (split is None or split.rank == 0):
        vbench.record(records, items, _settings(args, plan, source))
    batch = args.batch or streams_at_once(student.latent_size)
    if speaks and not bench:
        print(f"to be watched while it grows: {atomic.scratch_of(folder / items[0].name)}")
    timing = write_videos(student, plan, items, rank, batch, args.strip, bench, split)
    if split is not None and split.rank:
        return
    _report(plan, items, rank, timing, alone=not bench and rank.world == 1)


def _spec(student: Student, name: str | None, source: StudentSource, speaks: bool) -> StreamSpec:
    """The stream to run: the student's own, or a system's. Says so where the weights have learnt another."""
    spec = student.spec
    if name and source.run:
        system = read_system(name, student.chunk_frames)
        spec = system.spec
        if system.rope_max_frames > student.net.size.rope_max_frames:
            for net in (student.net, student.ema.net):
                net.size = replace(net.size, rope_max_frames=system.rope_max_frames)
    trained = header_facts(source.weights).get("stream")
    if trained is None and source.weights == student_file(source.folder):
        trained = asdict(student.spec)
    sentence = mismatch(trained or {}, asdict(spec))
    if sentence and speaks:
        print(f"adastate generate: warning: {sentence}", file=sys.stderr)
    return spec


def _given(student: Student, args: argparse.Namespace, prompts: int) -> Prefix | None:
    if args.image:
        return standing.picture_prefix(args.image, student.codec, student.latent_size, prompts, student.device)
    if args.latents:
        return standing.latents(args.latents, student.latent_shape, prompts, student.device)
    return None


def _switches(
    timed: Sequence[TimedPrompt], student: Student, spec: StreamSpec, frames: int, given: Prefix | None, seconds: float
) -> dict[int, PromptSwitch[list[str]]]:
    starts = chunk_starts(frames, student.codec, spec, given.frames if given else 0)
    switches = {}
    for chunk, prompt in prompt_schedule.prompts_by_chunk(timed, starts, seconds).items():
        switches[chunk] = PromptSwitch([prompt.text], prompt.policy(spec.switch))
        spec.check_switch(switches[chunk].policy or spec.switch)
    return switches


def _actions(
    cues: Sequence[ActionCue] | Path, student: Student, frames: int, given: Prefix | None, seconds: float
) -> Tensor | None:
    """Of every latent frame `[1, F, A]`, or those of a file, whose last row holds; None where none are asked for."""
    columns = student.net.size.actions
    if not cues:
        return None
    if not columns:
        raise ValueError("this run's network cannot be steered, for its size has no `actions`: leave out --actions")
    if isinstance(cues, Path):
        return torch.from_numpy(read_rows(cues, columns))[None]
    return action_schedule.action_rows(
        cues, frame_starts(frames, student.codec, given.frames if given else 0), columns, seconds
    )


def _settings(args: argparse.Namespace, plan: Plan, source: StudentSource) -> dict[str, Any]:
    """What a video depends on beside its prompt and sample."""
    before = args.image or args.latents
    return {
        "seed": plan.seed,
        "frames": plan.frames,
        "weights": vbench.content_fingerprint(source.weights),
        "given": vbench.content_fingerprint(before) if before else None,
        **({"fp8": True} if args.fp8 else {}),
        **({"actions": args.actions} if args.actions else {}),
        **{f"stream.{name}": value for name, value in asdict(plan.spec).items()},
    }


def _report(plan: Plan, items: Sequence[Item], rank: Rank, timing: Timing | None, alone: bool) -> None:
    """timing.json; with several ranks, and for VBench, one file a rank and a summary of those that are there."""
    if timing is not None:
        file = "timing.json" if alone else f"timing-{rank.rank:03d}.json"
        write_record(plan.records / file, asdict(timing))
        print(f"{how_many(timing.streams, 'video')} of {how_many(timing.pictures, 'picture')} in {plan.folder}")
        for item in items[:SHOWN] if alone else ():
            print(plan.folder / item.name)
        print(
            f"first picture after {timing.first_picture_s} s; all streams together "
            f"{timing.pictures_s_without_decoding} pictures/s without decoding, {timing.pictures_s_with_decoding} with "
            f"it ({timing.device})"
        )
    if not alone:
        there = sum((plan.folder / item.name).is_file() for item in items)
        write_record(plan.records / "timing.json", _summary(plan.records, rank.world, there, len(items)))
        print(f"{there} of {len(items)} videos are in {plan.folder}, what is known of them in {plan.records}")


def _summary(records: Path, world: int, there: int, wanted: int) -> dict[str, Any]:
    files = [records / f"timing-{rank:03d}.json" for rank in range(world)]
    parts = [Timing(**json.loads(file.read_text(encoding="utf-8"))) for file in files if file.is_file()]
    pictures = sum(t.streams * t.pictures for t in parts)
    denoising, decoding = sum(t.denoising_s for t in parts), sum(t.decoding_s for t in parts)
    return {
        "videos": there,
        "videos_wanted": wanted,
        "ranks": world,
        "ranks_reported": len(parts),
        "pictures": pictures,
        "denoising_s": round(denoising, 3),
        "decoding_s": round(decoding, 3),
        "pictures_s_a_device_without_decoding": round(pictures / denoising, 1) if denoising else None,
        "pictures_s_a_device_with_decoding": round(pictures / (denoising + decoding), 1) if denoising else None,
    }
