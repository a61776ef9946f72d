"""`adastate plan`: parameters, memory, steps and FLOP of a stage, before it runs and without building a network."""

from __future__ import annotations

from collections.abc import Sequence

from adastate.config.command_line import read_command
from adastate.config.described import described
from adastate.config.overrides import override
from adastate.config.schema import ConfigError
from adastate.runtime.argument_types import above_zero, whole
from adastate.runtime.arguments import Arguments

RATE, EFFICIENCY = 790.0, 0.4
"""bfloat16 matrix products of an H200 in TFLOP/s, measured; and the fraction of it that training should reach."""


def main(argv: Sequence[str]) -> None:
    options = parser()
    if not argv or "-h" in argv or "--help" in argv:
        options.print_help()
        return
    config, rest = read_command(argv)
    args, rest = options.parse_known_args(rest)
    override(config, rest, "adastate plan", options.options)
    if args.trajectories is None and not config.lightning.get("model"):
        raise ConfigError("these config files contain no stage: add one of conf/stages/")
    # nothing has imported torch up to here
    from adastate.plan.planning import plan_stage

    plan_stage(config, args)


def parser() -> Arguments:
    """Parser of the arguments of `adastate plan`, besides the files and variables of a configuration."""
    found = Arguments(
        prog="adastate plan",
        usage="adastate plan --config FILE ... [options] [--data.batch=4 and other overrides]",
        description=__doc__,
    )
    found.add_argument("--gpus", type=whole(1), help="GPUs per machine (default: trainer.devices)")
    found.add_argument("--nodes", type=whole(1), help="number of machines (default: trainer.num_nodes)")
    found.add_argument("--memory", type=above_zero, default=80.0, help="memory of a GPU, in GiB (default: 80)")
    found.add_argument(
        "--zero",
        choices=described("adastate.plan.memory.STAGES"),
        help="ZeRO stage; 0 is DDP (default: of trainer.strategy)",
    )
    found.add_argument(
        "--tflops", type=above_zero, default=RATE * EFFICIENCY, help="TFLOP/s that a GPU reaches (default: 316)"
    )
    found.add_argument(
        "--trajectories",
        type=whole(1),
        metavar="CLIPS",
        help="plan this number of teacher trajectories instead of a stage",
    )
    found.add_argument("--steps", type=whole(1), default=48, help="steps of a trajectory")
    found.add_argument("--json", action="store_true", help="print JSON, in bytes, FLOP and seconds")
    found.add_argument(
        "--job", action="store_true", help="print the resources that conf/slurm.sh requests from SLURM for this run"
    )
    return found
