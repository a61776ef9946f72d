"""`adastate evaluate`: compares rollouts with their prompts, over one training horizon and at the end of six.

Protocol: every rollout streams from its own noise, and all metrics are computed from its decoded frames. "1x" is the
training horizon from the first frame on; "last second" is the last `fps` frames. Prompts are captions of the tiny world
with evenly spread headings, speeds and palettes, so the truth is known. Your own prompts (--prompts) are rolled out
equally often, and only the metrics that need no truth are computed; the reference is real clips of the run's shards,
passed through the codec. "Change" then describes the dynamics, from frame to frame and over half a second; the second
is larger for motion and the same for flicker. "Scene" is the share of rollouts whose prompt is the caption of the
nearest real clip, by the mean frame. "Optical flow" and "dynamic degree" are the mean length of all flow vectors of
RAFT and of the largest twentieth, in pixels per frame; they are left out if torchvision or its weights are not
installed.

A run of the flight world is evaluated on flights of every biome, time and weather, each with one constant command. The
metrics are turns and banks, the scene, the coherence of consecutive latent frames, and the drift of the camera's hidden
constants, next to those of its teacher and of renders. --look-away 2 4 8 16 measures memory: the camera looks away from
a landmark for the given numbers of latent frames, and returns (docs/guide/flight.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

from adastate.config import trusted
from adastate.config.run_folder import check_student, prompt_world, run_config
from adastate.config.systems import check_systems, system_names
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
        options.error("--drifting, and more than one --system, need --look-away")
    check_device(args.device)
    check_systems(args.system or ())
    config = run_config(args.run, "distill")
    check_student(args.run, args.weights)
    prompts = read_prompts(args.prompts) if args.prompts else None
    if note := strange_words("evaluate", prompts or [], prompt_world(config)):
        print(note, file=sys.stderr)
    check_file(args.json or args.run / "evaluation.json", "give a file elsewhere with --json")
    # nothing has imported torch up to here
    from adastate.evaluation.evaluate import evaluate_run

    evaluate_run(args, prompts)


def parser() -> Arguments:
    """Parser of the arguments of `adastate evaluate`."""
    found = Arguments("adastate evaluate", description=__doc__, epilog=vocabularies())
    found.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    found.add_argument("--weights", type=Path, help="safetensors to measure; default: the run's student.safetensors")
    found.add_argument(
        "--rollouts",
        type=whole(1),
        help="minimum number, each of --prompts equally often; default 32, or 64 with --look-away",
    )
    found.add_argument("--horizon", type=whole(1), default=6, help="length in training horizons")
    found.add_argument(
        "--prompts",
        type=prompt_file,
        help="text file, one prompt per line; default: prompts of the run's world, for which the truth is known",
    )
    found.add_argument(
        "--system", nargs="+", help=f"other stream configuration, several with --look-away: {', '.join(system_names())}"
    )
    found.add_argument(
        "--look-away",
        nargs="+",
        type=whole(1),
        metavar="FRAMES",
        help="measure memory: look away for these numbers of latent frames, and return",
    )
    found.add_argument("--drifting", action="store_true", help="with --look-away: a balloon that drifts with the wind")
    found.add_argument("--seed", type=int, default=4242, help="seed of the noise and the flights")
    found.add_argument("--device", type=device, help="cpu, cuda, cuda:1; default: a GPU if there is one")
    found.add_argument("--json", type=Path, help="file for the figures; default <run>/evaluation.json")
    found.add_argument(
        "--raft",
        type=there("file of RAFT's weights", "leave it out for torch's hub folder"),
        help="torchvision's weights of raft_small, for optical flow; default: torch's hub folder",
    )
    trusted.add_flag(found)
    return found
