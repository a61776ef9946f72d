"""The small library that lets torch handle fake CUDA tensors without a GPU: compiled at first use."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("pretended_device.cpp")


class NoDeviceError(RuntimeError):
    """The reason why no device can be simulated here, in one sentence."""


def cache_folder() -> Path:
    """The user's cache folder for the library: $XDG_CACHE_HOME/adastate or ~/.cache/adastate."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adastate"


@lru_cache(maxsize=1)
def library() -> Any:
    """The loaded library, with `adastate_pretend` and `adastate_restore`; prints a line if it has to be compiled.

    Raises:
        NoDeviceError: there is no C++ compiler, or it cannot compile for this torch.
    """
    source = SOURCE.read_bytes()
    abi = f"{torch.__version__} {torch.version.git_version}".encode()
    name = hashlib.blake2b(source + abi, digest_size=8).hexdigest()
    path = cache_folder() / f"pretended_device_{name}.so"
    if not path.is_file():
        _compile(path)
    return ctypes.CDLL(str(path))


def _compile(path: Path) -> None:
    compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), "")
    if not compiler:
        raise NoDeviceError(
            "a rehearsal compiles 60 lines of C++ once, but there is no compiler: install g++ or clang++, or set CXX"
        )
    print(f"[adastate] compiling the simulated device into {path.parent} with {compiler}, once", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        words = [compiler, "-std=c++20", "-O0", "-fPIC", "-shared", str(SOURCE), "-o", str(made)]
        words += [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
        words += [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
            raise NoDeviceError(f"{compiler} cannot compile the simulated device for torch {torch.__version__}: {said}")
        os.replace(made, path)
