"""`adastate generate`: prompts and seconds to mp4, streamed to the file as it is made, however long.

Memory does not grow with the length: the cache is bounded, the decoder keeps its own small cache, and pictures go
straight to the encoder. The timing report says what streaming costs with decoding and without.

Without arguments it is the run in runs/tiny, or the tiny student that ships, and a prompt of its previews, the hidden
state beside the video. --weights FILE --size wan_1_3b --system self_forcing streams weights of any origin without a run
folder; --stream.past_frames=6 and the like change keys of that size's configuration.

A prompt with a time, "10s cut: ...", is a part of one stream; prompts without are streams of their own. A network that
can be steered is by --actions "0s: straight" --actions "2s: left+climb", all streams alike. Started by
torchrun or srun, every process makes its share of the videos. docs/guide/generating.md has an example of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from adastate.config.systems import names, read_system
from adastate.encoders.batching import streams_at_once
from adastate.inference import conditioning as standing
from adastate.inference import prompt_schedule, vbench
from adastate.inference.conditioning import Prefix
from adastate.inference.prompt_schedule import TimedPrompt
from adastate.inference.student_source import StudentSource, student_source, unknown_words
from adastate.inference.vbench import Item, write_json
from adastate.inference.video_writer import Plan, Timing, chunk_starts, frame_starts, frames_for, run
from adastate.launch.pipeline import unknown_option
from adastate.media.video import file_name
from adastate.models import attention
from adastate.models.video_network import Engine
from adastate.runtime import atomic
from adastate.runtime.arguments import Arguments
from adastate.runtime.ranks import Rank, device_for, this_rank
from adastate.runtime.text_files import read_lines
from adastate.stream import PromptSwitch, StreamSpec, action_schedule
from adastate.stream.action_schedule import WORDS, ActionCue
from adastate.training.load_run import student_file, student_of
from adastate.training.student import Student
from adastate.weights import facts, mismatch
from datamodules.worlds.world_clips import vocabularies

ANIMATED_SECONDS = 60.0

SHOWN = 8
"""Paths of videos that are printed at the end."""


def main(argv: list[str]) -> None:
    try:
        parser = _parser()
        args, overrides = parser.parse_known_args(argv)
        if unknown := unknown_option(overrides, [name for action in parser._actions for name in action.option_strings]):
            raise ValueError(unknown)
        _generate(args, student_source(args.run, args.weights, args.size, args.system, overrides))
    except (ValueError, FileNotFoundError) as error:  # of a stream, weights, a file: each says what is wrong
        raise SystemExit(f"adastate generate: {' '.join(str(error).split())}") from error


def _parser() -> argparse.ArgumentParser:
    parser = Arguments("adastate generate", description=__doc__, epilog=vocabularies())
    add = parser.add_argument
    add("--run", type=Path, help="run folder, as `make train` writes it; default: runs/tiny, or the student that ships")
    add("--weights", type=Path, help="of any origin; default: the run's student.safetensors")
    add("--size", metavar="NAME|FILE", help="of conf/sizes/, for weights without a run folder: tiny, wan_1_3b, ...")
    add("--system", metavar="NAME|FILE", help=f"another stream on the same weights: {', '.join(names())}")
    add(
        "--prompt",
        action="append",
        default=[],
        help="may come again; '0s: ...', '10s cut: ...' are parts of one stream; default: one of the previews",
    )
    add("--prompts", type=Path, help="text file, one prompt a line")
    add("--prompts-extended", type=Path, help="its line i is what the model is told for line i of --prompts")
    add("--most", type=int, help="take only so many prompts")
    add(
        "--actions",
        action="append",
        default=[],
        help=f"how the camera is steered, 'left' or '0s: straight', '2s: left+climb', ...: {', '.join(WORDS)}, or keys",
    )
    add("--seconds", type=float, default=10.0)
    add("--image", type=Path, help="first frame: a picture, or a folder with one for each prompt")
    add("--latents", type=Path, help="latent frames before the stream: safetensors, npy or pth")
    add(
        "--layout",
        choices=("plain", "vbench"),
        default="plain",
        help="vbench: names for VBench and VBench-Long; resumes",
    )
    add("--samples", type=int, help=f"videos a prompt, with --layout vbench; default {vbench.SAMPLES}")
    add("--batch", type=int, help="streams at once; default 1 at Wan's size, 16 at the tiny one")
    add("--strip", action="store_true", help="also write strip.png: pictures over time, states below")
    add("--states", action="store_true", help="show the decoded hidden state beside the video")
    add("--animated", action="store_true", help="also an animated WebP below 3 MB, hidden states beside the videos")
    add("--seed", type=int, default=0)
    add(
        "--engine",
        choices=get_args(Engine),
        default="eager",
        help="of passes once the window is full; docs/guide/speed.md",
    )
    add("--fp8", action="store_true", help="products of the blocks in FP8, where passes are in bfloat16")
    add("--attention", choices=get_args(attention.Backend), default="sdpa", help="its kernels")
    add(
        "--out",
        type=Path,
        help="folder of the mp4s; default <run>/generated, or <run>/vbench; without a run runs/<size>/...",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda is the GPU of this rank")
    return parser


def _generate(args: argparse.Namespace, source: StudentSource) -> None:
    if not args.prompt and not args.prompts and args.layout == "plain" and source.previewed:
        args.prompt, args.states = source.previewed[:1], True
        print(f"no prompt is given: {args.prompt[0]!r}, with the hidden state to the right")
    timed, flown = prompt_schedule.parse(args.prompt), action_schedule.parse(args.actions)
    _check(args, scheduled=timed is not None)
    bench, rank = args.layout == "vbench", this_rank(os.environ)
    prompts, told = _prompts(args)
    if timed:
        prompts, told = [" | ".join(f"{prompt.at}: {prompt.text}" for prompt in timed)], [timed[0].text]
    listed, prompts, told = len(prompts), prompts[: args.most], told[: args.most]
    if not prompts:
        raise ValueError('no prompt; give --prompt "..." or --prompts file')
    if bench:
        items = vbench.items(prompts, told, args.samples or vbench.SAMPLES)
    else:
        title = timed[0].text if timed else None
        pairs = enumerate(zip(prompts, told, strict=True))
        items = [Item(i, prompt, t, f"{file_name(title or prompt, i)}.mp4", i) for i, (prompt, t) in pairs]
    student = student_of(source.config, source.weights).to(device_for(args.device, rank))
    student.engine, student.fp8 = args.engine, args.fp8
    kernels = attention.use(args.attention)
    if rank.rank == 0:
        print(f"{kernels}, engine: {args.engine}" + ", products in FP8" * args.fp8)
        _tell_unknown([prompt.text for prompt in timed] if timed else told, source.world)
    spec = _spec(student, args.system, source, rank)
    given = _given(student, args, listed)
    folder = args.out or source.folder / ("vbench" if bench else "generated")
    frames = frames_for(args.seconds, student.codec, spec, given.frames if given else 0)
    switches = _switches(timed or [], student, spec, frames, given, args.seconds)
    actions = _actions(flown, student, frames, given, args.seconds)
    records = folder.with_name(f"{folder.name}.info") if bench else folder
    plan = Plan(frames, args.seed, spec, folder, records, given, switches, args.states, actions, args.animated)
    if bench:
        vbench.record(records, items, _settings(args, plan, source))
    batch = args.batch or streams_at_once(student.latent_size)
    if rank.rank == 0 and not bench:
        print(f"to be watched while it grows: {atomic.scratch_of(folder / items[0].name)}")
    timing = run(student, plan, items, rank, batch, args.strip, resume=bench)
    _report(plan, items, rank, timing, alone=not bench and rank.world == 1)


def _check(args: argparse.Namespace, scheduled: bool) -> None:
    """What the command line alone shows to be wrong."""
    for name in ("most", "samples", "batch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; give at least 1")
    if args.image and args.latents:
        raise ValueError("--image and --latents both stand before the stream: give one of them")
    if args.prompts_extended and (args.prompt or not args.prompts):
        raise ValueError("--prompts-extended goes line by line with --prompts alone")
    if args.samples and args.layout != "vbench":
        raise ValueError("--samples belongs to --layout vbench")
    if args.layout == "vbench" and args.states:
        raise ValueError("--states would be measured as a part of the video: leave it out with --layout vbench")
    if args.animated and (args.layout == "vbench" or args.seconds > ANIMATED_SECONDS):
        raise ValueError(f"--animated is for pages: at most {ANIMATED_SECONDS:g} seconds, and not for VBench")
    if args.layout == "vbench" and scheduled:
        raise ValueError("a schedule of prompts is one stream, and VBench takes one prompt a video")
    if args.prompts and scheduled:
        raise ValueError(
            "the --prompt with times are parts of one stream: leave out --prompts, whose lines are streams"
        )


def _prompts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(prompts, what the model is told for each)."""
    listed = read_lines(args.prompts) if args.prompts else []
    told = listed
    if args.prompts_extended:
        told = read_lines(args.prompts_extended)
        if len(told) != len(listed):
            raise ValueError(
                f"{args.prompts_extended} has {len(told)} lines, {args.prompts} has {len(listed)}: they go line by line"
            )
    pairs = [(p, t) for p, t in zip(listed, told, strict=True) if p]
    for prompt, extended in pairs:
        if not extended:
            raise ValueError(f"{args.prompts_extended} has an empty line for the prompt {prompt[:60]!r}")
    both = [(p, p) for p in args.prompt] + pairs
    return [p for p, _ in both], [t for _, t in both]


def _tell_unknown(prompts: Sequence[str], world: str | None) -> None:
    """One line about words that no prompt of the student's world has; they are embedded like any other."""
    if unknown := unknown_words(prompts, world):
        print(
            f"adastate generate: note: {', '.join(map(repr, unknown))}: not among the words of the {world} world, "
            "which the network has learnt; adastate generate --help lists them",
            file=sys.stderr,
        )


def _spec(student: Student, name: str | None, source: StudentSource, rank: Rank) -> StreamSpec:
    """The stream to run: the student's own, or a system's. Says so where the weights have learnt another."""
    spec = student.spec
    if name and source.run:
        system = read_system(name, student.chunk_frames)
        spec = system.spec
        if system.rope_max_frames > student.net.size.rope_max_frames:
            for net in (student.net, student.ema.net):
                net.size = replace(net.size, rope_max_frames=system.rope_max_frames)
    trained = facts(source.weights).get("stream")
    if trained is None and source.weights == student_file(source.folder):
        trained = asdict(student.spec)
    sentence = mismatch(trained or {}, asdict(spec))
    if sentence and rank.rank == 0:
        print(f"adastate generate: warning: {sentence}", file=sys.stderr)
    return spec


def _given(student: Student, args: argparse.Namespace, prompts: int) -> Prefix | None:
    if args.image:
        return standing.pictures(args.image, student.codec, student.latent_size, prompts, student.device)
    if args.latents:
        return standing.latents(args.latents, student.latent_shape, prompts, student.device)
    return None


def _switches(
    timed: Sequence[TimedPrompt], student: Student, spec: StreamSpec, frames: int, given: Prefix | None, seconds: float
) -> dict[int, PromptSwitch[list[str]]]:
    starts = chunk_starts(frames, student.codec, spec, given.frames if given else 0)
    switches = {}
    for chunk, prompt in prompt_schedule.place(timed, starts, seconds).items():
        switches[chunk] = PromptSwitch([prompt.text], prompt.policy(spec.switch))
        spec.check_switch(switches[chunk].policy or spec.switch)
    return switches


def _actions(
    cues: Sequence[ActionCue], student: Student, frames: int, given: Prefix | None, seconds: float
) -> Tensor | None:
    """Of every latent frame `[1, F, A]`; None where none are asked for."""
    columns = student.net.size.actions
    if not cues:
        return None
    if not columns:
        raise ValueError("this run's network cannot be steered, for its size has no `actions`: leave out --actions")
    return action_schedule.rows(
        cues, frame_starts(frames, student.codec, given.frames if given else 0), columns, seconds
    )


def _settings(args: argparse.Namespace, plan: Plan, source: StudentSource) -> dict[str, Any]:
    """What a video depends on beside its prompt and sample."""
    before = args.image or args.latents
    return {
        "seed": plan.seed,
        "frames": plan.frames,
        "weights": vbench.fingerprint(source.weights),
        "given": vbench.fingerprint(before) if before else None,
        **({"fp8": True} if args.fp8 else {}),
        **({"actions": args.actions} if args.actions else {}),
        **{f"stream.{name}": value for name, value in asdict(plan.spec).items()},
    }


def _report(plan: Plan, items: Sequence[Item], rank: Rank, timing: Timing | None, alone: bool) -> None:
    """timing.json; with several ranks, and for VBench, one file a rank and a summary of those that are there."""
    if timing is not None:
        file = "timing.json" if alone else f"timing-{rank.rank:03d}.json"
        write_json(plan.records / file, asdict(timing))
        print(f"{timing.streams} videos of {timing.pictures} pictures in {plan.folder}")
        for item in items[:SHOWN] if alone else ():
            print(plan.folder / item.name)
        print(
            f"first picture after {timing.first_picture_s} s; all streams together "
            f"{timing.pictures_s_without_decoding} pictures/s without decoding, {timing.pictures_s_with_decoding} with "
            f"it ({timing.device})"
        )
    if not alone:
        there = sum((plan.folder / item.name).is_file() for item in items)
        write_json(plan.records / "timing.json", _summary(plan.records, rank.world, there, len(items)))
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
