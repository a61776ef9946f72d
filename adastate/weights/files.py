"""Files of tensors, read lazily and written one tensor at a time: 14 billion weights never lie in memory twice."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adastate.runtime import file_kind, plain_data
from adastate.runtime.plain_json import load_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


DIGEST, BLANK = "content_sha256", "0" * 64
"""Entry of the header for the sha256 of a file of ours, and what stands in its place while that is taken."""


class WeightsError(ValueError):
    """What is amiss with weights, told in one sentence."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: known by shape and dtype, read when asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> StoredTensor:
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def cast(self, dtype: torch.dtype | None) -> StoredTensor:
        """The same in another dtype; what is not floating point stays as it is."""
        if dtype in (None, self.dtype) or not self.dtype.is_floating_point:
            return self
        return StoredTensor(self.shape, dtype, lambda: self.read().to(dtype))


# ---- reading


def open_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(the tensors of a file, unread; its header), safetensors or torch.save by its content."""
    return _open_safetensors(path) if _kind(path) == "safetensors" else _open_torch(path)


def _kind(path: Path) -> str:
    try:
        return file_kind.kind(path)
    except file_kind.NoWeightsError as error:
        raise WeightsError(str(error)) from error


def _safe_open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error


def _verify(path: Path, digest: str) -> None:
    with path.open("rb") as file:
        begin = file.read(8)
        begin += file.read(struct.unpack("<Q", begin)[0])
        taken = hashlib.sha256(begin.replace(digest.encode(), BLANK.encode(), 1))
        while content := file.read(2**24):
            taken.update(content)
    if taken.hexdigest() != digest:
        raise WeightsError(f"{path} is damaged: it has other bytes than were written; copy or train it again")


def _open_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    file = _safe_open(path)
    told = dict(file.metadata() or {})
    if DIGEST in told:
        _verify(path, told.pop(DIGEST))

    def entry(name: str) -> StoredTensor:
        there = file.get_slice(name)
        if there.get_dtype() not in DTYPES:
            raise WeightsError(f"{path} holds {name} as {there.get_dtype()}; known are {', '.join(DTYPES)}")
        return StoredTensor(tuple(there.get_shape()), DTYPES[there.get_dtype()], lambda: file.get_tensor(name))

    # A name at a time and not items(): what safe_open returns is no mapping.
    return {name: entry(name) for name in file.keys()}, told  # noqa: SIM118


def read_header(path: Path) -> dict[str, str]:
    """The metadata in a safetensors header but for its digest; nothing for any other file."""
    told = dict(_safe_open(path).metadata() or {}) if _kind(path) == "safetensors" else {}
    return {name: value for name, value in told.items() if name != DIGEST}


def digest_of(path: Path) -> str:
    """The sha256 that a file of ours has in its header.

    Raises:
        WeightsError: it is no file of ours.
    """
    told = dict(_safe_open(path).metadata() or {}) if _kind(path) == "safetensors" else {}
    if DIGEST not in told:
        raise WeightsError(f"{path} has no digest in its header: write it again with `adastate weights import`")
    return str(told[DIGEST])


def parse_header(path: Path, header: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Our own entries of a header: `size` and `stream`, as far as they are there."""
    found = {}
    for name in ("size", "stream"):
        if name in header:
            try:
                found[name] = dict(load_json(header[name]))
            except (ValueError, TypeError) as error:
                raise WeightsError(f"{path} has a header whose {name} cannot be read: {header[name][:60]}") from error
    return found


def _open_torch(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors of a torch.save file, memory-mapped where its format allows; nothing in it is ever executed."""
    content = plain_data.load_data(path, WeightsError, "save its tensors alone, as safetensors")
    version = content.get("pytorch-lightning_version") if isinstance(content, Mapping) else None
    facts = {"lightning": str(version)} if version else {}
    return {name: StoredTensor.of(tensor) for name, tensor in _tensors(content, "")}, facts


def _tensors(node: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dictionaries under dotted names: {"generator": {"model.x": t}} gives generator.model.x."""
    if isinstance(node, Tensor):
        yield place, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors(value, f"{place}.{key}" if place else str(key))


# ---- writing


def write_safetensors(path: Path, entries: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Writes `entries` as safetensors, one at a time; call it on a scratch path (adastate.runtime.atomic).

    The header gets a digest of the file, which `open_file` holds it against; zeros stand there while it is taken.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    # The widest dtype first keeps every tensor aligned, which memory-mapped readers count on.
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {**metadata, DIGEST: BLANK}}
    end = 0
    for name in order:
        entry, start = entries[name], end
        end = start + entry.count * entry.dtype.itemsize
        header[name] = {"dtype": names[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = struct.pack("<Q", len(text)) + text
    taken = hashlib.sha256(begin)
    with path.open("wb") as file:
        file.write(begin)
        for name in order:
            tensor = entries[name].read().detach().cpu().contiguous().reshape(-1)
            content = tensor.view(torch.uint8).numpy().data
            taken.update(content)
            file.write(content)
        file.seek(begin.index(f'"{DIGEST}":"{BLANK}"'.encode()) + len(DIGEST) + 4)
        file.write(taken.hexdigest().encode())
