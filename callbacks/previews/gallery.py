"""A page of a run's previews that needs no server: `gallery.html` beside the files that it shows."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from adastate.media import html_page
from adastate.runtime import atomic, json_lines

INDEX = "previews.jsonl"
"""One line per preview: iteration, horizon, prompts and the paths of its files, relative to the run folder."""

CLIPS = (("video", "videos"), ("hidden state", "states"))
"""Label of a clip on the page, and its list in the index."""


def write_gallery(run: Path) -> Path:
    """Writes `<run>/gallery.html` from the index of previews, newest first, and returns its path.

    The page links only to files that exist, by relative paths: the run folder can be moved, zipped or served.
    """
    run = Path(run)
    entries: dict[tuple[int, int], dict[str, Any]] = {}
    for entry in json_lines.whole_records(run / INDEX):  # after a resume an iteration may repeat: the later entry wins
        entries[entry["iteration"], entry["horizon"]] = entry
    newest = [_existing(run, entry) for _, entry in sorted(entries.items(), reverse=True)]
    iterations = [(i, list(previews)) for i, previews in groupby(newest, lambda entry: entry["iteration"])]
    page = run / "gallery.html"
    name = " / ".join(run.resolve().parts[-2:])
    template = Path(__file__).with_name("gallery.html.jinja")
    atomic.write_text(page, html_page.fill(template, name=name, iterations=iterations))
    return page


def _existing(run: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry reduced to files that exist, with `cards`: (prompt, list of (label, path)) for prompts that have any."""
    kept = {
        kind: [path if (run / path).is_file() else None for path in entry[kind]]
        for kind in ("videos", "states", "strips", "figures")
    }
    cards = [
        (prompt, clips)
        for row, prompt in enumerate(entry["prompts"])
        if (clips := [(label, kept[kind][row]) for label, kind in CLIPS if row < len(kept[kind]) and kept[kind][row]])
    ]
    return entry | {"cards": cards} | {kind: list(filter(None, kept[kind])) for kind in ("strips", "figures")}
