"""Exports weights in the layout of diffusers or Wan2.1, with their config, and imports weights of any origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from adastate.runtime import atomic
from adastate.weights import eight_bit
from adastate.weights import geometry as geo
from adastate.weights.files import StoredTensor, WeightsError, write_safetensors
from adastate.weights.key_maps import to_diffusers
from adastate.weights.native import weights_header
from adastate.weights.network_weights import NetworkWeights

Layout = Literal["diffusers", "wan"]
STEM = "diffusion_pytorch_model"
"""Both layouts name their files so."""


def export(
    checkpoint: NetworkWeights,
    out: Path,
    layout: Layout,
    dtype: torch.dtype | None = None,
    shard_gb: float = 10.0,
    force: bool = False,
) -> list[Path]:
    """Writes the folder `out`, complete or not at all: config.json and safetensors, sharded with an index beyond
    `shard_gb`.

    `WanTransformer3DModel.from_pretrained(out)` loads the diffusers layout, Wan2.1's code the wan layout.

    Args:
        dtype: of the weights; None keeps theirs.
        shard_gb: largest shard, in 10^9 bytes.
        force: overwrite a folder that contains such weights and nothing else.

    Returns:
        The files written.
    """
    checkpoint.require()
    if shard_gb <= 0:
        raise WeightsError(f"shards of {shard_gb} GB hold nothing; give --shard-gb a size above 0")
    size = geo.size_of(checkpoint.report.geometry)
    _may_write(out, force)
    entries = {_renamed(name, layout): entry.cast(dtype) for name, entry in checkpoint.entries.items()}
    config = geo.diffusers_config(size) if layout == "diffusers" else geo.wan_config(size)
    # diffusers and transformers ask for `format`; the rest lets the file come back as it was.
    metadata = {"format": "pt", **weights_header(asdict(size), checkpoint.report.stream)}
    with atomic.replacing(out, durable=True) as scratch:
        scratch.mkdir()
        write_config(scratch / "config.json", config)
        shards = split_into_files(entries, int(shard_gb * 1e9))
        if len(shards) == 1:
            write_safetensors(scratch / f"{STEM}.safetensors", entries, metadata)
        else:
            files = [f"{STEM}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
            for file, shard in zip(files, shards, strict=True):
                write_safetensors(scratch / file, shard, metadata)
            places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            index = {"metadata": {"total_size": sum(map(_bytes, entries.values()))}, "weight_map": places}
            write_config(scratch / f"{STEM}.safetensors.index.json", index)
    return sorted(out.iterdir())


def import_(
    checkpoint: NetworkWeights,
    out: Path,
    dtype: torch.dtype | None = None,
    force: bool = False,
    base: Path | None = None,
) -> Path:
    """Writes `out` as our own file: Wan's names, size in the header.

    Args:
        dtype: of the weights; None keeps theirs. int8 is not a plain cast: see `adastate.weights.eight_bit`.
        force: overwrite an existing file.
        base: file in the folder of `out`, relative to which differences are stored; int8 only.
    """
    checkpoint.require()
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out} does not end in .safetensors, the format of our own files")
    if out.exists() and (not force or out.is_dir()):
        raise WeightsError(f"{out} exists; give another name" + ("" if out.is_dir() else " or --force"))
    size = geo.size_of(checkpoint.report.geometry)
    about = weights_header(asdict(size), checkpoint.report.stream)
    if dtype is torch.int8:
        if base is not None and base.resolve().parent != out.resolve().parent:
            raise WeightsError(f"{base} does not lie beside {out}, where it will be looked for: copy it there first")
        entries, packing = eight_bit.packed(checkpoint.entries, base)
        about |= packing
    elif base is not None:
        raise WeightsError(f"differences from {base} are stored in 8 bits: give --dtype int8, too")
    else:
        entries = {name: entry.cast(dtype) for name, entry in checkpoint.entries.items()}
    with atomic.replacing(out, durable=True) as scratch:
        write_safetensors(scratch, entries, about)
    return out


def split_into_files(entries: Mapping[str, StoredTensor], most: int) -> list[dict[str, StoredTensor]]:
    """Shards of at most `most` bytes in the order of the entries; a larger tensor has one of its own."""
    shards: list[dict[str, StoredTensor]] = [{}]
    room = most
    for name, entry in entries.items():
        if shards[-1] and _bytes(entry) > room:
            shards.append({})
            room = most
        shards[-1][name] = entry
        room -= _bytes(entry)
    return shards


def _renamed(name: str, layout: Layout) -> str:
    if layout == "wan":
        return name
    there = to_diffusers(name)
    assert there is not None, f"{name} has no name in diffusers"
    return there


def _may_write(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise WeightsError(f"{out} exists and is not empty; give another folder or --force")
    if not out.is_dir():
        raise WeightsError(f"{out} is a file; give a folder")
    others = [p.name for p in out.iterdir() if p.name != "config.json" and not p.name.startswith(STEM)]
    if others:
        raise WeightsError(
            f"{out} holds files that are not from an export, {others[0]}; it is not overwritten, give another folder"
        )


def _bytes(entry: StoredTensor) -> int:
    return entry.count * entry.dtype.itemsize


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """A file of JSON as those of diffusers are."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
