"""`adastate parity`: replays every fixture below a folder, with one line each."""

from __future__ import annotations

from pathlib import Path

from adastate.parity.fixture_folders import find_fixtures
from adastate.runtime.arguments import Arguments


def main(argv: list[str]) -> None:
    root: Path = parser().parse_args(argv).folder
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give the one that contains the fixtures")
    folders = find_fixtures(root)
    if not folders:
        raise FileNotFoundError(
            f"no fixtures in {root}: a fixture is a folder with meta.json; name another, make parity FIXTURES=folder"
        )
    # nothing has imported torch up to here
    from adastate.parity.verdict import judge_all

    if not judge_all(root, folders):
        raise SystemExit(1)


def parser() -> Arguments:
    """Parser of the arguments of `adastate parity`."""
    found = Arguments("adastate parity", description=__doc__)
    found.add_argument("folder", type=Path, nargs="?", default=Path("tests/data"), help="default tests/data")
    return found
