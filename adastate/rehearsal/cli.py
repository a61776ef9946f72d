"""`adastate rehearse`: runs one iteration on a simulated cluster, and reports what would fail there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from adastate.config.command_line import read_command
from adastate.config.overrides import override
from adastate.config.schema import ConfigError
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments

WHAT = ("fit", "stream", "live")


def parser() -> Arguments:
    """Parser of the command; needs no torch."""
    made = Arguments(
        prog="adastate rehearse",
        usage="adastate rehearse --config FILE ... [options] [--data.batch=4 and other overrides]",
        description=__doc__,
    )
    made.add_argument("--device", choices=list(ACCELERATORS), default="h200", help="GPU of every rank")
    made.add_argument("--gpus", type=whole(1), help="GPUs per machine (default: trainer.devices, or 1)")
    made.add_argument("--nodes", type=whole(1), help="number of machines (default: trainer.num_nodes, or 1)")
    made.add_argument("--rank", type=int, default=0, help="rank of the process to report on")
    made.add_argument(
        "--what", choices=WHAT, default=WHAT[0], help="the stage, a stream of its student, or live sessions"
    )
    made.add_argument("--sessions", type=whole(1), default=4, help="number of sessions, with --what live")
    made.add_argument(
        "--full-depth",
        action="store_true",
        help="run all layers, not two and three of them (slow)",
    )
    made.add_argument("--json", action="store_true", help="print JSON, in bytes, FLOP and seconds")
    return made


def main(argv: Sequence[str]) -> None:
    if not argv or "-h" in argv or "--help" in argv:
        parser().print_help()
        return
    config, rest = read_command(argv)
    options = parser()
    args, rest = options.parse_known_args(rest)
    override(config, rest, "adastate rehearse", options.options)
    trainer = config.lightning.get("trainer") or {}
    gpus = args.gpus if args.gpus is not None else _devices(trainer.get("devices"))
    nodes = args.nodes if args.nodes is not None else int(trainer.get("num_nodes") or 1)
    if not 0 <= args.rank < gpus * nodes:
        raise ConfigError(f"there is no rank {args.rank} on {nodes} machines with {gpus} GPUs each")
    if not config.lightning.get("model") or not config.lightning.get("data"):
        raise ConfigError("these config files contain no stage: add one of conf/stages/")

    from adastate.rehearsal.rehearsal_report import show_rehearsal, verdict_as_json
    from adastate.rehearsal.rehearse import rehearse  # imports torch

    verdict = rehearse(config, args.device, gpus, nodes, args.rank, args.what, args.sessions, args.full_depth)
    if args.json:
        print(json.dumps(verdict_as_json(verdict), indent=1))
    else:
        show_rehearsal(verdict, args.device, Console())
    if verdict.errors:
        raise SystemExit(1)


def _devices(told: Any) -> int:
    """Devices of a machine, from the trainer's `devices`; if that is "auto" only the user knows."""
    if isinstance(told, list):
        return len(told)
    return int(told) if str(told).isdigit() else 1
