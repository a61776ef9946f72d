"""`adastate cameras`: cameras and keys of other projects into ours.

A source is a file, a folder or a string, "w-3, right-2". Into a folder go poses.npy (camera-to-world in OpenCV's axes,
the first one the identity), intrinsics.npy (fx, fy, cx, cy in pixels) and camera.actions.npy (the keys w a s d i j k l
of every row); into a file x.actions.npy the keys alone, by which `adastate generate` steers a stream, and which
`adastate shards` takes beside x.mp4.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from adastate.cameras.readers import FORMATS, SUFFIX, PictureSize, read_control
from adastate.runtime.arguments import Arguments
from adastate.runtime.writable import check_writable
from adastate.stream.action_schedule import KEYS

OTHERS = (
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".npz",
    ".pt",
    ".pth",
    ".safetensors",
    ".json",
    ".txt",
    ".csv",
    ".png",
)
"""Endings of files, which no folder of cameras has."""


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    try:
        if args.out.suffix == ".npy" and not args.out.name.endswith(SUFFIX):
            raise ValueError(
                f"{args.out} is not a file name for keys: name it {args.out.stem}{SUFFIX}, or give a folder"
            )
        if args.out.suffix in OTHERS and not args.out.is_dir():
            raise ValueError(f"{args.out} names a file: give a folder, or {args.out.stem}{SUFFIX} for the keys alone")
        check_writable(args.out.parent if args.out.suffix == ".npy" else args.out)
        control = read_control(args.source, args.format, _size(args.size))
        for path in control.save(args.out):
            print(path)
    except (ValueError, OSError) as error:
        raise SystemExit(f"adastate cameras: {' '.join(str(error).split())}") from error
    held = [key for column, key in enumerate(KEYS) if control.keys[:, column].any()]
    print(f"{len(control.keys)} rows; keys that are held: {', '.join(held) or 'none'}")


def _size(text: str | None) -> PictureSize | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None or not int(found[1]) * int(found[2]):
        raise ValueError(f"--size is {text!r}: write width and height, 832x480")
    return int(found[1]), int(found[2])


def parser() -> Arguments:
    made = Arguments("adastate cameras", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", help="file, folder or string")
    made.add_argument("out", type=Path, help="folder, or file x.actions.npy")
    made.add_argument("--format", choices=tuple(FORMATS), required=True, help="project that the source is of")
    made.add_argument("--size", metavar="WxH", help="of the video, where intrinsics are parts of it (minwm)")
    return made
