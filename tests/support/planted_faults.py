"""The instrument on errors of old, planted one at a time in a copy of the project: every one of them has to show.

    python tests/support/planted_faults.py FOLDER [LETTER ...]

It is run as a file, so that what is imported once for all runs holds nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("adastate", "callbacks", "datamodules", "conf", "tests/support")


@dataclass(frozen=True)
class Plant:
    """An error: `changes` of a text into another by file, and the trials that have to see it (see `--only`)."""

    letter: str
    what: str
    only: str
    share: float
    changes: tuple[tuple[str, str, str], ...]


FOLDERS, SAVING = "adastate/runtime/atomic_folder.py", "callbacks/checkpointing/checkpoints.py"
DIED = r"write 0/distill/checkpoints/.unfinished-0000000[34]/state.* dead"
PLANTS = (
    Plant(
        "A", "pruning and auto go by folder name: a user's copy counts as the newest", DIED, 1.0,
        (
            (FOLDERS, "(?P<number>[0-9]{{8}})", "(?P<number>[0-9]{{8}}.*)"),
            (FOLDERS, 'moved = number is not None and manifest["iteration"] != int(number["number"])', "moved = False"),
            (SAVING, "saved, self.last_good, best(every, self.monitor, self.mode)", "self.last_good"),
            (SAVING, 'int(p.name[-8:])', "int(p.name[:8])"),
        ),
    ),
    Plant(
        "C", "the student's file is written unguarded", r"write 0/.student.* full$", 0.5,
        (("adastate/training/out_file.py", "if not disk.is_fault(failure):", "if True:"),),
    ),
    Plant(
        "D", "checkpoints go through TMPDIR", r" 1/.* dead", 0.5, ((SAVING, "        write_directly(trainer)\n", ""),),
    ),
    Plant(
        "F", "what a kill has left makes that iteration unsavable", DIED, 1.0,
        (
            (FOLDERS, "    shutil.rmtree(scratch, ignore_errors=True)\n", ""),
            (FOLDERS, "for prefix in (UNFINISHED, DOOMED, REPLACED):", "for prefix in (DOOMED, REPLACED):"),
        ),
    ),
    Plant(
        "G", "the manifest is believed unchecked", "^rot", 1.0,
        (
            (FOLDERS, "whole = told == _of_facts(manifest)", "whole = True"),
            (FOLDERS, "KeyError, TypeError, AttributeError, RecursionError) as error", "RecursionError) as error"),
            (FOLDERS, 'if DIGEST not in manifest and {"iteration", "files"} <= manifest.keys():', "if False:"),
        ),
    ),
    Plant(
        "H", "a rotten older manifest ends a run with a monitor", "^rot", 1.0,
        (("callbacks/checkpointing/resume.py", "except (atomic_folder.Damaged, TypeError, ValueError):",
          "except TypeError:"),),
    ),
    Plant(
        "N", "student.safetensors is renamed without fsync", "nothing else", 0.01,
        (("adastate/weights/native.py", "with atomic.replacing(path, durable=True)", "with atomic.replacing(path)"),),
    ),
)  # fmt: skip


def plant(folder: Path, changes: tuple[tuple[str, str, str], ...]) -> None:
    """The project below `folder`, its files linked, but for those that are changed.

    Raises:
        ValueError: a text that is to be changed is not there.
    """
    for part in PARTS:
        for file in (ROOT / part).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                link = folder / file.relative_to(ROOT)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
    (folder / "tests/__init__.py").touch()
    for name, old, new in changes:
        content = (folder / name).read_text()
        if old not in content:
            raise ValueError(f"{name} has no {old!r} any more: plant the error otherwise")
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(content.replace(old, new))


def tried(folder: Path, planted: Plant | None) -> dict[str, object]:
    """What the instrument finds in a child of this process: how many runs, and how many of them it holds wrong."""
    where = folder / (planted.letter if planted else "whole")
    plant(where, planted.changes if planted else ())
    if not os.fork():
        os.chdir(where)
        sys.path[0] = str(where)
        words = ["--share", str(planted.share if planted else 1), "--only", planted.only if planted else "nothing else"]
        sys.argv = ["disk_faults", str(where / "runs"), "one", *words]
        from tests.support import disk_faults

        disk_faults.main()
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    return dict(json.loads((where / "runs/found.json").read_text()))


def main(folder: Path, letters: list[str]) -> None:
    """Prints a row for each error, and writes all of them to `planted.json`."""
    import lightning.pytorch.cli  # noqa: F401
    import torch

    torch.set_num_threads(1)
    rows = []
    for planted in (p for p in PLANTS if not letters or p.letter in letters):
        found = tried(folder, planted)
        wrong: list[dict[str, str]] = found["wrong"]  # type: ignore[assignment]
        said = wrong[0]["wrong"] if wrong else ""
        rows.append(
            {"letter": planted.letter, "what": planted.what, "runs": found["runs"], "seen": len(wrong), "as": said}
        )
        (folder / "planted.json").write_text(json.dumps(rows, indent=1))
        print(planted.letter, found["runs"], len(wrong), said[:200].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
