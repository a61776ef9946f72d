"""Downloads a repository of the Hub: complete and verified with the Hub's digests, or resumed later."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from adastate.hub.hub_client import HubError, hub_errors, need_client
from adastate.runtime import atomic
from adastate.weights import WeightsError
from adastate.weights.sources import SUFFIXES


def pull(
    repository: str, out: Path, revision: str | None = None, include: Sequence[str] = (), force: bool = False
) -> list[Path]:
    """Writes the folder `out`, complete or not at all.

    The files of an interrupted transfer are kept hidden next to it, and the next call continues from there.

    Args:
        repository: "owner/name", of any origin.
        revision: branch, tag or commit; None: main.
        include: patterns of paths; empty: all files.
        force: replace an existing folder of weights or of a run.

    Returns:
        The files.

    Raises:
        HubError: unknown repository, revision or file, no answer, or a file with other bytes, in one sentence.
        WeightsError: `out` exists, or holds something else that `force` would delete.
    """
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(f"{out} exists; give another folder or --force")
    if out.is_file():
        raise WeightsError(f"{out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not any(p.suffix in SUFFIXES for p in out.rglob("*")):
        raise WeightsError(f"{out} holds no weights, and --force replaces folders of weights alone: give another")
    scratch = atomic.scratch_of(out, "pull")
    found = _fetched(repository, revision, include, scratch)
    shutil.rmtree(scratch / ".cache", ignore_errors=True)
    for path in [p for p in scratch.rglob("*") if p.is_file() and str(p.relative_to(scratch)) not in found]:
        path.unlink()  # of a call with other patterns
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.settle(scratch, out)
    return [out / name for name in sorted(found)]


def cached(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository in the Hub's cache, downloaded if necessary.

    Raises:
        HubError: as for `pull`; if the Hub does not answer, a complete copy in the cache is used.
    """
    client = need_client()
    try:
        with hub_errors(repository, revision):
            return Path(client.snapshot_download(repository, revision=revision, library_name="adastate"))
    except client.errors.LocalEntryNotFoundError as error:
        raise HubError(f"the Hub cannot be reached, and its cache lacks {repository}: check the network") from error


def _fetched(repository: str, revision: str | None, include: Sequence[str], scratch: Path) -> set[str]:
    client = need_client()
    api = client.HfApi(library_name="adastate")
    again = f"run the same command again to resume (partial downloads are in {scratch})"
    with hub_errors(repository, revision, again):
        info = api.model_info(repository, revision=revision, files_metadata=True)
        files = {f.rfilename: f for f in info.siblings or [] if _asked_for(f.rfilename, include)}
        _check_names(repository, files, include)
        client.snapshot_download(
            repository,
            revision=info.sha,
            local_dir=scratch,
            allow_patterns=[_literally(name) for name in files],
            library_name="adastate",
        )
    wrong = [name for name, file in files.items() if not _whole(scratch / name, file)]
    for name in wrong:  # all of them, or the client would take the others for whole the next time
        (scratch / name).unlink(missing_ok=True)
    if wrong:
        raise HubError(f"{wrong[0]} of {repository} has other bytes than the Hub reports: run the same command again")
    return set(files)


def _asked_for(name: str, include: Sequence[str]) -> bool:
    return name != ".gitattributes" and (not include or any(fnmatchcase(name, pattern) for pattern in include))


def _literally(name: str) -> str:
    """The pattern that this name alone fits."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _check_names(repository: str, files: dict[str, Any], include: Sequence[str]) -> None:
    if not files:
        raise HubError(f"{repository} has no file{f' that fits {include[0]!r}' if include else ''}")
    for name in files:
        if PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) or "\\" in name:
            raise HubError(f"{repository} has a file whose name leads out of its folder, {name!r}: it is not taken")


def _whole(path: Path, file: Any) -> bool:
    """By the size that the Hub tells, and by the digest that it has of large files."""
    if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
        return False
    if file.lfs is None:
        return True
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
