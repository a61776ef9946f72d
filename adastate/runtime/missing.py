"""Files that are not there, and who makes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adastate.runtime.spelling import likeliest_word

MAKERS = {
    "init": "train-init",
    "ar": "train-init RECIPE=ar_diffusion",
    "student": "train-distill",
    "long": "train-distill RECIPE=long",
    "teacher": "train-teacher",
}
"""Targets of make that write a run's weights, by the names of the files."""

OURS = ("runs", "weights", "data", "conf", "docs")
"""Folders of a checkout, which are no owners of a repository."""


def to_come_by(source: Path, names: Iterable[str] = ()) -> str:
    """How to come by weights that are not there; `names` stand for weights that ship."""
    if near := likeliest_word(source, names, cutoff=0.75):
        return f"did you mean {near}, which ships?"
    if source.parts[:-1] == ("weights",) and source.name.startswith("Wan2"):
        only = "" if "1.3B" in source.name else '--include "transformer/*" '
        return f"`hf download Wan-AI/{source.name} {only}--local-dir {source}` fetches them"
    if source.suffix == ".safetensors" and source.stem in MAKERS:
        run = f' RUN="{source.parent}"' if source.parent != Path() else ""
        return f"`make {MAKERS[source.stem]}{run}` makes them, or give a file that is there"
    if named := hub_name(source):
        return f"`adastate weights pull {named} FOLDER` brings what lies on the Hub; give that folder, or a file of it"
    return "give a .safetensors file or train the stage that writes it"


def hub_name(source: Path) -> str:
    """The repository that a path may have been meant for, `owner/name` or an address of the Hub's; empty for others."""
    parts = source.parts
    if parts[:1] in (("https:",), ("http:",)):
        return "/".join(parts[2:4]) if "hugging" in parts[1] and len(parts) > 3 else "OWNER/NAME"
    return str(source) if len(parts) == 2 and not source.suffix and parts[0] not in (*OURS, "/", "..") else ""
