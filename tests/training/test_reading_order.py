"""The files that docs/guide/method.md tells to read are those through which an iteration reaches the network."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from adastate.models.wan import DiT
from tests.support.rig import Prompts, fit, tiny_distill

ROOT = Path(__file__).parents[2]


def files_on_the_way() -> list[str]:
    """Files of the package between this call and `training_step`, outermost first."""
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT / "adastate" in path.parents:
            found.append(str(path.relative_to(ROOT)))
        if frame.f_code.co_name == "training_step":
            break
        frame = frame.f_back
    return [file for file, _ in groupby(reversed(found))]


def test_six_files_lead_from_training_step_to_the_network_in_the_order_of_the_guide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways: list[list[str]] = []
    true = DiT.forward

    def forward(self: DiT, *args: Any, **kwargs: Any) -> Any:
        if self is distill.student.net:
            ways.append(files_on_the_way())
        return true(self, *args, **kwargs)

    distill = tiny_distill()
    monkeypatch.setattr(DiT, "forward", forward)
    fit(distill, Prompts())
    page = (ROOT / "docs/guide/method.md").read_text()
    told = re.findall(r"^\| \d \| (\S+) \|", page, re.M)
    assert len(told) == 6 and told[-1] == "adastate/models/wan/dit.py"
    assert ways and all(way == told[:-1] for way in ways)
