"""The commands of `adastate`, in one table: what each is for, and the module that reads its command line.

A module here imports no torch. Its `parser()` tells what the command takes, its `main(argv)` reads that, answers what
the text alone shows to be wrong, and only then imports what does the work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from adastate.runtime.arguments import Arguments


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: its `parser()` and `main(argv)`.
        about: what it is for, in a line.
        stops: SIGTERM and Ctrl-C save what there is and end it, from its first moment on.
    """

    module: str
    about: str
    stops: bool = False

    @property
    def main(self) -> Callable[[list[str]], None]:
        """Runs the command with these words."""
        run: Callable[[list[str]], None] = importlib.import_module(self.module).main
        return run

    @property
    def parser(self) -> Callable[[], Arguments]:
        """Makes the parser of its words."""
        make: Callable[[], Arguments] = importlib.import_module(self.module).parser
        return make


COMMANDS = {
    "fit": Command(
        "adastate.launch.fit_command",
        "train a stage: adastate fit --config conf/... [--model.x=...] [--stream.y=...]",
        stops=True,
    ),
    "train": Command("adastate.launch.pipeline", "the whole pipeline, from data to evaluated rollouts", stops=True),
    "generate": Command("adastate.inference.generate_command", "checkpoint + prompts + seconds -> mp4, streaming"),
    "live": Command(
        "adastate.live.serve", "a page to type a prompt and watch, steer, go back; and a server for clients"
    ),
    "evaluate": Command("adastate.evaluation.evaluate_command", "measure rollouts against their prompts"),
    "compare": Command(
        "adastate.evaluation.compare_command",
        "the same weights, prompts and noise under several systems, side by side",
    ),
    "study": Command(
        "adastate.study.cli", "the paper's study in miniature: arms x seeds, measured, and a report", stops=True
    ),
    "trajectories": Command("adastate.inference.trajectories_command", "write the teacher's ODE paths as shards"),
    "plan": Command("adastate.plan.cli", "what a stage takes, before it runs: memory, steps, FLOP, what fits"),
    "rehearse": Command(
        "adastate.rehearsal.cli", "an iteration on a pretended cluster: memory, waits, mistakes, estimates"
    ),
    "weights": Command(
        "adastate.hub.cli",
        "look into checkpoints of any origin, import and export them; push to the Hub, pull from it",
    ),
    "cameras": Command("adastate.cameras.cli", "read cameras and keys of other projects into poses and actions"),
    "parity": Command(
        "adastate.parity.cli", "replay recorded runs of the reference implementations, compare every tensor"
    ),
    "shards": Command("datamodules.tools.shards_command", "turn a folder of videos (or a built-in world) into shards"),
    "completion": Command("adastate.launch.completion", "what bash or zsh needs to complete all of this"),
}
