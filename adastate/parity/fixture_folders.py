"""Where fixtures lie."""

from __future__ import annotations

from pathlib import Path


def find_fixtures(root: Path) -> list[Path]:
    """Folders with meta.json or tensors at or below `root`, in order; those whose name begins with _ are passed over.

    A folder that lacks some of its files is found, too, so that it is told and not forgotten.
    """
    files = ("meta.json", "inputs.safetensors", "outputs.safetensors")
    found = {path.parent for name in files for path in root.rglob(name)}
    return sorted(f for f in found if not any(part.startswith("_") for part in f.relative_to(root).parts))
