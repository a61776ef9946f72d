"""Where weights come from: a file, or a folder as Wan2.1, diffusers or one of our runs lays it out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adastate.runtime import atomic_folder
from adastate.runtime.missing import to_come_by
from adastate.runtime.plain_json import load_json
from adastate.weights import eight_bit
from adastate.weights.builtin import MODEL, STUDENT
from adastate.weights.files import StoredTensor, WeightsError, open_file
from adastate.weights.sharded_checkpoint import gather, state_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?P<suffix>\.\w+)$")

ADAPTER_CONFIG = "adapter_config.json"
"""Beside the adapters that peft saves."""


@dataclass(frozen=True)
class Stored:
    """All tensors of a source under the names they have there, the header's entries and the configs beside them."""

    path: Path
    entries: dict[str, StoredTensor]
    header: dict[str, str]
    config: dict[str, Any]
    adapter: dict[str, Any] = field(default_factory=dict)


def open_source(source: Path) -> Stored:
    """A file or folder of weights, with nothing read yet but names, shapes and dtypes.

    A checkpoint of a run is held against its manifest, and a file of ours against the digest in its header.
    """
    folder = source.parent if source.name == "state.ckpt" else source
    if (folder / atomic_folder.MANIFEST).is_file() or atomic_folder.NAME.fullmatch(folder.name):
        try:
            atomic_folder.verify(folder)
        except atomic_folder.Damaged as error:
            raise WeightsError(f"{error}; take another checkpoint") from error
    state = state_of(source) if source.is_dir() else None
    if state is not None and state.is_dir():
        return Stored(source, gather(state), {}, {})
    files = [state] if state is not None else locate(source)
    entries: dict[str, StoredTensor] = {}
    header: dict[str, str] = {}
    for file in files:
        found, facts = open_file(file)
        if eight_bit.HEADER in facts:
            found = eight_bit.unpacked(found, facts, file)
        if twice := sorted(entries.keys() & found.keys()):
            raise WeightsError(f"{file} holds {twice[0]}, which another shard holds, too: the shards are mixed up")
        entries.update(found)
        header.update(facts)
    beside = files[0].parent
    return Stored(
        files[0] if len(files) == 1 else beside, entries, header, _config(beside), _json(beside / ADAPTER_CONFIG)
    )


def locate(source: Path) -> list[Path]:
    """The weight files of a source: a file, a run folder, or a folder of a network or pipeline, sharded or not."""
    if source.is_file():
        if source.name.endswith(".index.json"):
            return _indexed(source)
        shard = SHARD.match(source.name)
        if shard and int(shard["of"]) > 1:
            raise WeightsError(f"{source} is one of {int(shard['of'])} shards; give their folder")
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no weights at {source}; {to_come_by(source)}")
    for name in (STUDENT, MODEL):
        if (source / name).is_file():
            return [source / name]
    if (source / "transformer_2").is_dir():
        raise WeightsError(f"{source} holds two networks, transformer and transformer_2; give one of these folders")
    if (source / "transformer").is_dir():
        return locate(source / "transformer")
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        if (source / name).is_file():
            return [source / name]
    indices = sorted(source.glob("*.index.json"))
    if len(indices) == 1:
        return _indexed(indices[0])
    numbered = sorted(p for p in source.iterdir() if SHARD.match(p.name) and p.suffix in SUFFIXES)
    if numbered:
        return _numbered(numbered)
    # A gguf file is told by name when it is opened.
    single = sorted(p for p in source.iterdir() if p.suffix in (*SUFFIXES, ".gguf") and p.is_file())
    if len(single) != 1:
        held = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
        raise WeightsError(
            f"{source} holds {held}: looked for student.safetensors, transformer/, "
            f"diffusion_pytorch_model.safetensors, shards with an index, or a single file of {', '.join(SUFFIXES)}; "
            "give the file itself"
        )
    return single


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(load_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is not an index of shards (it has no weight_map): copy it again") from error
    outside = [n for n in names if not isinstance(n, str) or Path(n).name != n]
    if outside:
        raise WeightsError(
            f"{index} names a shard outside its folder, {outside[0]}; shards must be in the folder of their index"
        )
    return _whole([index.parent / n for n in names], f"{index.name} names it")


def _numbered(found: list[Path]) -> list[Path]:
    first = SHARD.match(found[0].name)
    assert first is not None
    of = int(first["of"])
    names = [f"{first['stem']}-{i:05}-of-{of:05}{first['suffix']}" for i in range(1, of + 1)]
    return _whole([found[0].parent / n for n in names], f"there are {of} shards")


def _whole(shards: list[Path], why: str) -> list[Path]:
    missing = [p.name for p in shards if not p.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{shards[0].parent} lacks the shard {missing[0]}{more} ({why}): copy it, too")
    return shards


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    return config if "Wan" in str(config.get("_class_name")) else {}


def _json(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing where there is none, or no object in it."""
    try:
        content = load_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): copy it again") from error
    return content if isinstance(content, dict) else {}
