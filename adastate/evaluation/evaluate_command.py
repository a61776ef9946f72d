"""`adastate evaluate`: rollouts at once and six times the training horizon, measured against their prompts.

Protocol: every rollout streams from its own noise; all figures come from its decoded pictures. "1x" is the training
horizon from the first picture on; "last second" are the last `fps` pictures. Prompts are captions of the tiny world,
whose headings, speeds and palettes are spread evenly, so the truth is known. Prompts of one's own are rolled out
equally often and only what needs no truth is measured; real clips of the run's shards, through the codec, are the
reference. "Change" tells the dynamics then: from picture to picture, and over half a second, which is more for motion
and the same for flicker. "Scene" is the share of rollouts whose nearest real clip, by the mean picture, has their
prompt for its caption. "Optical flow" and "dynamic degree", the mean length of all flow vectors and of the largest
twentieth, in pixels a picture, are RAFT's, and left out where torchvision or its weights are not installed.

A run of the flight world is measured on flights of every biome, time and weather that keep one command: turns and
banks, the scene, how one latent frame follows from the other, and how fast the camera's hidden constants drift, beside
its teacher's and renders. --look-away 2 4 8 16 measures memory there: the camera looks away from a landmark for so
many latent frames, and returns (docs/guide/flight.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

from adastate.config import trusted
from adastate.config.run_folder import check_student, prompt_world, run_config
from adastate.config.systems import check_system, system_names
from adastate.config.world_words import strange_words, vocabularies
from adastate.runtime.argument_types import device, prompt_file, there, whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.gpu_driver import check_device
from adastate.runtime.text_files import read_prompts
from adastate.runtime.writable import check_file


def main(argv: list[str]) -> None:
    options = parser()
    args = options.parse_args(argv)
    if not args.look_away and (args.drifting or len(args.system or ()) > 1):
        options.error("--drifting, and more than one --system, belong to --look-away")
    check_device(args.device)
    for name in args.system or ():
        check_system(name)
    config = run_config(args.run, "distill")
    check_student(args.run, args.weights)
    prompts = read_prompts(args.prompts) if args.prompts else None
    if note := strange_words("evaluate", prompts or [], prompt_world(config)):
        print(note, file=sys.stderr)
    check_file(args.json or args.run / "evaluation.json", "give a file elsewhere with --json")
    # up to here nothing has imported torch
    from adastate.evaluation.evaluate import evaluate_run

    evaluate_run(args, prompts)


def parser() -> Arguments:
    """What `adastate evaluate` takes."""
    found = Arguments("adastate evaluate", description=__doc__, epilog=vocabularies())
    found.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    found.add_argument("--weights", type=Path, help="safetensors to measure; default: the run's student.safetensors")
    found.add_argument(
        "--rollouts", type=whole(1), help="at least so many, each of --prompts equally often; default 32, 64"
    )
    found.add_argument("--horizon", type=whole(1), default=6, help="length in training horizons")
    found.add_argument(
        "--prompts",
        type=prompt_file,
        help="text file, one prompt a line; default: those of the run's world, with truth",
    )
    found.add_argument(
        "--system", nargs="+", help=f"another stream, several with --look-away: {', '.join(system_names())}"
    )
    found.add_argument(
        "--look-away",
        nargs="+",
        type=whole(1),
        metavar="FRAMES",
        help="memory: look away for so many latent frames, return",
    )
    found.add_argument("--drifting", action="store_true", help="with --look-away: a balloon that the wind carries on")
    found.add_argument("--seed", type=int, default=4242, help="of the noise and the flights")
    found.add_argument("--device", type=device, help="cpu, cuda, cuda:1; default: a GPU if there is one")
    found.add_argument("--json", type=Path, help="where the figures go; default <run>/evaluation.json")
    found.add_argument(
        "--raft",
        type=there("file of RAFT's weights", "leave it out for torch's hub folder"),
        help="torchvision's weights of raft_small, for optical flow; default: torch's hub folder",
    )
    trusted.add_flag(found)
    return found
