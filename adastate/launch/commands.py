"""The commands of `adastate`, in one table: what each is for, and the module that reads its command line.

A module here imports no torch. Its `parser()` defines the arguments, its `main(argv)` reads that, answers what
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
    "generate": Command("adastate.inference.generate_command", "generate videos of any length from prompts, as mp4"),
    "live": Command(
        "adastate.live.serve", "a web page to type a prompt and watch, steer, rewind; and a server for clients"
    ),
    "evaluate": Command("adastate.evaluation.evaluate_command", "measure rollouts against their prompts"),
    "compare": Command(
        "adastate.evaluation.compare_command",
        "the same weights, prompts and noise under several systems, side by side",
    ),
    "study": Command(
        "adastate.study.cli",
        "the paper's study in miniature: train and measure arms x seeds, write a report",
        stops=True,
    ),
    "trajectories": Command("adastate.inference.trajectories_command", "write the teacher's ODE paths as shards"),
    "plan": Command("adastate.plan.cli", "memory, steps and FLOP of a stage before it runs, and whether it fits"),
    "rehearse": Command(
        "adastate.rehearsal.cli", "run one iteration on a simulated cluster: memory, waits, mistakes, estimates"
    ),
    "weights": Command(
        "adastate.hub.cli",
        "inspect, import and export checkpoints; push to the Hub, pull from it",
    ),
    "cameras": Command("adastate.cameras.cli", "convert cameras and keys of other projects to poses and actions"),
    "parity": Command(
        "adastate.parity.cli", "replay recorded runs of the reference implementations and compare every tensor"
    ),
    "shards": Command("datamodules.tools.shards_command", "write a folder of videos (or a built-in world) as shards"),
    "completion": Command("adastate.launch.completion", "a script for completion in bash or zsh"),
}
