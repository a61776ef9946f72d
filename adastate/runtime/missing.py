"""Files that are not there, and who makes them."""

from __future__ import annotations

from pathlib import Path

MAKERS = {
    "init": "train-init",
    "ar": "train-init RECIPE=ar_diffusion",
    "student": "train-distill",
    "long": "train-distill RECIPE=long",
    "teacher": "train-teacher",
}
"""Targets of make that write a run's weights, by the names of the files."""


def to_come_by(source: Path) -> str:
    """How to come by weights that are not there."""
    if source.parts[:-1] == ("weights",) and source.name.startswith("Wan2"):
        only = "" if "1.3B" in source.name else '--include "transformer/*" '
        return f"`hf download Wan-AI/{source.name} {only}--local-dir {source}` fetches them"
    if source.suffix == ".safetensors" and source.stem in MAKERS:
        run = f' RUN="{source.parent}"' if source.parent != Path() else ""
        return f"`make {MAKERS[source.stem]}{run}` makes them, or give a file that is there"
    return "give a .safetensors file or train the stage that writes it"
