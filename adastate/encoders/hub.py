"""Pretrained parts from a local folder, the hub's cache or the hub, and what to say where none of them has it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adastate.runtime.spelling import one_line

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""Holds the VAE and the text encoder that all of Wan2.1 shares."""

SECONDS = 5.0
"""The hub's time to answer, asked once. Its own client tries six times, which without a network takes 23 s a file."""

T = TypeVar("T")


class EncoderError(ValueError):
    """What is amiss with a pretrained part, told in one sentence."""


@dataclass(frozen=True)
class HubPart:
    """A part of a pretrained pipeline.

    Attributes:
        name: what it is to the reader of a message.
        subfolder: of it in the source; None if the source is the part itself.
        marker: the small file without which it is not there.
    """

    name: str
    subfolder: str | None
    marker: str = "config.json"

    @property
    def file(self) -> str:
        return f"{self.subfolder}/{self.marker}" if self.subfolder else self.marker

    def fetch(self, repository: str, folder: str) -> str:
        """The command that brings it into a local folder."""
        only = f'--include "{self.subfolder}/*" ' if self.subfolder else ""
        return f"`hf download {repository} {only}--local-dir {folder}`"


def load_part(source: str, part: HubPart, load: Callable[..., T]) -> T:
    """`load(source, local_files_only=...)`, a `from_pretrained`, of a part that lies in a folder or on the hub.

    What lies in the hub's cache is loaded without asking the hub.

    Args:
        source: a folder, or a hub name "owner/name". What starts with a dot, a slash or the name of a folder that
            exists here is a folder: a mistyped path must not become somebody's repository.

    Raises:
        FileNotFoundError: the part is in none of these places; says where it was looked for and how to fetch it.
    """
    if Path(source).is_dir() or not is_hub_name(source):
        return _load_folder(Path(source), part, load)
    try:
        return load(source, local_files_only=True)
    except (OSError, ValueError) as error:
        why = _unreachable(source, part.file)
        if why:
            raise FileNotFoundError(
                f"no {part.name} {source}: there is no such folder, the hub's cache lacks it and {why}; fetch it where "
                f"there is a network, {part.fetch(source, f'weights/{Path(source).name}')}, and give that folder"
            ) from error
    return load(source, local_files_only=False)


def is_hub_name(source: str) -> bool:
    owner = source.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII)) and not Path(owner).is_dir()


def need(module: str) -> Any:
    """An optional package, imported now.

    Raises:
        EncoderError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EncoderError(f"Wan's encoders need {error.name}: pip install -e '.[wan]'") from error


def _load_folder(folder: Path, part: HubPart, load: Callable[..., T]) -> T:
    fetch = f"fetch it with {part.fetch(WAN, str(folder))}"
    if not (folder / part.file).is_file():
        lacks = f"that folder has no {part.file}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"no {part.name} in {folder}: {lacks}; {fetch}")
    try:
        return load(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        reason = one_line(error, 200)
        raise FileNotFoundError(f"the {part.name} in {folder} is not whole ({reason}); {fetch}") from error


def _unreachable(repository: str, file: str) -> str | None:
    """Why the hub does not give `file`, or None if it does."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    host = constants.ENDPOINT.partition("://")[2]
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids access to the hub"
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=SECONDS)
    except HfHubHTTPError as error:
        return f"{host} does not give its {file} ({error.response.status_code})"
    except Exception:  # whatever the HTTP client of the day raises without a network
        return f"{host} does not answer"
    return None
