"""Records every skipped sample once, whichever of a job's processes finds it and however often."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from adastate.runtime.plain_json import load_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Skip:
    """A skipped sample, or `samples` of a shard whose keys are unknown (`key` None)."""

    shard: str
    key: str | None
    cause: str
    detail: str
    samples: int = 1


class Ledger:
    """A file of JSON lines that all ranks and loader workers append to; without a path it is kept in memory.

    Each line is appended in one write, under a lock, after the others' lines have been read. A resumed run reads its
    earlier lines. Where locks do not work, as on some network disks, a line may occur twice in the file; it is counted
    once here.

    Args:
        path: of the file, created with the first line.
        data: digest of the set; lines about another set are ignored.
    """

    def __init__(self, path: Path | None, data: str = "") -> None:
        self.path, self.data = path, data
        self._known: dict[tuple[str, str | None], Skip] = {}
        self._read_to = 0
        self._works = path is not None

    def add(self, skips: Sequence[Skip]) -> list[Skip]:
        """Records those that are not in the ledger yet, and returns them."""
        fresh = [s for s in skips if (s.shard, s.key) not in self._known]
        if not fresh or self.path is None or not self._works:
            self._learn(fresh)
            return fresh
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                with _locked(file):
                    whole = self._read(file)
                    fresh = [s for s in fresh if (s.shard, s.key) not in self._known]
                    lines = "".join(json.dumps({"data": self.data, **asdict(s)}) + "\n" for s in fresh)
                    # A process that was killed while writing left half a line.
                    os.write(file, (lines if whole or not lines else f"\n{lines}").encode())
                    self._learn(fresh)
            finally:
                os.close(file)
        except OSError as error:
            self._works = False
            self._learn(fresh)
            warnings.warn(
                f"{self.path} cannot be written ({error.strerror}): skipped samples are only counted", stacklevel=2
            )
        return fresh

    def skips(self) -> list[Skip]:
        """All skipped samples known so far, including those of other processes."""
        if self._works and self.path is not None and self.path.is_file():
            with suppress(OSError):
                file = os.open(self.path, os.O_RDONLY)
                try:
                    self._read(file)
                finally:
                    os.close(file)
        return list(self._known.values())

    def counts(self) -> Counter[str]:
        """Skipped samples by cause."""
        found: Counter[str] = Counter()
        for skip in self.skips():
            found[skip.cause] += skip.samples
        return found

    def worst(self) -> tuple[str, str, int]:
        """(shard, cause, samples) with the most skipped samples."""
        found: Counter[tuple[str, str]] = Counter()
        for skip in self._known.values():
            found[skip.shard, skip.cause] += skip.samples
        (shard, cause), samples = max(found.items(), key=lambda item: (item[1], item[0]))
        return shard, cause, samples

    def _learn(self, skips: Sequence[Skip]) -> None:
        self._known.update({(s.shard, s.key): s for s in skips if (s.shard, s.key) not in self._known})

    def _read(self, file: int) -> bool:
        """Reads the complete lines not read yet; returns whether the file ends with a complete line."""
        end = os.fstat(file).st_size
        data = os.pread(file, max(0, end - self._read_to), self._read_to) if end > self._read_to else b""
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                told = load_json(line)
                if told.pop("data") == self.data:
                    self._learn([Skip(**told)])
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # half a line of a killed process
        self._read_to += len(whole)
        return len(whole) == len(data)


@contextmanager
def _locked(file: int) -> Iterator[None]:
    held = False
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
    try:
        yield
    finally:
        if held:
            fcntl.flock(file, fcntl.LOCK_UN)
