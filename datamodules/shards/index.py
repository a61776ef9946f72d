"""Positions of samples: tar shards indexed by their headers, and a set of shards as numbered places.

    key.mp4  key.latent.npy [F, C, H, W]  key.trajectory.npy [J, F, C, H, W]  key.txt caption  key.json facts

A place is a number that always refers to the same sample: one that is damaged, or is in a missing shard, keeps its
place, so that all others keep theirs.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from adastate.runtime.secrets import redacted
from datamodules.shards.identity import content, patiently_stamped, same_place, unlike_index
from datamodules.shards.patience import Patience
from datamodules.shards.remote import (
    File,
    Listed,
    Remote,
    Stamp,
    expand,
    find_files,
    is_remote,
    read_index,
    read_range,
    reader,
    size,
    stamp,
    stamp_of,
)
from datamodules.shards.shard_error import ShardError
from datamodules.shards.skip_log import Skip
from datamodules.shards.tar_index import Fault, Listing, Member, list_members

_TOGETHER = 1 << 16
"""Members are fetched in one read if at most this many bytes between them are not needed."""


class BadSample(ShardError):
    """One sample that cannot be used; samples are counted by `cause`."""

    def __init__(self, cause: str, sample: Sample, detail: str) -> None:
        super().__init__(f"{sample.shard.name}: {sample.key or 'all of it'} {detail}")
        self.cause, self.detail = cause, detail


@dataclass(frozen=True)
class Sample:
    """Positions of the members of one sample."""

    shard: File
    key: str
    members: dict[str, tuple[int, int]]  # kind -> offset and bytes in the shard
    fault: Fault | None = None
    stamp: Stamp = ()  # of the shard, when it was indexed

    def read(self, kind: str) -> bytes:
        return read_range(self.shard, *self.members[kind], self.stamp)

    def fetch(self, kinds: Sequence[str]) -> dict[str, bytes]:
        """Bytes of some members, in one read if they are close together."""
        lie = {kind: self.members[kind] for kind in kinds if kind in self.members}
        first, last = min(o for o, _ in lie.values()), max(o + n for o, n in lie.values())
        if last - first > sum(n for _, n in lie.values()) + _TOGETHER:
            return {kind: self.read(kind) for kind in lie}
        data = read_range(self.shard, first, last - first, self.stamp)
        if len(data) < last - first:
            raise FileNotFoundError(f"{self.shard} is truncated")
        return {kind: data[offset - first : offset - first + n] for kind, (offset, n) in lie.items()}


@dataclass
class Shard:
    """A tar file of a set, with its samples or the reason why it cannot be read."""

    file: File
    label: str  # its name within the set, the same on every machine
    places: int = 0
    samples: list[Sample] | None = None  # None: not indexed yet
    fault: Fault | None = None
    listed: Listed | None = None  # in an index.json


def index_shard(file: File, patience: Patience | None = None) -> tuple[list[Sample], str | None]:
    """(the samples, grouped as in webdataset, including those with a fault; why the file is incomplete).

    Raises:
        OSError: it cannot be read.
    """
    patience = patience or Patience()
    if isinstance(file, Remote):
        looked = patience(lambda: stamp(file), file)
        listing = list_members(reader(file, patience), patience(lambda: size(file), file))
    else:
        listing, looked = patience(partial(_list_local, file), file)
    return [replace(sample, stamp=looked) for sample in _group(file, listing)], listing.torn


def _list_local(path: Path) -> tuple[Listing, Stamp]:
    with path.open("rb", buffering=8192) as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        looked = stamp_of(os.fstat(file.fileno()))
        return list_members(read, looked[0]), looked


def read_shard(path: File) -> list[Sample]:
    """The samples of one tar file that must be intact.

    Raises:
        ShardError: not a complete tar file, no samples, or any member that is not a plain, intact file.
    """
    try:
        samples, torn = index_shard(path)
    except OSError as error:
        raise ShardError(f"shard {path} cannot be read ({error}): check its location") from error
    fault = next((f"{s.key} {s.fault.detail}" for s in samples if s.fault), None)
    if torn or fault:
        raise ShardError(f"shard {path} is not a whole tar file ({torn or fault}): delete and recreate it")
    if not samples:
        raise ShardError(f"shard {path} is empty: delete or recreate it")
    return samples


def _group(file: File, listing: Listing) -> list[Sample]:
    samples: list[Sample] = []
    beside: set[int] = set()  # indices of the samples before and after a damaged header
    seen: set[str] = set()
    for member in listing.members:
        if not member.name:
            beside |= {len(samples) - 1, len(samples)}
            continue
        key, kind = _split(member)
        if key is None:
            continue
        last = samples[-1] if samples else None
        if last is None or last.key != key:
            again = Fault("duplicate", "occurs twice in its shard") if key in seen else None
            last = Sample(file, key, {}, again)
            samples.append(last)
            seen.add(key)
        fault = last.fault or member.fault
        if kind in last.members:
            fault = fault or Fault("duplicate", f"has a duplicate file name, {kind}")
        last.members[kind] = member.offset, member.size
        samples[-1] = replace(last, fault=fault)
    if beside:
        usual = Counter(frozenset(s.members) for i, s in enumerate(samples) if i not in beside).most_common(1)
        for i in beside & set(range(len(samples))):
            sample = samples[i]
            if not usual or set(sample.members) != usual[0][0]:
                lost = Fault("corrupt member", "has lost a member to a damaged header")
                samples[i] = replace(sample, fault=sample.fault or lost)
    return samples


def _split(member: Member) -> tuple[str | None, str]:
    """(key, kind) as in webdataset: the key ends at the first dot of the last part of the name."""
    match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name, re.DOTALL)
    if match:
        return match[1], match[2].lower()
    return (member.name[:200], "") if member.fault else (None, "")


def find_shards(shards: str) -> list[File]:
    """Files of a folder, a glob or a brace pattern (`data/shard-{000000..000012}.tar`), sorted by name.

    Raises:
        ShardError: nothing matches, or it is not a location of files.
    """
    return [file for file in _expected(shards) if isinstance(file, Remote) or file.is_file()]


def _expected(shards: str) -> list[File]:
    """Includes missing files that a brace pattern names or an index.json lists."""
    patterns = expand(shards) if not is_remote(shards) or "{" in shards else [shards]
    found: list[File] = []
    missing: list[str] = []
    for pattern in patterns:
        matches = find_files(pattern)
        if not matches and pattern.endswith(".tar") and not re.search(r"[*?\[]", pattern):
            missing.append(pattern)
            matches = [Path(pattern)]
        elif not matches:
            missing.append(pattern)
        found += matches
    if len(missing) == len(patterns) or any(not pattern.endswith(".tar") for pattern in missing):
        raise ShardError(
            f"no shard matches {redacted(missing[0])}: check data.shards, or make some with `make shards VIDEOS=...`"
        )
    return list({same_place(file): file for file in reversed(found)}.values())[::-1]


class Places:
    """A set of shards as places 0..n-1.

    Local shards are indexed at once; remote ones that an index.json counts when one of their samples is needed.

    Args:
        shards: pattern, as for `find_shards`.
        patience: limits for slow and failing reads.

    Raises:
        ShardError: nothing matches.
    """

    def __init__(self, shards: str, patience: Patience) -> None:
        self.name, self.patience = shards, patience
        self.starts: list[int] = []
        files = _expected(shards)
        listed = _listed(files)
        labels = _labels(files)
        self.shards = [
            Shard(f, label, listed[f].samples if f in listed else 0, listed=listed.get(f))
            for f, label in zip(files, labels, strict=True)
        ]
        now = [s for s in self.shards if isinstance(s.file, Path) or s.file not in listed]
        if any(isinstance(s.file, Remote) for s in now):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda s: self._index(s, replace(patience, _down=set(), _helper=None)), now))
        else:
            for shard in now:
                self._index(shard, patience)
        if not any(s.places for s in self.shards):
            fault = self.shards[0].fault or Fault("empty shard", "is empty: delete or recreate it")
            raise ShardError(f"shard {files[0]} {fault.detail}")
        self.starts = list(accumulate([s.places for s in self.shards], initial=0))
        told_all = "\n".join(f"{s.label} {s.places}" for s in self.shards)
        self.digest = hashlib.blake2b(told_all.encode(), digest_size=6).hexdigest()
        self.content = content([(s.listed, _stamp(s) or patiently_stamped(s.file, patience)) for s in self.shards])

    def __len__(self) -> int:
        return self.starts[-1]

    def shard(self, n: int) -> Shard:
        """The shard that contains place `n`."""
        return self.shards[bisect_right(self.starts, n) - 1]

    def __getitem__(self, n: int) -> Sample:
        """The sample at place `n`, which may have a fault; its key is empty if it is unknown."""
        shard = self.shard(n)
        if shard.samples is None:
            self._index(shard, self.patience)
        samples = shard.samples or []
        k = n - self.starts[bisect_right(self.starts, n) - 1]
        if k < len(samples):
            return replace(samples[k], fault=samples[k].fault or shard.fault)
        lost = Fault("lost", f"is missing: its shard has {len(samples)} of {shard.places} samples")
        return Sample(shard.file, "", {}, shard.fault or lost)

    def indexed(self) -> Iterator[tuple[int, Sample]]:
        """(place, sample) of all shards indexed so far."""
        for start, shard in zip(self.starts, self.shards, strict=False):
            if shard.samples is not None:
                yield from ((n, self[n]) for n in range(start, start + shard.places))

    def empty(self) -> list[Skip]:
        """Shards without a place: empty ones, and unreachable ones whose contents are not listed."""
        usual = len(self) // max(1, sum(s.places > 0 for s in self.shards))
        gone = [s for s in self.shards if not s.places]
        empty = Fault("empty shard", "is empty")
        return [_whole(s, s.fault or empty, usual if s.fault else 1) for s in gone]

    def skip(self, n: int, sample: Sample, cause: str, detail: str) -> Skip:
        """The ledger's entry for place `n`; lost samples of a shard share a line, as their keys are unknown."""
        if sample.key:
            return Skip(self.shard(n).label, sample.key, cause, detail[:300])
        shard = self.shard(n)
        return _whole(shard, Fault(cause, detail), shard.places - len(shard.samples or []))

    def _index(self, shard: Shard, patience: Patience) -> None:
        torn, shard.fault = None, None
        try:
            shard.samples, torn = index_shard(shard.file, patience)
            if torn:
                told = f"shard {shard.label} is not a whole tar file ({torn}): delete and recreate it"
                shard.fault = Fault("broken shard", f"cannot be trusted, {told}")
            elif told := patience(partial(unlike_index, shard.file, shard.listed, _stamp(shard)), shard.file):
                shard.fault = Fault("changed shard", f"cannot be trusted, shard {shard.label} {told}")
        except (FileNotFoundError, PermissionError) as error:
            gone = isinstance(error, FileNotFoundError)
            shard.samples = []
            shard.fault = Fault("vanished shard" if gone else "unreadable", "is not there" if gone else str(error))
        except OSError as error:  # not permanent: it is read again when one of its samples is needed
            shard.fault = Fault("out of reach", f"cannot be read ({error})")
        if not self.starts:  # places are assigned only once
            found = shard.samples or []
            whole = shard.fault is None and not any(s.fault for s in found)
            shard.places = len(found) if whole else max(shard.places, len(found))


def _whole(shard: Shard, fault: Fault, samples: int) -> Skip:
    return Skip(shard.label, None, fault.cause, fault.detail[:300], samples)


def _listed(files: Sequence[File]) -> dict[File, Listed]:
    """Entries of the index.json beside the files."""
    found: dict[File, Listed] = {}
    for parent in dict.fromkeys(file.parent for file in files):
        index = read_index(parent if isinstance(parent, Path) else Remote(parent))
        found |= {
            (parent / name if isinstance(parent, Path) else Remote(f"{parent}/{name}")): entry
            for name, entry in index.items()
        }
    return {file: found[file] for file in files if file in found}


def _stamp(shard: Shard) -> Stamp:
    return shard.samples[0].stamp if shard.samples else ()


def _labels(files: Sequence[File]) -> list[str]:
    """Names without their common prefix, so that a set keeps them when it is moved."""
    if len({file.name for file in files}) == len(files):
        return [file.name for file in files]
    common = os.path.commonpath([str(file).rpartition("/")[0] for file in files])
    return [str(file).removeprefix(common).lstrip("/") for file in files]
