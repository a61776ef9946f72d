"""Bundled weights, by the names that stand for them; and the names of those of runs."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "pretrained"

BUILTIN = {
    "builtin": _FOLDER / "tiny_teacher.safetensors",
    "journey": _FOLDER / "journey_teacher.safetensors",
    "fog": _FOLDER / "fog_teacher.safetensors",
    "flight": _FOLDER / "flight_teacher.safetensors",
    "tiny_student": _FOLDER / "tiny_student.safetensors",
    "flight_init": _FOLDER / "flight_init.safetensors",
    "flight_student": _FOLDER / "flight_student.safetensors",
}
"""Teachers of the tiny world, of its journeys, of those through fog and of flights (datamodules), students of the tiny
world and of flights, and a student of flights that is initialised and not distilled yet. Those of flights may be
missing."""

STUDENT = "student.safetensors"
"""In a run folder, what it has distilled."""

MODEL = "model.safetensors"
"""The same in a folder that comes from the Hub."""
