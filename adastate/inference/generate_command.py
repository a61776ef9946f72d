"""`adastate generate`: generates videos of any length from prompts and writes them to mp4 while they are streamed.

Memory does not grow with the length: the cache is bounded, the decoder keeps its own small cache, and frames go
straight to the encoder. The timing report gives the cost of streaming with and without decoding.

Without arguments, the command uses the run in runs/tiny, or the bundled tiny student, with a prompt of its previews,
and shows the hidden state next to the video. --weights FILE --size wan_1_3b --system self_forcing streams weights of
any origin without a run folder; options like --stream.past_frames=6 change keys of that size's configuration.

Prompts with a time, "10s cut: ...", are parts of one stream; each prompt without a time is a stream of its own. If the
network accepts actions, --actions "0s: straight" --actions "2s: left+climb" steer it, all streams in the same way.
Under torchrun or srun, each process generates its share of the videos; with --sequence-parallel 2, two processes share
each video. docs/guide/generating.md has an example of every option.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import get_args

from adastate.config import trusted
from adastate.config.command_line import unknown_option
from adastate.config.described import described
from adastate.config.systems import system_names
from adastate.config.world_words import strange_words, vocabularies
from adastate.inference import vbench
from adastate.inference.asked_prompts import AskedPrompts, asked_prompts, scheduled_lines
from adastate.inference.student_source import StudentSource, student_source
from adastate.launch import shared_ranks
from adastate.runtime.argument_types import above_zero, device, prompt_file, there, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device, why_none
from adastate.runtime.ranks import this_rank
from adastate.runtime.writable import check_writable
from adastate.stream.action_schedule import WORDS

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp")
"""Endings of files, which no folder of videos has."""


def main(argv: list[str]) -> None:
    try:
        options = parser()
        args, overrides = options.parse_known_args(argv)
        if unknown := unknown_option(overrides, options.options):
            raise ValueError(unknown)
        check_device(args.device)
        source = student_source(args.run, args.weights, args.size, args.system, overrides)
        if args.sequence_parallel > 1 and "RANK" not in os.environ:
            source.check_degree(args.sequence_parallel)
            shared_ranks.start_ranks(["generate", *argv], args.sequence_parallel)
            return
        leads = this_rank(os.environ).rank == 0
        if not args.prompt and not args.prompts and args.layout == "plain" and source.previewed:
            args.prompt, args.states = source.previewed[:1], True
            print(f"no prompt is given: {args.prompt[0]!r}, with the hidden state to the right")
        asked = asked_prompts(args)
        if args.out is not None and args.out.suffix.lower() in VIDEOS:
            raise ValueError(f"--out {args.out} names a file: give the folder that the videos shall lie in")
        args.out = args.out or source.folder / ("vbench" if args.layout == "vbench" else "generated")
        check_writable(args.out, "give another folder with --out")
        _check(args, source, asked)
        notes = [strange_words("generate", asked.texts, source.world)]
        notes += [scheduled_lines(args.prompts, asked.told)] if args.prompts else []
        for note in filter(None, notes if leads else ()):
            print(note, file=sys.stderr)
        # up to here nothing has imported torch
        from adastate.inference.generate import generate

        generate(args, source, asked)
    except (ValueError, FileNotFoundError) as error:  # of a stream, weights, a file: each says what is wrong
        if this_rank(os.environ).rank and any(word.startswith("--sequence-parallel") for word in argv):
            raise SystemExit(1) from error  # the first process says it
        if isinstance(error, FileNotFoundError) and error.errno:
            raise  # the system's, see adastate/config/mistakes.py
        raise SystemExit(f"adastate generate: {' '.join(str(error).split())}") from error


def _check(args: argparse.Namespace, source: StudentSource, asked: AskedPrompts) -> None:
    """Refuses what the files and the network that are asked for cannot do together.

    Raises:
        ValueError: in one sentence.
    """
    if asked.actions and not source.actions:
        raise ValueError(
            f"this {'run' if source.run else 'size'}'s network cannot be steered, for its size has no `actions`: leave "
            "out --actions, or take one that can, as --size flight"
        )
    from adastate.cameras import read_rows  # not above: NumPy and PIL are for files alone
    from adastate.inference.given_files import check_latents, check_pictures

    if isinstance(asked.actions, Path):
        read_rows(asked.actions, source.actions)
    if args.image:
        check_pictures(args.image, asked.listed)
    if args.latents:
        check_latents(args.latents)
    if args.engine == "graph" and (why := why_none() if args.device in (None, "cuda") else "a CPU has no graphs"):
        raise ValueError(f"--engine graph: {why}; take --engine compile, or leave it out")


def parser() -> Arguments:
    """What `adastate generate` takes, beside keys of a size."""
    parser_ = Arguments("adastate generate", description=__doc__, epilog=vocabularies())
    add = parser_.add_argument
    add("--run", type=Path, help="run folder, as `make train` writes it; default: runs/tiny, or the bundled student")
    add("--weights", type=Path, help="file of any supported format; default: the run's student.safetensors")
    add(
        "--size", metavar="NAME|FILE", help="name in conf/sizes/, for weights without a run folder: tiny, wan_1_3b, ..."
    )
    add("--system", metavar="NAME|FILE", help=f"another stream on the same weights: {', '.join(system_names())}")
    add(
        "--prompt",
        action="append",
        default=[],
        help="can be repeated; '0s: ...', '10s cut: ...' are parts of one stream; default: one of the previews",
    )
    add("--prompts", type=prompt_file, help="text file, one prompt per line")
    add(
        "--prompts-extended",
        type=prompt_file,
        help="text file; its line i is given to the model in place of line i of --prompts",
    )
    add("--most", type=whole(1), help="maximum number of prompts")
    add(
        "--actions",
        action="append",
        default=[],
        help="steering of the camera, 'left' or '0s: straight', '2s: left+climb', ...: "
        f"{', '.join(WORDS)}, or keys; or a file x.actions.npy with one row per latent frame",
    )
    add("--seconds", type=above_zero, default=10.0, help="length of a stream")
    add(
        "--image",
        type=there("picture", "give one, or a folder of them"),
        help="first frame: an image, or a folder with one for each prompt",
    )
    add(
        "--latents",
        type=there("file of latents", "give its path"),
        help="latent frames before the stream: safetensors, npy or pth",
    )
    add(
        "--layout",
        choices=("plain", "vbench"),
        default="plain",
        help="vbench: names for VBench and VBench-Long; resumes",
    )
    add("--samples", type=whole(1), help=f"videos per prompt, with --layout vbench; default {vbench.SAMPLES}")
    add("--batch", type=whole(1), help="streams at a time; default 1 at Wan's size, 16 at the tiny size")
    add("--strip", action="store_true", help="also write strip.png: frames over time, states below")
    add("--states", action="store_true", help="show the decoded hidden state beside the video")
    add(
        "--animated",
        action="store_true",
        help="also write an animated WebP below 3 MB, with the hidden states next to the videos",
    )
    add("--seed", type=int, default=0, help="seed of the noise")
    add(
        "--engine",
        choices=get_args(described("adastate.models.video_network.Engine")),
        default="eager",
        help="how passes run once the window is full; docs/guide/speed.md",
    )
    add(
        "--sequence-parallel",
        type=whole(1),
        default=1,
        metavar="N",
        help="processes that share every pass, one per GPU",
    )
    add("--fp8", action="store_true", help="matrix products of the blocks in FP8, if passes are in bfloat16")
    add(
        "--attention",
        choices=get_args(described("adastate.models.attention.Backend")),
        default="auto",
        help="its kernels",
    )
    add(
        "--out",
        type=Path,
        help="folder of the mp4s; default <run>/generated, or <run>/vbench; without a run runs/<size>/...",
    )
    add("--device", type=device, help="cuda is the GPU of this rank; default: a GPU if there is one")
    trusted.add_flag(parser_)
    return parser_
