"""Finds fixtures."""

from __future__ import annotations

from pathlib import Path


def find_fixtures(root: Path) -> list[Path]:
    """Folders with meta.json or tensors at or below `root`, sorted; those whose name begins with _ are skipped.

    A folder that lacks some of its files is included, so that it is reported.
    """
    files = ("meta.json", "inputs.safetensors", "outputs.safetensors")
    found = {path.parent for name in files for path in root.rglob(name)}
    return sorted(f for f in found if not any(part.startswith("_") for part in f.relative_to(root).parts))
