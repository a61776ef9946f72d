"""Parsers for the subcommands of `adastate study`; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments
from adastate.study.study_worlds import STUDY_WORLDS

HIDDEN = (7, 9, 18, 27)
"""Pictures hidden by the banks: two lengths of training, and two longer than keys can carry."""

UNSEEN = 7171
"""Seed of the gate's flights; teachers are trained on seeds 0, 1 and 2."""


def measure_parser() -> Arguments:
    """Measures a run's rollouts; writes one file of numbers and a few pictures."""
    found = _measured("measure", measure_parser.__doc__)
    found.add_argument("--run", type=Path, required=True, help="run folder of a distilled student")
    found.add_argument("--out", type=Path, help="folder to write into; default: the run's")
    found.add_argument("--arm", default="", help="arm of the table whose stream is used for the rollouts")
    return found


def real_parser() -> Arguments:
    """Measures the true flights in the same way, passed through the codec."""
    found = _measured("real", real_parser.__doc__)
    found.add_argument("--out", type=Path, required=True, help="folder to write into")
    found.add_argument("--codec", default="builtin", help="safetensors of the codec")
    return found


def gate_parser() -> Arguments:
    """Whether the teacher itself remembers: compares the hue after its fog with the correct one."""
    found = Arguments("adastate study gate", description=gate_parser.__doc__)
    found.add_argument("--world", choices=[w for w in STUDY_WORLDS if w != "plain"], default="mist")
    found.add_argument("--teacher", default="", help="safetensors file; default: the bundled one of the world")
    found.add_argument("--codec", default="", help="the same for its codec")
    found.add_argument("--clips", type=whole(1), default=96)
    found.add_argument("--frames", type=whole(1), help="latent frames per clip; default: a horizon of the world")
    found.add_argument("--steps", type=whole(1), default=16, help="steps of the teacher's solver")
    found.add_argument("--guidance", type=float, help="default: that of the study")
    found.add_argument("--seed", type=int, default=UNSEEN)
    found.add_argument("--json", type=Path, help="file for the figures")
    return found


def intervene_parser() -> Arguments:
    """Experiments on the memory of one trained student, by inference alone; writes one JSON file."""
    found = Arguments("adastate study intervene", description=intervene_parser.__doc__)
    found.add_argument("--run", type=Path, help="run folder of a distilled student; default: the bundled student")
    found.add_argument("--checkpoint", type=Path, help="safetensors; default: the run's student")
    found.add_argument("--world", choices=STUDY_WORLDS, default="mist")
    found.add_argument("--pairs", type=whole(1), default=16, help="pairs of flights that exchange anchors")
    found.add_argument("--hidden", type=whole(1), nargs="+", default=list(HIDDEN), help="frames that banks of fog hide")
    found.add_argument("--chunks", type=whole(1), default=24, help="number of chunks over which streams are compared")
    found.add_argument("--rows", type=whole(2), default=8, help="streams per comparison")
    found.add_argument("--seed", type=int, default=4242)
    found.add_argument("--json", type=Path, help="file for the figures; default: in the run folder")
    return found


def decide_parser() -> Arguments:
    """Decides the claims from the records of one world alone."""
    found = Arguments("adastate study decide", description=decide_parser.__doc__)
    found.add_argument("--records", type=Path, required=True, help="folder with the records of one world")
    found.add_argument("--claims", type=Path, help="file to use instead of conf/study/claims.yaml")
    return found


def _measured(what: str, about: str | None) -> Arguments:
    found = Arguments(f"adastate study {what}", description=about)
    found.add_argument("--world", choices=STUDY_WORLDS, default="mist")
    found.add_argument("--rollouts", type=whole(1), default=32)
    found.add_argument(
        "--horizons", type=whole(1), nargs="+", default=[1, 3, 6], help="stretches, the last is the length"
    )
    found.add_argument("--seed", type=int, default=4242)
    return found


PART_PARSERS: dict[str, Callable[[], Arguments]] = {
    "measure": measure_parser,
    "real": real_parser,
    "gate": gate_parser,
    "intervene": intervene_parser,
    "decide": decide_parser,
}
