"""Our own files: safetensors under Wan's names, with the geometry and other facts in the header."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from adastate.models import unread
from adastate.models.adapters import adapted, is_adapter, merged
from adastate.models.backbones import build_network
from adastate.models.video_network import Size, VideoNetwork
from adastate.runtime import atomic
from adastate.weights import geometry as geo
from adastate.weights import lora_scale
from adastate.weights.builtin import BUILTIN
from adastate.weights.files import StoredTensor, WeightsError, parse_header, read_header, write_safetensors
from adastate.weights.key_maps import to_diffusers
from adastate.weights.load_report import LoadReport, compare
from adastate.weights.network_weights import open_weights
from adastate.weights.sources import locate

__all__ = ["BUILTIN", "header_facts", "load_network", "load_weights", "mismatch", "save_weights"]


def save_weights(net: VideoNetwork, path: Path, half: bool = False, stream: Mapping[str, Any] | None = None) -> None:
    """Writes `net` as safetensors under Wan's names; the file is complete or absent.

    The header has its size, and with `stream` (the fields of a StreamSpec) the stream that it was trained for. Adapters
    are merged, and also written alone to a second file, `x.lora.safetensors` next to `x.safetensors`.

    Raises:
        NotFinite: a weight is not finite; an existing file is unchanged.
    """
    dtype = torch.float16 if half else None
    entries = {name: _of_numbers(name, entry.cast(dtype)) for name, entry in plain_weights(net).items()}
    with atomic.replacing(path, durable=True) as scratch:
        write_safetensors(scratch, entries, weights_header(asdict(net.size), stream))
    if adapted(net):
        save_adapters(net, path.with_suffix(".lora.safetensors"))


class NotFinite(WeightsError):
    """Weights that hold NaN or an infinity, which no file of ours gets."""


def _of_numbers(name: str, entry: StoredTensor) -> StoredTensor:
    """The tensor, which raises NotFinite when it is read and is not finite."""

    def read_numbers() -> Tensor:
        tensor = entry.read()
        if not bool(tensor.isfinite().all()):
            raise NotFinite(f"{name} is not finite: lower the rate, and go on from a checkpoint")
        return tensor

    return replace(entry, read=read_numbers)


def plain_weights(net: VideoNetwork) -> dict[str, StoredTensor]:
    """The weights of `net` under Wan's names; adapters are merged one layer at a time, as it is read."""
    layers = adapted(net)
    found = {}
    for name, tensor in net.state_dict().items():
        if is_adapter(name):
            continue
        ours = name.replace(".base_layer.", ".")
        module, _, kind = ours.rpartition(".")
        found[ours] = StoredTensor.of(tensor)
        if kind == "weight" and module in layers:
            found[ours] = StoredTensor(tuple(tensor.shape), tensor.dtype, partial(_merged, layers[module]))
    return found


def _merged(layer: Any) -> Tensor:
    return merged(layer)[0]


def save_adapters(net: VideoNetwork, path: Path) -> None:
    """Writes the adapters of `net` alone, as safetensors under diffusers' names: `pipe.load_lora_weights` reads it.

    Their scale lies in B, and the header says that alpha is the rank: readers that look there and those that do not
    add the same.
    """
    entries, targets, ranks = {}, [], set()
    for module, layer in adapted(net).items():
        (scale,) = layer.scaling.values()
        (down,), (up,) = (tuple(factor.values()) for factor in (layer.lora_A, layer.lora_B))
        there = str(to_diffusers(f"{module}.weight")).removesuffix(".weight")
        targets.append(there)
        ranks.add(down.weight.shape[0])
        entries[f"transformer.{there}.lora_A.weight"] = StoredTensor.of(down.weight.detach())
        entries[f"transformer.{there}.lora_B.weight"] = StoredTensor.of(up.weight.detach() * scale)
    (rank,) = ranks
    with atomic.replacing(path, durable=True) as scratch:
        write_safetensors(scratch, entries, {"format": "pt"} | lora_scale.adapter_header(rank, rank, targets))


def weights_header(geometry: Mapping[str, Any], stream: Mapping[str, Any] | None) -> dict[str, str]:
    return {"size": json.dumps(geometry)} | ({"stream": json.dumps(dict(stream))} if stream else {})


def load_weights(net: VideoNetwork, source: str) -> LoadReport:
    """Loads any source that `read` knows (or "builtin", the bundled tiny teacher) into `net`, in its own dtype.

    The log says what was loaded. Anything missing, unexpected or of another shape is an error, which leaves `net`
    unchanged. An exception is the layer of actions, which older weights lack: it is set to zero, which changes nothing.
    """
    take, report = fitting_weights(net, source)
    for name, tensor in net.state_dict().items():
        tensor.copy_(take(name))
    return report


def fitting_weights(net: VideoNetwork, source: str) -> tuple[Callable[[str], Tensor], LoadReport]:
    """(what reads a weight by its name, what was found) of a source whose weights are all those of `net`, see
    `load_weights`.

    No weight is read yet, and `net` may be on the meta device.
    """
    checkpoint = open_weights(source)
    theirs = checkpoint.report.geometry
    told = checkpoint.report.heads_from == geo.SAID
    compared = {k: v for k, v in theirs.items() if k != "heads" or told}
    if differ := geo.geometry_difference(compared, net.size):
        known = geo.size_name(theirs)
        remedy = f"conf/sizes/{known}.yaml is theirs" if known != "other" else "choose the matching conf/sizes/*.yaml"
        raise WeightsError(f"{checkpoint.path} holds a network of another size: {differ}; {remedy}")
    own, report = net.state_dict(), checkpoint.report
    if (columns := theirs.get("actions", 0)) not in (0, net.size.actions):
        here = f"of {net.size.actions}" if net.size.actions else "that cannot be steered"
        raise WeightsError(
            f"{checkpoint.path} holds a network that is steered by {columns} actions, this is one {here}: set actions: "
            f"{columns} in its size"
        )
    fit = compare(checkpoint.entries, {name: tuple(tensor.shape) for name, tensor in own.items()})
    if not checkpoint.entries:
        checkpoint.require()
    begins = fit.missing == (geo.ACTIONS,)
    if not (fit.whole or (begins and replace(fit, missing=()).whole)):
        raise WeightsError(f"{checkpoint.path} does not fit the network: {fit}")
    if begins:
        note = f"steered by none of its {net.size.actions} actions yet, whose layer the file has not: zeros"
        report = replace(report, notes=(*report.notes, note))
    rank_zero_info(report.line())

    def take(name: str) -> Tensor:
        if begins and name == geo.ACTIONS:
            return torch.zeros(own[name].shape)
        return checkpoint.entries[name].read()

    return take, report


def load_network(size: Size, weights: str | None = None, **options: Any) -> VideoNetwork:
    """A network in float32 on the host, with the weights of a source that `load_weights` knows, or random ones without.

    Random weights that a file's would replace are never drawn: for the large sizes that takes longer than reading.
    Where networks may wait (adastate.models.unread) those of a file are looked through, and read later.

    Args:
        options: of `VideoNetwork`.
    """
    if weights is None:
        return build_network(size, **options)
    with torch.device("meta"):
        net = build_network(size, **options)
    unread.leave(net, fitting_weights(net, weights)[0])
    if not unread.may_wait():
        unread.bring(net, "cpu")
    return net


def header_facts(source: str | Path) -> dict[str, Any]:
    """The header of our own file, read without its tensors: `size`, `stream`; empty for any other source."""
    files = locate(BUILTIN.get(str(source), Path(source)))
    return parse_header(files[0], read_header(files[0]))


def mismatch(trained: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """One sentence if weights trained with one anchor are used with another, else None.

    Both are fields of a StreamSpec, of which `anchor` and `state_frames` are compared; None if `trained` does not name
    its anchor.
    """
    if "anchor" not in trained:
        return None
    names = [name for name in ("anchor", "state_frames") if name in trained and name in wanted]
    if all(trained[name] == wanted[name] for name in names):
        return None
    had = ", ".join(f"{name}: {trained[name]}" for name in names)
    has = ", ".join(f"{name}: {wanted[name]}" for name in names)
    set_ = " ".join(f"--stream.{name}={trained[name]}" for name in names)
    return f"these weights were trained with {had} and are used with {has}, for which they were not trained: set {set_}"
