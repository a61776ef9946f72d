"""The result of replaying a fixture, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adastate.parity.fixture import FixtureError, read_fixture
from adastate.parity.replay import replay
from adastate.parity.tolerances import Compared


@dataclass(frozen=True)
class Verdict:
    """Result of one fixture: the comparisons, or why nothing could be compared."""

    name: str
    compared: list[Compared]
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and all(c.passed for c in self.compared)

    def line(self, width: int) -> str:
        """`pass  NAME  difference (tolerance)  quantity`, for the quantity that uses most of its tolerance."""
        head = f"{'pass' if self.passed else 'fail'}  {self.name:<{width}}"
        if self.error:
            return f"{head}  {self.error}"
        worst = max(self.compared, key=lambda c: c.share)
        failed = [c.what for c in self.compared if not c.passed]
        what = worst.what
        if len(failed) > 1:
            others = [w for w in failed if w != worst.what]
            what += f", and {len(others)} more: {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
        return f"{head}  {worst.difference:.1e} ({worst.tolerance:.1e})  {what}"


def judge(folder: Path, name: str) -> Verdict:
    try:
        return Verdict(name, replay(read_fixture(folder)))
    except FixtureError as error:
        return Verdict(name, [], str(error))
    except Exception as error:  # one fixture must not stop the others, whatever it holds
        return Verdict(
            name, [], f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        )


def judge_all(root: Path, folders: Sequence[Path]) -> bool:
    """Prints a line for each fixture, and one at the end; returns whether all pass."""
    names = [str(folder.relative_to(root)) if folder != root else folder.resolve().name for folder in folders]
    width, passed = max(map(len, names)), 0
    for folder, name in zip(folders, names, strict=True):
        verdict = judge(folder, name)
        passed += verdict.passed
        print(verdict.line(width), flush=True)
    print(f"{passed} of {len(folders)} fixtures pass")
    return passed == len(folders)
