"""Those verbs of `adastate weights` that are about files: inspect, import, export; adastate.hub.cli has the others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adastate.runtime import file_kind
from adastate.runtime.argument_types import above_zero, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.missing import to_come_by
from adastate.runtime.writable import check_writable
from adastate.weights.builtin import BUILTIN

if TYPE_CHECKING:
    from adastate.weights.network_weights import NetworkWeights

DTYPES = ("float32", "bfloat16", "float16")


def run(args: argparse.Namespace) -> None:
    """Does what a verb of `parser` asks for."""
    if args.verb == "export" and args.parts is not None and args.layout != "diffusers-pipeline":
        raise SystemExit("adastate: --parts belongs to --layout diffusers-pipeline")
    if args.verb != "inspect":
        _check_out(args)
    for source in (args.source, args.base):
        if source is not None and source not in BUILTIN and not Path(source).exists():
            raise SystemExit(f"adastate: no weights at {source}; {to_come_by(Path(source), BUILTIN)}")
        if source is not None and Path(source).is_file():
            file_kind.kind(Path(source))
    if args.verb != "inspect":
        check_writable(args.out.parent)
    # up to here nothing has imported torch
    from rich.console import Console
    from rich.filesize import decimal

    from adastate.weights.files import WeightsError
    from adastate.weights.network_weights import open_weights

    console = Console(soft_wrap=False)
    try:
        checkpoint = open_weights(args.source, args.key, args.base, args.lora_alpha, args.heads)
        if args.verb != "inspect":
            checkpoint.require()
        console.print(checkpoint.report.table())
        for file in _write(args, checkpoint):
            console.print(f"{file} ({decimal(file.stat().st_size)})", highlight=False, markup=False)
    except WeightsError as error:
        raise SystemExit(f"adastate: {error}") from error


def _check_out(args: argparse.Namespace) -> None:
    """Refuses what cannot be written, and parts that are not there."""
    if args.verb == "import":
        if args.difference_from is not None and args.dtype != "int8":
            raise SystemExit("adastate: --difference-from goes with 8 bits: give --dtype int8, too")
        if args.difference_from is not None and not args.difference_from.is_file():
            raise SystemExit(f"adastate: no weights at {args.difference_from}: give the file that is subtracted")
        if args.out.suffix != ".safetensors":
            raise SystemExit(
                f"adastate: {args.out} does not end in .safetensors, the format of our own files: name it "
                f"{args.out / 'student' if args.out.is_dir() else args.out.with_suffix('')}.safetensors"
            )
        return
    if args.out.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
        raise SystemExit(
            f"adastate: an export is a folder, and {args.out} names a file: give {args.out.with_suffix('')}"
        )
    if args.out.is_file():
        raise SystemExit(f"adastate: {args.out} is a file, and an export is a folder: give another name")
    if args.parts is not None and not args.parts.is_dir():
        raise SystemExit(f"adastate: there is no folder {args.parts}: give that of a pipeline in diffusers' layout")


def _write(args: argparse.Namespace, checkpoint: NetworkWeights) -> list[Path]:
    if args.verb == "inspect":
        return []
    import torch

    from adastate.weights.exporting import export, import_
    from adastate.weights.pipeline_folder import export_pipeline, parts_of

    dtype: torch.dtype | None = getattr(torch, args.dtype) if args.dtype else None
    if args.verb == "import":
        return [import_(checkpoint, args.out, dtype, args.force, args.difference_from)]
    if args.layout == "diffusers-pipeline":
        parts = parts_of(checkpoint, Path(args.source), args.parts)
        return export_pipeline(checkpoint, args.out, parts, dtype, args.shard_gb, args.force)
    return export(checkpoint, args.out, args.layout, dtype, args.shard_gb, args.force)


def parser(about: str, others: Sequence[str]) -> tuple[Arguments, argparse._SubParsersAction[Arguments]]:
    """(the parser, its verbs, to which the `others` are added)."""
    parser = Arguments("adastate weights", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="|".join(("inspect", "import", "export", *others))
    )
    for verb, text in (
        ("inspect", "print the content of a source"),
        ("import", "write any source as our own .safetensors file"),
        ("export", "write a source in diffusers' layout, as a pipeline, or under Wan's names"),
    ):
        at = verbs.add_parser(verb, help=text, description=text)
        at.add_argument("source", type=os.path.expanduser, help="file or folder")
        if verb == "import":
            at.add_argument("out", type=Path, help=".safetensors file to write")
            at.add_argument(
                "--difference-from",
                type=Path,
                help="with --dtype int8: file in the same folder whose weights are subtracted",
            )
        if verb == "export":
            at.add_argument("out", type=Path, help="folder to write")
            at.add_argument("--layout", choices=("diffusers", "diffusers-pipeline", "wan"), required=True)
            at.add_argument(
                "--parts",
                type=Path,
                help="pipeline whose VAE, text encoder and tokenizer are exported with the network",
            )
            at.add_argument(
                "--shard-gb",
                type=above_zero,
                default=10.0,
                help="maximum size of a shard; larger networks are split and get an index",
            )
        if verb != "inspect":
            kinds = (*DTYPES, "int8") if verb == "import" else DTYPES
            at.add_argument("--dtype", choices=kinds, help="dtype of the weights; default: unchanged")
            at.add_argument("--force", action="store_true", help="overwrite existing files")
        at.add_argument(
            "--key", help="which of several networks to read, e.g. generator_ema; default: the average, if any"
        )
        at.add_argument("--base", type=os.path.expanduser, help="base weights of a LoRA")
        at.add_argument(
            "--lora-alpha", type=above_zero, help="alpha of a LoRA; default: the file's, or its rank (scale 1)"
        )
        at.add_argument("--heads", type=whole(1), help="attention heads, if the source does not give them")
    return parser, verbs
