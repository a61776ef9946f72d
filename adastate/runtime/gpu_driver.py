"""Whether this machine can have a GPU, as far as it shows before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def why_none() -> str:
    """Why torch cannot find a GPU here; empty if it may.

    The driver is looked for and not asked, because one that has answered is bound to this process.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and shown.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={shown} hides every GPU"
    if not sys.platform.startswith("linux") or Path("/dev/kfd").exists():
        return ""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no GPU driver"
    return ""


def check_device(device: str | None) -> None:
    """Refuses a device of a kind that this machine has not.

    Raises:
        ValueError: there is none.
    """
    if device == "mps" and sys.platform != "darwin":
        raise ValueError(f"--device {device}: that is for Macs; leave --device out")
    if device and device.startswith("cuda") and (why := why_none()):
        raise ValueError(f"--device {device}: {why}; leave --device out")
