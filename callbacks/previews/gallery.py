"""A page of a run's previews that needs no server: `gallery.html` beside the files that it shows."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from adastate.runtime import atomic

INDEX = "previews.jsonl"
"""One line a preview: iteration, horizon, prompts and the paths of its files, relative to the run folder."""

OPEN = 1
"""Iterations shown unfolded and playing; a browser that plays fifty videos at once stands still."""


def write_gallery(run: Path) -> Path:
    """Writes `<run>/gallery.html` from the index of previews, newest first, and returns its path.

    The page links only to files that exist, by relative paths: the run folder can be moved, zipped or served.
    """
    run = Path(run)
    entries: dict[tuple[int, int], dict[str, Any]] = {}
    if (run / INDEX).is_file():
        for line in (run / INDEX).read_text().splitlines():
            entry = _parse(line)
            if entry is not None:  # the same iteration again, after a resume: the later one counts
                entries[entry["iteration"], entry["horizon"]] = entry
    iterations = sorted({i for i, _ in entries}, reverse=True)
    body = [
        _iteration(run, i, [e for (at, _), e in sorted(entries.items(), reverse=True) if at == i], opened=n < OPEN)
        for n, i in enumerate(iterations)
    ]
    empty = "<p>No preview yet. The Rollouts callback writes the first when the fit starts.</p>"
    links = " ".join(f'<a href="#i{i}">{i:,}</a>' for i in iterations)
    page = run / "gallery.html"
    text = PAGE.format(name=escape(_run_name(run)), links=links, body="\n".join(body) or empty)
    atomic.write_text(page, text)
    return page


def _run_name(run: Path) -> str:
    return " / ".join(run.resolve().parts[-2:])


def _parse(line: str) -> dict[str, Any] | None:
    """None for the half line that a killed run may leave."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry


def _iteration(run: Path, iteration: int, entries: list[dict[str, Any]], opened: bool) -> str:
    horizons = ", ".join(f"{e['horizon']}x" for e in entries)
    parts = "\n".join(_preview(run, e, opened) for e in entries)
    return (
        f'<details id="i{iteration}"{" open" if opened else ""}><summary>iteration {iteration:,} '
        f"<small>{horizons}</small></summary>\n{parts}</details>"
    )


def _preview(run: Path, entry: dict[str, Any], playing: bool) -> str:
    cards = []
    for row, prompt in enumerate(entry["prompts"]):
        clips = [(entry[kind][row], label) for kind, label in (("videos", "video"), ("states", "hidden state"))
                 if row < len(entry[kind]) and (run / entry[kind][row]).is_file()]  # fmt: skip
        players = "".join(f"<div>{_video(path, playing)}<small>{label}</small></div>" for path, label in clips)
        if players:
            cards.append(f'<figure><div class="pair">{players}</div><figcaption>{escape(prompt)}</figcaption></figure>')
    sheets = [_image(p, "strip") for p in entry["strips"] if (run / p).is_file()]
    plots = [_image(p, "plot") for p in entry["figures"] if (run / p).is_file()]
    return (
        f"<section><h2>{entry['horizon']}x the training horizon "
        f"<small>{entry['frames']} latent frames, seed {entry['seed']}</small></h2>\n"
        f'<div class="cards">{"".join(cards)}</div>\n{"".join(sheets)}\n'
        f'<div class="plots">{"".join(plots)}</div></section>'
    )


def _video(path: str, playing: bool) -> str:
    how = "loop muted autoplay playsinline" if playing else 'loop muted controls playsinline preload="none"'
    return f'<video src="{escape(path)}" {how}></video>'


def _image(path: str, kind: str) -> str:
    return f'<a href="{escape(path)}"><img class="{kind}" src="{escape(path)}" alt="{kind}" loading="lazy"></a>'


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
:root {{ color-scheme: light dark; --ground: #f6f6f4; --card: #fff; --ink: #1d1f24; --dim: #6b6f78; --line: #dddcd7;
  --accent: #0f766e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ground: #131417; --card: #1c1e22; --ink: #e9eaee; --dim: #9497a0; --line: #2d3036; --accent: #5ecbbf; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1500px; padding: 32px 24px 64px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
h1 {{ font-size: 22px; margin: 0; }}
h2 {{ font-size: 16px; margin: 24px 0 12px; }}
small {{ color: var(--dim); font-weight: normal; font-size: 13px; }}
nav {{ margin: 8px 0 24px; color: var(--dim); font-size: 13px; overflow-wrap: anywhere; }}
a {{ color: var(--accent); text-decoration: none; margin-right: 6px; }}
details {{ border-top: 1px solid var(--line); padding: 14px 0; }}
summary {{ cursor: pointer; font-weight: 600; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 16px; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 16px; margin-top: 16px; }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }}
.pair {{ display: flex; gap: 2px; background: #131417; }}
.pair small {{ position: absolute; left: 8px; bottom: 6px; color: #fff; text-shadow: 0 0 4px #000, 0 0 2px #000; }}
.pair div {{ position: relative; flex: 1; display: flex; }}
video {{ width: 100%; image-rendering: pixelated; }}
figcaption {{ padding: 10px 14px 12px; }}
img {{ max-width: 100%; height: auto; border-radius: 10px; display: block; }}
.strip {{ margin-top: 16px; }}
</style>
</head>
<body>
<h1>{name}</h1>
<nav>iterations {links}</nav>
{body}
</body>
</html>
"""
