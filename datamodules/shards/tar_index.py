"""Reads the contents of a tar file, strictly and from its headers alone.

Python's tarfile takes a damaged header for the end of the file and obeys extended headers. Here damage is skipped and
reported, names stay within the folder, and only plain files are listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from adastate.runtime.secrets import steers

BLOCK = 512
ZEROS = bytes(BLOCK)

MAX_NAME = 1024
MAX_EXTENDED = 64 * 1024
"""Maximum bytes of a long name or of a pax header; honest ones have a few hundred."""

MAX_EXTENSIONS = 4
"""Maximum number of extended headers before one member."""

MAX_MEMBERS = 2_000_000

Read = Callable[[int, int], bytes]
"""(offset, bytes) -> those bytes, fewer at the end of the file."""


@dataclass(frozen=True)
class Fault:
    """Why something is not used: a cause that is counted, and a description that completes a sentence."""

    cause: str
    detail: str


@dataclass(frozen=True)
class Member:
    name: str  # empty if a damaged header hides it
    offset: int  # of its data
    size: int
    fault: Fault | None = None


@dataclass(frozen=True)
class Listing:
    members: list[Member]
    torn: str | None = None  # why this is not a complete tar file


@dataclass(frozen=True)
class _Extended:
    """What the extended headers before a member say about it."""

    name: str | None = None
    size: int | None = None
    fault: Fault | None = None
    count: int = 0


def list_members(read: Read, size: int) -> Listing:
    """The plain files of a tar file of `size` bytes, and everything else in it as members with a fault."""
    members: list[Member] = []
    at, extended = 0, _Extended()
    while True:
        block = read(at, BLOCK)
        if len(block) < BLOCK:
            return Listing(members, "its end is missing")
        if block == ZEROS:
            return Listing(members)
        if not _is_header(block):
            if at == 0:
                return Listing([], "no tar header")
            members.append(Member("", at, 0, Fault("corrupt member", f"has a damaged header at byte {at}")))
            found = _next_header(read, at + BLOCK, size)
            if found is None:
                return Listing(members, None if size >= at + 2 * BLOCK else "its end is missing")
            at, extended = found, _Extended()
            continue
        kind, data = block[156:157], at + BLOCK
        length = _number(block[124:136])
        if kind in b"01234567\0" and extended.size is not None:
            length = extended.size
        if length is None or data + length > size:
            return Listing(members, f"the member at byte {at} extends beyond the end of the file")
        at = data + -(-length // BLOCK) * BLOCK
        if kind in (b"L", b"K", b"x", b"g"):
            extended = _extend(extended, kind, read, data, length)
            if kind == b"g" and extended.fault is not None:
                return Listing(members, extended.fault.detail)
            continue
        if kind == b"5" and length == 0 and extended.fault is None:
            extended = _Extended()
            continue
        members.append(_member(block, kind, data, length, extended))
        extended = _Extended()
        if len(members) > MAX_MEMBERS:
            return Listing([], f"it has more than {MAX_MEMBERS} members")


def _member(block: bytes, kind: bytes, data: int, length: int, extended: _Extended) -> Member:
    fault = extended.fault
    try:
        name = _name(block) if extended.name is None else extended.name
    except UnicodeDecodeError:
        name, fault = repr(block[:100].rstrip(b"\0"))[2:-1], Fault("unsafe name", "has a name that is not utf-8")
    if fault is None and (reason := unsafe_name(name)):
        name, fault = name[:MAX_NAME].encode("unicode_escape").decode(), Fault("unsafe name", reason)
    if fault is None and kind not in (b"0", b"\0", b"7"):
        what = {b"1": "a hard link", b"2": "a symbolic link", b"5": "a folder with data"}.get(kind, "a special file")
        fault = Fault("not a file", f"is {what}: shards hold plain files only")
    return Member(name, data, length, fault)


def unsafe_name(name: str) -> str | None:
    """Why a member must not have this name; None if it may."""
    if len(name) > MAX_NAME:
        return f"has a name of {len(name)} characters, at most {MAX_NAME}"
    if not name or any(steers(c) for c in name):
        return "has a name with control characters, or none"
    if name.startswith(("/", "~")) or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        return "has a name that leads out of its folder"
    return None


def _extend(before: _Extended, kind: bytes, read: Read, data: int, length: int) -> _Extended:
    after = replace(before, count=before.count + 1)
    if after.count > MAX_EXTENSIONS:
        return replace(after, fault=Fault("giant header", f"has more than {MAX_EXTENSIONS} extended headers"))
    if length > MAX_EXTENDED:
        told = f"has an extended header of {length} bytes, at most {MAX_EXTENDED}"
        return replace(after, fault=Fault("giant header", told))
    if kind == b"K":  # the target of a link, which is not followed
        return after
    try:
        if kind == b"L":
            return replace(after, name=read(data, length).rstrip(b"\0").decode())
        records = _pax(read(data, length))
        if kind == b"g":
            abused = {"path", "size", "linkpath"} & set(records)
            return replace(after, fault=Fault("giant header", f"a global header sets {abused}")) if abused else before
        sparse = any(key.startswith("GNU.sparse") for key in records)
        return replace(
            after,
            name=records.get("path", after.name),
            size=int(records["size"]) if re.fullmatch("[0-9]{1,18}", records.get("size", "")) else after.size,
            fault=Fault("not a file", "is a sparse file: write it whole") if sparse else after.fault,
        )
    except ValueError as error:
        return replace(after, fault=Fault("corrupt member", f"has an invalid extended header ({error})"))


def _pax(data: bytes) -> dict[str, str]:
    """Records `length key=value\\n`, where length counts the entire record."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        match = re.compile(rb"([0-9]{1,6}) ([^=]+)=").match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or end > len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(f"no record at byte {at}")
        records[match[2].decode()] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        at = end
    return records


def _is_header(block: bytes) -> bool:
    told = _number(block[148:156])
    return told is not None and told == sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int | None:
    """Octal digits, or base 256 if the first bit is set; None if it is neither, or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0")[0].strip()
    return (int(text, 8) if text else 0) if re.fullmatch(rb"[0-7]*", text) else None


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0")[0].decode()
    # GNU tar stores times where POSIX has the first part of a long name.
    prefix = block[345:500].split(b"\0")[0].decode() if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _next_header(read: Read, at: int, size: int) -> int | None:
    step = 2048 * BLOCK
    while at < size:
        some = read(at, step)
        for i in range(0, len(some) - BLOCK + 1, BLOCK):
            if some[i + 257 : i + 262] == b"ustar" and _is_header(some[i : i + BLOCK]):
                return at + i
        at += step
    return None
