"""Files of torch.save, opened as plain data: nothing in them is ever executed."""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adastate.runtime import file_kind
from adastate.runtime.spelling import one_line

MOST_UNPACKED = 1 << 30
"""Bytes of the arrays of a .npz file. Those of a study's measures have a few megabytes."""


def save_data(content: Any, path: Path) -> None:
    """As torch.save, but all of the file or an error: given a path, torch does not notice that the last bytes, which it
    writes when it closes, have found no room."""
    with path.open("wb") as file:
        torch.save(content, file)


def load_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a .npz file; no more is unpacked than `MOST_UNPACKED`, none made by a shape that its bytes belie.

    Raises:
        ValueError: it is none, or larger, or holds more than numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_UNPACKED:
                raise ValueError(f"it unpacks to more than {MOST_UNPACKED >> 20} MB")
            found = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        return {name: _array(data) for name, data in found.items()}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no whole file of arrays ({error}): measure it again") from error


def _array(data: bytes) -> np.ndarray[Any, Any]:
    file = io.BytesIO(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"an array of version {version}")
    shape, _, kind = read[version](file)
    if math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError(f"an array claims the shape {shape} and has {len(data) - file.tell()} bytes")
    return np.load(io.BytesIO(data), allow_pickle=False)


def load_data(path: Path, error: type[Exception], instead: str) -> Any:
    """What a file of torch.save holds, on the processor, memory-mapped where its format allows.

    Args:
        error: what is raised for a file that holds more than plain data, or is no such file.
        instead: what to do about one that holds more, for the end of the sentence.
    """
    try:
        file_kind.kind(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as found:
        named = re.search(r"GLOBAL (\S+)", str(found))
        what = f"a Python object, {named[1]}," if named else "something"
        raise error(
            f"{path} is refused: it holds {what} that is not plain data and might run code when it is read; {instead}"
        ) from found
    except file_kind.NoWeightsError as found:
        raise error(str(found)) from found
    except Exception as found:  # whatever a broken file makes the unpickler stumble over
        reason = one_line(found, 100)
        raise error(f"{path} is not a whole PyTorch file ({reason}): copy it again") from found
