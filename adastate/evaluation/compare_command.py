"""`adastate compare`: the same weights, prompts and noise under several systems, side by side.

Every system is a file of conf/systems/, rescaled to the checkpoint's chunk; "as trained" is the checkpoint's own
stream. Noise is a function of the position in the stream (chunk, level, state or content), so all systems denoise the
same noise into the same content wherever their schedules agree. Output: one page with videos, strips and the metrics
of `adastate evaluate`, and the metrics as JSON.

The comparison is not neutral: a student works best with the anchor that it was trained with, which the page names. So
several runs may be given, `--run A --run B`, and each is then shown under the system that it was trained with.
"""

from __future__ import annotations

import sys
from pathlib import Path

from adastate.config import trusted
from adastate.config.run_folder import check_student, prompt_world, run_config
from adastate.config.systems import TRAINED, check_systems, system_names
from adastate.config.world_words import strange_words, vocabularies
from adastate.runtime.argument_types import device, prompt_file, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device
from adastate.runtime.text_files import read_prompts
from adastate.runtime.writable import check_writable

DEFAULT = (
    "self_forcing",
    "causvid",
    "causal_forcing_pp",
    "longlive",
    "longlive_slot",
    "rolling_forcing",
    "reward_forcing",
    "infinity_rope",
    "memrope",
    "rolling_sink",
)
"""Causal-Forcing streams like Self-Forcing (they differ in training), so one of them represents both."""


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    args.run = args.run or [Path("runs/tiny")]
    if len(args.run) > 1 and args.checkpoint:
        parser().error("--checkpoint names weights in the geometry of one run: give one --run with it")
    args.systems = args.systems or ([TRAINED, *DEFAULT] if len(args.run) == 1 else [TRAINED])
    check_device(args.device)
    check_systems(args.systems, (TRAINED,))
    prompts = read_prompts(args.prompts) if args.prompts else None
    for run in args.run:
        config = run_config(run, "distill")
        for checkpoint in args.checkpoint or [None]:
            check_student(run, checkpoint)
        if note := strange_words("compare", prompts or [], prompt_world(config)):
            print(note, file=sys.stderr)
    check_writable(args.out or args.run[0] / "compare", "give another folder with --out")
    # nothing has imported torch up to here
    from adastate.evaluation.compare import compare_run

    compare_run(args, prompts)


def parser() -> Arguments:
    """Parser of the arguments of `adastate compare`."""
    found = Arguments("adastate compare", description=__doc__.split("\n\n")[0], epilog=vocabularies())
    found.add_argument("--run", type=Path, action="append", help="run folder; can be repeated; default: runs/tiny")
    found.add_argument("--checkpoint", type=Path, action="append", default=[], help="safetensors file; can be repeated")
    found.add_argument(
        "--systems",
        nargs="+",
        help=f"of {', '.join(system_names())}, or files; default: all, or for several runs {TRAINED!r}",
    )
    found.add_argument(
        "--prompts", type=prompt_file, help="text file, one prompt per line; default: prompts of the tiny world"
    )
    found.add_argument("--rollouts", type=whole(1), default=16, help="rollouts to measure")
    found.add_argument("--shown", type=whole(1), default=3, help="number of them to show as videos and strips")
    found.add_argument("--horizon", type=whole(1), default=6, help="length in training horizons")
    found.add_argument("--seed", type=int, default=4242, help="seed of the noise and the flights")
    found.add_argument("--out", type=Path, help="folder; default <run>/compare")
    found.add_argument("--device", type=device, help="cpu, cuda, cuda:1; default: a GPU if there is one")
    trusted.add_flag(found)
    return found
