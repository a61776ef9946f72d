"""Paths in the files of a run folder: stored relative to it, so that it can be moved, renamed or copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adastate.runtime import secrets

RUN = "@run"
"""Stands for the run folder in what is stored. YAML writes a text that begins so in quotes."""


def stored_paths(node: Any, run: Path, root: Path | None = None) -> Any:
    """`node`, of dicts, lists and texts, in which the paths within the run folder begin with RUN.

    Args:
        root: a folder around the run folder that is moved with it; paths in it are stored, too, as `@run/../...`.
    """
    root = run if root is None else root
    # A path is known by how it was written; "." and "/" would begin too many.
    heads = [head for head in (str(root), os.path.abspath(root)) if head not in (".", "/")]

    def change(text: str) -> str:
        if any(text == head or text.startswith(f"{head}/") for head in heads):
            there = os.path.relpath(text, run)
            return RUN if there == "." else f"{RUN}/{there}"
        return text

    return _mapped(node, change)


def stored_words(words: Sequence[str], run: Path, root: Path | None = None) -> list[str]:
    """The same of a command line, whose paths also stand behind an equals sign; without the secrets in it."""
    cut = [word.partition("=") if word.startswith("-") else ("", "", word) for word in words]
    return [secrets.redacted(f"{name}{sign}{stored_paths(value, run, root)}") for name, sign, value in cut]


def located(node: Any, run: Path, written_at: str | None = None) -> Any:
    """`node` with the paths that it has where the run folder lies now.

    What was stored without RUN is looked for, too: a path below `written_at`, where the run folder lay when it was
    written, and one where nothing is any more are taken to be the file of that name in the run folder, if it is there.
    """

    def change(text: str) -> str:
        if text == RUN or text.startswith(f"{RUN}/"):
            return os.path.normpath(f"{run}{text.removeprefix(RUN)}")
        if "/" not in text or "\n" in text:
            return text
        if written_at and text.startswith(f"{written_at}/"):
            within = text.removeprefix(f"{written_at}/")
            return str(run / within) if os.path.exists(run / within) else text
        parts = Path(text).parts
        if os.path.exists(text) or ".." in parts:
            return text
        ends = (os.path.join(run, *parts[i:]) for i in range(1, len(parts)))
        return next((end for end in ends if os.path.exists(end)), text)

    return _mapped(node, change)


def run_of(file: Path) -> Path:
    """The run folder of a configuration: of a stage's config.yaml, of its copy in a checkpoint, or at the top."""
    if file.name != "config.yaml":
        return file.parent
    copied = Path(os.path.abspath(file)).parts[-3:-2] == ("checkpoints",)
    return Path(os.path.normpath(file.parent / ("../../.." if copied else "..")))


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {name: _mapped(value, change) for name, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return change(node) if isinstance(node, str) else node
