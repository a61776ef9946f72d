"""Files of torch.save, opened as plain data: nothing in them is ever executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from adastate.runtime import file_kind


def save(content: Any, path: Path) -> None:
    """As torch.save, but all of the file or an error: given a path, torch does not notice that the last bytes, which it
    writes when it closes, have found no room."""
    with path.open("wb") as file:
        torch.save(content, file)


def load(path: Path, error: type[Exception], instead: str) -> Any:
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
        reason = " ".join(str(found).split())[:100] or type(found).__name__
        raise error(f"{path} is not a whole PyTorch file ({reason}): copy it again") from found
