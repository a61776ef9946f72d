"""`make results`: measures the cheap numbers of the README and of docs/ again, and compares them with the pages.

Each part runs a command of the project and compares its results with cells of tables and sentences of the pages. It
prints both numbers, and fails if they differ by more than another processor explains. Results that take hours
(`make train`, `make study`, `make faults`) are not measured here; docs/results/provenance.md names the command of each.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from adastate.runtime import atomic  # noqa: E402

SHIPPED = ROOT / "adastate/pretrained"
CARD, STUDY, README = "docs/reference/pretrained.md", "docs/results/study.md", "README.md"


@dataclass(frozen=True)
class Quoted:
    """A number as quoted on a page.

    Attributes:
        key: of the result of a part.
        row: the first cell of its row in a table; without a `column` a regular expression for a sentence, with a group.
        within: maximum difference due to another processor's rounding.
        at_most: whether the page gives a bound, so that any smaller number agrees.
    """

    page: str
    key: str
    row: str
    column: str = ""
    within: float = 0.0
    at_most: bool = False

    def said(self) -> float:
        """The number on the page.

        Raises:
            LookupError: the page does not contain it.
        """
        text = (ROOT / self.page).read_text(encoding="utf-8")
        if self.column:
            return first_number(cell(text, self.row, self.column))
        if found := re.search(self.row, " ".join(text.split())):
            return first_number(found[1])
        raise LookupError(f"{self.page} has no sentence like {self.row!r}")

    def holds(self, said: float, found: float) -> bool:
        return found <= said if self.at_most else abs(found - said) <= self.within + 1e-9


def cell(text: str, row: str, column: str) -> str:
    """The cell of the first table with this row and column.

    Raises:
        LookupError: there is none.
    """
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *lines = ([part.strip() for part in line.strip("|\n").split("|")] for line in table.splitlines())
        for cells in lines:
            if cells[0] == row and column in head:
                return str(cells[head.index(column)])
    raise LookupError(f"no table has the row {row!r} and the column {column!r}")


def first_number(text: str) -> float:
    """The first number of a text; percentages as fractions, millions written out."""
    found = re.search(r"-?\d*\.?\d+(?:e-?\d+)?", text.replace(",", ""))
    if found is None:
        raise LookupError(f"{text!r} has no number")
    unit = text.replace(",", "")[found.end() :].lstrip("*")
    return float(found[0]) * (0.01 if unit.startswith("%") else 1e6 if unit.startswith(" million") else 1.0)


@dataclass(frozen=True)
class Part:
    """Numbers that one command produces.

    Attributes:
        command: as typed; `{out}` is a folder for its output.
        told: where the numbers are quoted.
        found: computes them, by their keys, in a folder.
        minutes: of one core, roughly.
    """

    name: str
    command: str
    told: tuple[Quoted, ...]
    found: Callable[[Path], dict[str, float]]
    minutes: float


def bundled_sizes(out: Path) -> dict[str, float]:
    """Sizes of the bundled files in MB, and how many parameters each has."""
    from safetensors import safe_open

    found = dict[str, float]()
    for path in SHIPPED.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        found |= {
            f"{path.stem}, MB": path.stat().st_size / 1e6,
            f"{path.stem}, parameters": sum(map(math.prod, shapes)),
        }
    return found


def parity(out: Path) -> dict[str, float]:
    """The largest difference over all recorded runs."""
    from adastate.parity.fixture_folders import find_fixtures
    from adastate.parity.verdict import judge

    folders = find_fixtures(ROOT / "tests/data")
    verdicts = [judge(folder, folder.name) for folder in folders]
    wrong = [v.line(0) for v in verdicts if not v.passed]
    assert not wrong, wrong
    return {"largest difference": max(c.difference for v in verdicts for c in v.compared)}


def gate_figures(world: str) -> Callable[[Path], dict[str, float]]:
    def found(out: Path) -> dict[str, float]:
        from adastate.study.cli import main

        file = out / f"gate_{world}.json"
        main(["gate", "--world", world, "--clips", "96", "--json", str(file)])
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {f"{name}, {key}": float(rows[name][key]) for name in ("teacher", "real") for key in GATE.values()}

    return found


def student_figures(out: Path) -> dict[str, float]:
    """The report of `adastate evaluate` on the bundled student, its teacher and real clips."""
    from adastate.evaluation.evaluate_command import main
    from adastate.inference.student_source import student_source

    run, file = out / "bundled", out / "evaluation.json"
    source = student_source(None, SHIPPED / "tiny_student.safetensors", "tiny", None, [])
    atomic.write_text(run / "distill" / "config.yaml", yaml.safe_dump(dict(source.config)))
    shutil.copyfile(source.weights, run / "student.safetensors")
    main(["--run", str(run), "--json", str(file)])
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {f"{title}, {name}": float(value) for title, row in rows.items() for name, value in row.items()}


GATE = {
    "slope": "slope", "error": "error", "error of a constant hue": "hold", "error of the mean advance": "mean",
    "error over that of a constant hue": "relative",
}  # fmt: skip
MEASURES = {
    "heading correct": ("heading", 2 / 32), "speed correct": ("speed", 3 / 32), "palette correct": ("palette", 1 / 32),
    "residual after the prompted motion": ("residual", 0.015), "displacement over the prompted one": ("dynamics", 0.05),
    "contrast": ("contrast", 0.01),
}  # fmt: skip
"""Row of a table: name of the measure, and its tolerance within a horizon. Streams with different rounding diverge: at
the end of six horizons the tolerance is three times as large."""


def _measures(page: str, columns: dict[str, str]) -> Iterator[Quoted]:
    for column, title in columns.items():
        for row, (measure, within) in MEASURES.items():
            rounding = 0.005 if measure in ("heading", "speed", "palette", "dynamics") else 0.0005
            times = 3 if "6x" in title else 1
            yield Quoted(page, f"{title}, {measure}", row, column, times * within + rounding)


def _gate(row: str, name: str) -> Iterator[Quoted]:
    return (Quoted(STUDY, f"{name}, {key}", row, column, 0.02) for column, key in GATE.items())


BUNDLED = {"1x, bundled": "student, 1x", "last second of 6x, bundled": "student, last second of 6x"}
GIVEN = {"teacher, 1x": "teacher, 1x", "real clips": "real clips, 1x"}

PARTS = (
    Part(
        "weights",
        "ls -l adastate/pretrained",
        (
            *(
                Quoted(CARD, f"{path.stem}, MB", rf"`{re.escape(path.name)}` \(([\d.]+ MB)", within=0.05)
                for path in sorted(SHIPPED.glob("*.safetensors"))
            ),
            Quoted(CARD, "flight_codec, parameters", r"ResidualCodec, ([\d.]+ million) parameters", within=5e4),
            Quoted(CARD, "tiny_teacher, parameters", r"the DiT at tiny size, ([\d.]+ million) parameters", within=5e4),
            Quoted(CARD, "tiny_student, parameters", r"\*\*Student\.\*\* ([\d.]+ million) parameters", within=5e4),
        ),
        bundled_sizes,
        0.1,
    ),
    Part(
        "parity",
        "make parity FIXTURES=tests/data",
        (
            Quoted(README, "largest difference", r"are met within ([\de-]+)", at_most=True),
            Quoted("docs/results/verification.md", "largest difference", r"agree within ([\de-]+)", at_most=True),
        ),
        parity,
        1,
    ),
    Part(
        "student",
        "adastate evaluate --run {out}/bundled --json {out}/evaluation.json",
        (
            *_measures(CARD, BUNDLED),
            *_measures(README, GIVEN),
            *_measures("docs/results/tiny.md", GIVEN),
        ),
        student_figures,
        2,
    ),
    Part(
        "fog",
        "adastate study gate --world fog --clips 96 --json {out}/gate_fog.json",
        (
            *_gate("teacher of the fog", "teacher"),
            *_gate("true foggy flights through the codec", "real"),
            Quoted(STUDY, "teacher, relative", r"is ([\d.]+) times as far off", within=0.02),
            Quoted(
                README, "teacher, relative", r"and ([\d.]+) times the error of a hue that never changes", within=0.06
            ),
            Quoted(README, "teacher, slope", r"has a slope of (-[\d.]+), and", within=0.02),
        ),
        gate_figures("fog"),
        1,
    ),
    Part(
        "journey",
        "adastate study gate --world journey --clips 96 --json {out}/gate_journey.json",
        (
            *_gate("teacher of the journeys, 12 frames apart", "teacher"),
            *_gate("true journeys through the codec", "real"),
        ),
        gate_figures("journey"),
        1,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="parts to make; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of what the commands write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table, differ = Table("page", "number", "written", "found", "", title="results measured again"), list[str]()
    for part in (part for part in PARTS if part.name in args.only):
        print(f"{part.name}: {part.command.format(out=args.out)}", flush=True)
        found = part.found(args.out)
        for told in part.told:
            said, now = told.said(), found[told.key]
            holds = told.holds(said, now)
            table.add_row(told.page, told.key, f"{said:.4g}", f"{now:.4g}", "" if holds else "differs")
            differ += [] if holds else [f"{told.key} in {told.page}"]
    Console().print(table)
    if differ:
        raise SystemExit(f"{len(differ)} numbers differ: {'; '.join(differ)}. find out why, or update the pages")


if __name__ == "__main__":
    main()
