"""`adastate weights`: inspects, converts and exports checkpoints, and shares them on the Hub.

inspect prints the content of a source, and which of it matches a network. import converts a source to adastate's own
.safetensors format. export writes a folder in diffusers' layout, alone or as a pipeline, or with Wan's names. A source
is a file (.safetensors, .pt, .pth, .ckpt, .bin), the folder of a network or pipeline, a run folder, or "builtin". push
publishes the student of a run with a model card that is filled from the run; pull downloads any repository.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.filesize import decimal

from adastate.hub.hub_client import HubError
from adastate.inference.student_source import RUN_FILE
from adastate.runtime import file_kind
from adastate.runtime.arguments import Arguments
from adastate.runtime.writable import check_writable
from adastate.weights import cli as files

VERBS = ("push", "pull")


def main(argv: list[str]) -> None:
    """Ends with a sentence where something is amiss."""
    args = parser().parse_args(argv)
    if args.verb not in VERBS:
        files.run(args)
        return
    _check(args)
    from adastate.weights import WeightsError  # which brings torch with it

    try:
        _push(args) if args.verb == "push" else _pull(args)
    except (HubError, WeightsError) as error:
        raise SystemExit(f"adastate: {error}") from error


def parser() -> Arguments:
    """What `adastate weights` takes."""
    found, verbs = files.parser(__doc__ or "", VERBS)
    _add(verbs)
    return found


def _check(args: argparse.Namespace) -> None:
    """What the words alone show to be wrong."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", args.repository):
        raise SystemExit(f"adastate: {args.repository!r} is not the name of a repository: it has the form owner/name")
    if args.verb == "push" and not args.source.exists():
        raise SystemExit(f"adastate: there is no {args.source}: give a run folder, or a .safetensors file of our own")
    known = (RUN_FILE, Path("student.safetensors"), Path("model.safetensors"))
    if args.verb == "push" and args.source.is_dir() and not any((args.source / name).is_file() for name in known):
        raise SystemExit(
            f"adastate: {args.source} has no student.safetensors: give a run folder, or a .safetensors file of our own"
        )
    if args.verb == "pull" and args.out.is_file():
        raise SystemExit(f"adastate: {args.out} is a file: give a folder")
    if args.verb == "push" and args.dry_run is not None and args.dry_run.exists():
        raise SystemExit(f"adastate: {args.dry_run} exists; give another folder with --dry-run")
    if args.verb == "push" and args.source.is_file():
        file_kind.kind(args.source)
    folder = args.dry_run if args.verb == "push" else args.out
    if folder is not None and not folder.exists():
        check_writable(folder)


def _push(args: argparse.Namespace) -> None:
    from adastate.hub.hub_client import need_client, need_token
    from adastate.hub.publication import publication
    from adastate.hub.push import push

    need_client()
    if args.dry_run is None:
        need_token(args.repository)  # before anything is read
    found = publication(args.source, args.repository, args.license)
    for name, content in found.files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{decimal(size):>12}  {name}")
    if args.dry_run is not None:
        found.write(args.dry_run)
        print(f"nothing was sent; {args.repository} would hold what lies in {args.dry_run}")
        return
    print(f"published at {push(found, args.repository, args.public, args.revision)}")


def _pull(args: argparse.Namespace) -> None:
    from adastate.hub.pull import pull

    for file in pull(args.repository, args.out, args.revision, args.include or (), args.force):
        print(f"{file} ({decimal(file.stat().st_size)})")


def _add(verbs: argparse._SubParsersAction[Arguments]) -> None:
    text = "publish the student of a run on the Hub, with a model card filled from the run"
    at = verbs.add_parser("push", help=text, description=text)
    at.add_argument("source", type=Path, help="run folder, or our own .safetensors file")
    at.add_argument("repository", help="owner/name; it is created if it does not exist")
    at.add_argument(
        "--license", help="the Hub's name of a licence; default: apache-2.0 if all parts are from this project"
    )
    at.add_argument("--public", action="store_true", help="create the repository as a public one")
    at.add_argument("--revision", help="branch; default: main")
    at.add_argument(
        "--dry-run", type=Path, metavar="FOLDER", help="write the files into this folder, and upload nothing"
    )
    text = "download a repository of the Hub into a folder"
    at = verbs.add_parser("pull", help=text, description=text)
    at.add_argument("repository", help="owner/name")
    at.add_argument("out", type=Path, help="folder to write")
    at.add_argument("--revision", help="branch, tag or commit; default: main")
    at.add_argument(
        "--include", action="append", metavar="PATTERN", help="files to download, such as '*.pt'; can be repeated"
    )
    at.add_argument("--force", action="store_true", help="overwrite existing files")
