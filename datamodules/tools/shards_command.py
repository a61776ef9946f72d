"""`adastate shards`: writes a folder of captioned videos, or clips of a built-in world, as WebDataset shards.

A second run skips what is complete, replaces what has changed, and adds what an interruption left out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from adastate.media.video_error import VideoError
from adastate.runtime.argument_types import above_zero, there, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.writable import check_writable
from datamodules.shards.shard_error import ShardError
from datamodules.tools.video_folder import look_into
from datamodules.worlds.kinds import WORLDS


def own_run(world: str | None) -> Path:
    """The run folder that `make` takes for a world where none is named."""
    return Path("runs/flight" if world == "flight" else "runs/tiny")


def next_command(args: argparse.Namespace) -> str:
    """The make command that trains on what was written: the teacher, or for the user's own video the codec first."""
    small = args.codec_weights in (None, "builtin", *WORLDS) or str(args.codec_weights).endswith(".safetensors")
    words = ["WORLD=flight"] if args.world == "flight" else [] if small else ["SIZE=wan_1_3b"]
    if args.out.parent != own_run(args.world) or not small:
        words.append(f"RUN={shlex.quote(str(args.out.parent))}")
    extra = [] if args.out.name == "shards" else [f"--data.init_args.shards={args.out}"]
    stage = "train-codec" if args.videos and not args.latents else "train-teacher"
    if args.latents:
        words.append("RECIPE=latents")
    else:
        extra.insert(0, f"--config conf/data/{stage.removeprefix('train-')}_shards.yaml")
    return " ".join(["make", stage, *words, *([f"ARGS={shlex.quote(' '.join(extra))}"] if extra else [])])


OF_A_WORLD = ("clips", "workers", "seed")
OF_VIDEOS = ("height", "width", "fps", "stride", "action_frames", "caption_from_name")
"""Options that are about one source of clips alone."""


def check_source(options: Arguments, args: argparse.Namespace) -> None:
    """Refuses no source of clips, several, and options that are about another one."""
    sources = [name for name in ("videos", "world", "fetch_clips") if getattr(args, name) is not None]
    if not sources:
        options.error("give a source of clips: --videos FOLDER, --world NAME or --fetch-clips FOLDER")
    told = [f"--{name.replace('_', '-')}" for name in sources]
    if len(told) > 1:
        options.error(f"{' and '.join(told)} are two sources of clips: give one of them")
    others = {"world": OF_VIDEOS, "videos": OF_A_WORLD}.get(sources[0], ())
    for name in others:
        if getattr(args, name) != options.get_default(name):
            options.error(f"--{name.replace('_', '-')} is not for {told[0]}: leave it out")


def main(argv: list[str]) -> None:
    """`adastate shards ...`; exits with a sentence, and nonzero, only if there are no clips in the end."""
    options = parser()
    args = options.parse_args(argv)
    check_source(options, args)
    args.out = args.out or own_run(args.world) / "shards"
    try:
        check_writable(args.fetch_clips or args.out)
        if args.videos is not None:
            look_into(args.videos)
    except ShardError as error:
        raise SystemExit(f"adastate shards: {error}") from error
    except ValueError as error:
        options.error(str(error))
    # up to here nothing has imported torch
    from datamodules.tools.clip_members import load_codec
    from datamodules.tools.footage import import_clips
    from datamodules.tools.make_shards import make_shards
    from datamodules.tools.world_shards import write_world

    try:
        own = None if args.world in (None, "plain") else args.world
        codec = load_codec(args.codec_weights or own) if args.latents else None
        if args.fetch_clips is not None:
            print("\n".join(map(str, import_clips(None, args.fetch_clips))))
            return
        if args.world is not None:
            report = write_world(
                args.out,
                args.clips,
                args.pictures,
                args.seed,
                codec,
                args.clips_per_shard,
                args.world,
                args.workers,
            )
        else:
            report = make_shards(
                args.videos,
                args.out,
                size=(args.height, args.width),
                pictures=args.pictures,
                fps=args.fps,
                clips_per_shard=args.clips_per_shard,
                latents=codec,
                caption_from_name=args.caption_from_name,
                stride=args.stride,
                action_frames=args.action_frames,
            )
    except (ShardError, VideoError, FileNotFoundError) as error:
        raise SystemExit(f"adastate shards: {error}") from error
    except OSError as error:
        raise SystemExit(
            f"adastate shards: {error}; complete shards are kept; fix this and run the command again"
        ) from error
    print(report)
    if not report.clips:
        told = (
            f"{args.pictures / args.fps:.3g} s, {args.pictures} pictures at {args.fps:g} a second (--pictures, --fps)"
        )
        print(f"adastate shards: no clips: see above why; a clip needs a scene of {told}", file=sys.stderr)
        raise SystemExit(1)
    print(f"next: {next_command(args)}")


def parser() -> Arguments:
    """What `adastate shards` takes."""
    found = Arguments("adastate shards", description=__doc__)
    add = found.add_argument
    add(
        "--videos",
        type=there("folder of videos", "give one that is there"),
        help="folder of videos, each with its caption in a .txt file of the same name, and its actions, if it has "
        "any, in an .actions.npy",
    )
    add("--world", choices=WORLDS, help="clips of a built-in world instead; those of flight have actions")
    add("--clips", type=whole(1), default=256, help="number of clips of the world (default: %(default)s)")
    add(
        "--workers",
        type=whole(0),
        default=0,
        help="processes that render and encode the clips of the world (0: no extra processes)",
    )
    add(
        "--fetch-clips", type=Path, metavar="FOLDER", help="download three short real clips with captions into a folder"
    )
    add(
        "--out",
        type=Path,
        help="folder of the shards (default: runs/tiny/shards, of the flight world runs/flight/shards)",
    )
    add("--height", type=whole(1), default=32, help="of a picture")
    add("--width", type=whole(1), default=32, help="of a picture")
    add("--pictures", type=whole(1), default=21, help="frames per clip (default: %(default)s)")
    add("--fps", type=above_zero, default=8, help="frames per second (default: %(default)s)")
    add(
        "--stride",
        type=whole(1),
        help="frames between the starts of clips of one scene (default: --pictures, no overlap)",
    )
    add(
        "--action-frames",
        type=whole(1),
        default=3,
        help="frames per row of actions, for clips kept as video (default: 3)",
    )
    add("--seed", type=int, default=0, help="seed of the world")
    add("--clips-per-shard", type=whole(1), default=256, help="maximum number of clips per shard")
    add("--latents", action="store_true", help="write latents instead of video")
    add(
        "--codec-weights",
        help="builtin, journey, fog, flight, a .safetensors file of such a codec, or folder or hub name of a Wan VAE "
        "(default: the world's own, builtin for videos)",
    )
    add("--caption-from-name", action="store_true", help="use the file name as caption for videos without a .txt file")
    return found
