"""Finds the running line of the project's or the user's code, ignoring the libraries below it."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType

import torch

HERE = str(Path(__file__).parent)
TORCH = str(Path(torch.__file__).parent)
STANDARD = sysconfig.get_path("stdlib") + os.sep + "contextlib"
LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


@lru_cache(maxsize=4096)
def told_path(file: str) -> str | None:
    """A file's path for display, relative to the working directory if it is below that; None for a library's file."""
    if file.startswith((HERE, "<")) or any(file.startswith(folder + os.sep) for folder in LIBRARIES):
        return None
    if "site-packages" in file or "dist-packages" in file:
        return None
    root = str(Path(HERE).parents[1])
    for folder in (os.getcwd(), root):
        if file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return file


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def line(above: int = 1) -> str:
    """ "file:line" of the innermost frame outside libraries; "" if there is none."""
    for frame in _frames(sys._getframe(above)):
        if found := told_path(frame.f_code.co_filename):
            return f"{found}:{frame.f_lineno}"
    return ""


def asked_by_a_library() -> bool:
    """Whether the current call comes from a library other than torch rather than from a line of ours."""
    for frame in _frames(sys._getframe(1)):
        name = frame.f_code.co_filename
        if not name.startswith((HERE, TORCH, "<")) and not name.startswith(STANDARD):
            return told_path(name) is None
    return False


def asked_by_an_engine() -> bool:
    """Whether the current call comes from DeepSpeed or Lightning itself."""
    for frame in _frames(sys._getframe(1)):
        name = frame.f_code.co_filename
        if not name.startswith((HERE, TORCH, "<")) and not name.startswith(STANDARD):
            return any(f"{os.sep}{engine}{os.sep}" in name for engine in ("deepspeed", "lightning"))
    return False


def line_of(trace: TracebackType | None) -> str:
    """The same for an exception: the innermost frame of ours when it was raised."""
    found = ""
    while trace is not None:
        if name := told_path(trace.tb_frame.f_code.co_filename):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
