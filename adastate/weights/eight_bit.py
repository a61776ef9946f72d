"""Weights in 8 bits: whole numbers from -127 to 127 with a scale for every 64 of them, a quarter of float32.

A file may hold, in place of the weights, their differences from those of another file beside it: a network that was
trained from another is near to it, and its differences are small, so that rounding them loses little. Such a file is
read like any other (`sources.open_source`), and its tensors come as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from adastate.runtime.plain_json import load_json
from adastate.weights.files import StoredTensor, WeightsError, digest_of, open_file

HEADER = "eight_bit"
"""Entry of a file's header that says so: the size of the groups, and the file that differences are from."""

SCALES = ".scales"
"""After a weight's name: that of its scales."""

GROUP, LEAST, MOST = 64, 4096, 127
"""Numbers that share a scale; numbers of a tensor below which it stays as it is (norms and biases weigh little and
matter much); the largest whole number."""

ROOM = 1 + 2.0**-8
"""By which scales are larger, so that bfloat16, which rounds them, leaves room for the largest number."""

Entries = dict[str, StoredTensor]


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (int8) and the scale of every `GROUP` of them (bfloat16), of a weight of any shape.

    Groups are in the order of memory; the last one may be shorter.
    """
    flat = weight.detach().float().reshape(-1)
    groups = torch.nn.functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scales = (groups.abs().amax(1) / MOST * ROOM).bfloat16()
    steps = scales.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    whole = (groups / steps).round().clamp(-MOST, MOST).to(torch.int8)
    return whole.view(-1)[: len(flat)].view(weight.shape), scales


def restored(whole: Tensor, scales: Tensor) -> Tensor:
    """What `rounded` left of a weight, float32 of its shape."""
    steps = scales.float().repeat_interleave(GROUP)[: whole.numel()]
    return whole.float() * steps.view(whole.shape)


def packed(entries: Mapping[str, StoredTensor], base: Path | None = None) -> tuple[Entries, dict[str, str]]:
    """Entries of a file in 8 bits, unread yet, and what its header has to say.

    Args:
        base: safetensors file of ours whose weights are taken off; it has to lie beside the new file.

    Raises:
        WeightsError: the base holds other weights.
    """
    below = {} if base is None else read_packed(base)
    if base is not None and (odd := _unlike(entries, below)):
        raise WeightsError(f"{base} holds another network, {odd}: differences are taken between two of one size")
    out: Entries = {}
    for name, entry in entries.items():
        if entry.count < LEAST or not entry.dtype.is_floating_point:
            out[name] = entry
            continue
        read = partial(_difference, entry, below.get(name))
        out[name] = StoredTensor(entry.shape, torch.int8, partial(_part, read, 0))
        out[name + SCALES] = StoredTensor((-(-entry.count // GROUP),), torch.bfloat16, partial(_part, read, 1))
    told: dict[str, object] = {"group": GROUP}
    if base is not None:
        told |= {"base": base.name, "base_sha256": digest_of(base)}
    return out, {HEADER: json.dumps(told)}


def unpacked(entries: Mapping[str, StoredTensor], header: Mapping[str, str], path: Path) -> Entries:
    """The weights of a file in 8 bits, unread yet, as float32.

    Raises:
        WeightsError: the file that differences are from is not there, or is not the same any more.
    """
    below = _below(header, path)
    out: Entries = {}
    for name, entry in entries.items():
        if name.endswith(SCALES) and name.removesuffix(SCALES) in entries:
            continue
        scales = entries.get(name + SCALES)
        if scales is None:
            out[name] = entry
            continue
        if entry.dtype != torch.int8 or scales.shape != (-(-entry.count // GROUP),):
            raise WeightsError(f"{path} has scales for {name} that do not go with it: write it again")
        if below is not None and (name not in below or below[name].shape != entry.shape):
            raise WeightsError(f"{path} holds a difference from {name}, which its base has not: write it again")
        out[name] = StoredTensor(
            entry.shape, torch.float32, partial(_sum, entry, scales, None if below is None else below[name])
        )
    return out


def read_packed(path: Path) -> Entries:
    """The tensors of a file, in 8 bits or not, unread yet."""
    entries, header = open_file(path)
    return unpacked(entries, header, path) if HEADER in header else entries


def packing_in_words(header: Mapping[str, str]) -> str:
    """In a few words how a file holds its weights; empty for one that is not in 8 bits."""
    if HEADER not in header:
        return ""
    base = dict(load_json(header[HEADER])).get("base")
    return "stored in 8 bits" + (f", as differences from {base}" if base else "")


def _below(header: Mapping[str, str], path: Path) -> Entries | None:
    """The weights that differences are from; None where there are none."""
    try:
        about = dict(load_json(header[HEADER]))
        group, base = about["group"], about.get("base")
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} has a header whose {HEADER} cannot be read: {header[HEADER][:60]}") from error
    if group != GROUP:
        raise WeightsError(f"{path} has a scale for every {group} weights; those with one for {GROUP} are read")
    if base is None:
        return None
    if Path(str(base)).name != base:
        raise WeightsError(
            f"{path} holds differences from {base}, outside its folder: the file must be in the same folder"
        )
    beside = path.with_name(base)
    if not beside.is_file():
        raise WeightsError(f"{path} holds differences from {base}, which is not in the same folder: copy it there")
    if digest_of(beside) != about.get("base_sha256"):
        raise WeightsError(
            f"{path} holds differences from another {base} than the one in its folder: use the matching files"
        )
    return read_packed(beside)


def _difference(entry: StoredTensor, below: StoredTensor | None) -> Tensor:
    weight = entry.read().float()
    return weight if below is None else weight - below.read().float()


def _part(read: partial[Tensor], which: int) -> Tensor:
    return rounded(read())[which]


def _sum(entry: StoredTensor, scales: StoredTensor, below: StoredTensor | None) -> Tensor:
    weight = restored(entry.read(), scales.read())
    return weight if below is None else weight + below.read().float()


def _unlike(entries: Mapping[str, StoredTensor], below: Mapping[str, StoredTensor]) -> str:
    """The first weight that the one has and the other has not, or has in another shape; empty if there is none."""
    for name in sorted(entries.keys() | below.keys()):
        mine, theirs = entries.get(name), below.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            return f"with {name} {'nowhere' if theirs is None else list(theirs.shape)}"
    return ""
