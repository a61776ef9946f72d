"""Results of a phase of `make gpu-check` so far, in a file that is complete at any moment."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


class PhaseReport:
    """Rows and messages of one phase; each is written to the file at once.

    Args:
        path: of the JSON.
        phase: its name.
        device: "cuda" or "cpu".
        tiny: the smallest shapes, for a rehearsal.
    """

    def __init__(self, path: Path, phase: str, device: str, tiny: bool) -> None:
        self.path, self.device, self.tiny = path, device, tiny
        self.found: dict[str, Any] = {
            "phase": phase,
            "status": "running",
            "device": device,
            "tiny": tiny,
            "rows": [],
            "skipped": [],
            "wrong": [],
        }
        self._write()

    def row(self, **values: Any) -> None:
        self.found["rows"].append(values)
        self._write()

    def skip(self, what: str, reason: object) -> None:
        """Records that something was not tried or is not available."""
        self.found["skipped"].append({"what": what, "reason": short_reason(reason)})
        self._write()

    def wrong(self, sentence: str) -> None:
        self.found["wrong"].append(sentence)
        self._write()

    def fact(self, **values: Any) -> None:
        self.found.update(values)
        self._write()

    def end(self, status: str, seconds: float, reason: str = "") -> None:
        self.fact(status=status, seconds=round(seconds, 1), **({"reason": reason} if reason else {}))

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".part")
        scratch.write_text(json.dumps(json_numbers(self.found), indent=1), encoding="utf-8")
        os.replace(scratch, self.path)


def json_numbers(value: Any) -> Any:
    """Replaces numbers that JSON does not support (infinite, nan) by None."""
    if isinstance(value, dict):
        return {k: json_numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_numbers(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def short_reason(text: object, most: int = 240) -> str:
    said = f"{type(text).__name__}: {text}" if isinstance(text, Exception) else str(text)
    return " ".join(said.split())[:most]
