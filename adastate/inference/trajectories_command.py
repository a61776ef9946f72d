"""`adastate trajectories`: a teacher's ODE paths, written as shards for the causal initialisation.

The teacher is the bidirectional one, or with `--teacher causal` the network of the recipe ar_diffusion. That network
generates chunk by chunk, conditioned on its own chunks or on those of real clips (`--past`). `--from-lmdb` converts
pairs that others have published as LMDB.

Under torchrun, srun or `--devices N`, every process writes its share into its own shards. If the command is killed and
run again, it resumes, also with another number of processes; the same seed gives the same paths.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from adastate.config.command_line import read_command
from adastate.config.schema import ConfigError
from adastate.config.world_words import strange_words, vocabularies
from adastate.launch import process_group
from adastate.runtime.argument_types import device, prompt_file, there, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device
from adastate.runtime.missing import to_come_by
from adastate.runtime.ranks import this_rank
from adastate.runtime.text_files import read_prompts
from adastate.runtime.writable import check_writable
from adastate.weights.builtin import BUILTIN


def main(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        parser().parse_args(["--help"])
    config, rest = read_command(argv)
    args = parser().parse_args(rest)
    check_device(args.device)
    variables = config.variables
    if not variables.get("size") or not variables.get("run"):
        raise ConfigError("give --config conf/base.yaml and one of conf/sizes/, whose teacher makes the trajectories")
    if args.past and (args.teacher != "causal" or args.prompts):
        raise ConfigError("--past goes with --teacher causal, and has its own prompts: the captions of its clips")
    _check_levels(args.levels)
    _check_teacher(args.teacher, args.weights, variables, bool(args.from_lmdb))
    prompts = read_prompts(args.prompts) if args.prompts else None
    check_writable(args.out or Path(variables["run"]["dir"]), "give another folder with --out")
    rank = this_rank(os.environ)
    if args.devices > 1 and rank.world == 1:
        process_group.processes(["trajectories", *argv], args.devices)
        return
    world = variables["run"].get("world") if "TinyText" in str(variables.get("text")) else None
    if (note := strange_words("trajectories", prompts or [], world)) and rank.rank == 0:
        print(note, file=sys.stderr)
    # up to here nothing has imported torch
    from adastate.inference.write_trajectories import write_trajectories

    try:
        write_trajectories(config, args, rank, prompts)
    except ValueError as error:  # of levels, shards, prompts: each says what is wrong
        raise SystemExit(f"adastate trajectories: {' '.join(str(error).split())}") from error


def _check_levels(levels: list[str]) -> None:
    if levels != ["every"]:
        try:
            [float(word) for word in levels]
        except ValueError:
            told = f"--levels takes timesteps, or the one word 'every'; got {' '.join(levels)}"
            raise ConfigError(told) from None


def _check_teacher(kind: str, weights: Path | None, variables: dict[str, Any], imported: bool) -> None:
    """Refuses weights of the teacher that are not there."""
    if kind == "causal":
        source = str(weights or Path(variables["run"]["dir"]) / "ar.safetensors")
        if source not in BUILTIN and not Path(source).exists():
            raise ConfigError(
                f"no weights of an autoregressive network at {source}: make them with `make train-init "
                "RECIPE=ar_diffusion`, or name them with --weights"
            )
        return
    if weights is not None:
        raise ConfigError(
            "--weights is for --teacher causal; those of the bidirectional one are --teacher.weights=FILE"
        )
    named = (variables.get("teacher") or {}).get("weights")
    if named and not imported and str(named) not in BUILTIN and not Path(named).exists():
        raise ConfigError(f"no weights at {named}; {to_come_by(Path(named))}")


def parser() -> Arguments:
    """What `adastate trajectories` takes, beside the files and variables of a configuration."""
    found = Arguments("adastate trajectories", description=__doc__, epilog=vocabularies())
    add = found.add_argument
    add("--teacher", choices=("bidirectional", "causal"), default="bidirectional")
    add("--weights", type=Path, help="weights of the causal teacher; default <run.dir>/ar.safetensors")
    add("--past", help="shards of clips that the causal teacher continues; default: its own chunks")
    add(
        "--from-lmdb",
        type=there("folder of pairs", "give that of the LMDB"),
        metavar="FOLDER",
        help="convert published pairs; --levels gives the levels that they have",
    )
    add("--out", type=Path, help="folder of the shards; default <run.dir>/trajectories, or /causal_trajectories")
    add("--clips", type=whole(1), default=1024, help="paths to write (default: %(default)s)")
    add("--prompts", type=prompt_file, help="text file, one prompt per line; default: captions of the built-in world")
    add("--steps", type=whole(1), default=48, help="steps of the solver (default: %(default)s)")
    add("--solver", choices=("euler", "unipc"), default="euler")
    add("--guidance", type=float, help="w in c + w (c - u); default: the teacher's")
    add(
        "--levels",
        nargs="+",
        default=[],
        help="timesteps before the shift to keep in addition to the student's; or 'every'",
    )
    add("--batch", type=whole(1), help="paths at a time; default 1 at Wan's size, 32 at the tiny size")
    add("--seed", type=int, default=0, help="seed of the noise")
    add("--per-shard", type=whole(1), help="paths per shard; default: 256 MB, and at most 256 paths")
    add("--devices", type=whole(1), default=1, help="processes to start on this machine")
    add("--device", type=device, help="default: a GPU if there is one; cuda is the GPU of this rank")
    return found
