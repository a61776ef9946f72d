"""Checkpoints of networks that lie in pieces on several processes, whatever strategy cut them.

`<network>-<rank>.pt` has float32 weights, moments and average of what the rank holds, piece by piece, each with its
place, so any number of ranks under any strategy can take up what any other wrote. `rest.pt` is what belongs to no
network. All of it is plain data, and opened as such: the formats of DeepSpeed and torch.distributed are pickles, which
could run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adastate.runtime import plain_data
from adastate.weights.files import StoredTensor, WeightsError

REST = "rest.pt"
"""What is no network's in a checkpoint: counters, loops, callbacks, schedules."""

AVERAGE = "average"
OTHER = "take another checkpoint"


class ShardedCheckpointError(ValueError):
    """What is wrong with a checkpoint in pieces, in one sentence."""


WEIGHT = "weight"
"""Name of the float32 weights among the parts of a piece; the others are the optimiser's, such as `exp_avg`."""


@dataclass(frozen=True)
class WeightShard:
    """Elements `start` to `start + count` of a flattened parameter."""

    name: str
    param: nn.Parameter
    start: int
    count: int


class ShardedNetwork(Protocol):
    """What this rank holds of a network and of its optimiser's state."""

    shapes: dict[str, tuple[int, ...]]
    """Of the whole parameters that learn, by name."""
    pieces: list[WeightShard]
    averages: list[Tensor] | None
    """Of each piece, flat and in place; None where no average is kept."""

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups."""

    def moments(self, piece: WeightShard) -> list[str]:
        """Names of the parts that the optimiser keeps of a piece; none before its first step."""

    def scalars(self) -> dict[str, Tensor]:
        """What the optimiser counts, the same for all weights; empty where this rank has no piece."""

    def part(self, piece: WeightShard, part: str) -> Tensor:
        """The float32 weights of a piece, or one of its moments: [count], a view where that is possible."""

    def write(self, piece: WeightShard, part: str, value: Tensor) -> None:
        """Sets what `part` gives."""

    def count(self, scalars: dict[str, Tensor]) -> None:
        """Sets what `scalars` gives, where the optimiser looks for it: see `counters`."""

    def bring(self, saved: SavedShards) -> None:
        """Sets copies of the weights that a strategy keeps beside the pieces; all ranks call it."""


def moments_of(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors with an axis in an optimiser's state of one weight: they are cut as the weight is."""
    return [k for k, v in state.items() if torch.is_tensor(v) and v.dim()]


def scalars_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of what an optimiser counts in its state of one weight."""
    return {k: v.detach().clone() for k, v in state.items() if torch.is_tensor(v) and not v.dim()}


def counters(scalars: dict[str, Tensor], weights: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of an optimiser's counters: a fused step reads them on its weights' device, any other on the host."""
    device = weights.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
    return {k: v.detach().to(device, copy=True) for k, v in scalars.items()}


def write_shards(
    folder: Path, name: str, held: ShardedNetwork, rank: int, save: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """This rank's file of one network; no other rank is waited for. `save` names the run and its iteration."""
    pieces = []
    for i, piece in enumerate(held.pieces):
        parts = {part: held.part(piece, part) for part in (WEIGHT, *held.moments(piece))}
        if held.averages is not None:
            parts[AVERAGE] = held.averages[i]
        pieces.append([piece.name, piece.start, parts])
    groups = [{k: v for k, v in group.items() if k != "params"} for group in held.groups]
    told = {"shapes": held.shapes, "pieces": pieces, "scalars": held.scalars(), "groups": groups}
    told["save"] = dict(save)
    plain_data.save_data(told, folder / f"{name}-{rank:05}.pt")


@torch.no_grad()
def read_shards(folder: Path, name: str, held: ShardedNetwork) -> SavedShards:
    """Loads what any number of ranks under any strategy have written; all ranks together.

    Raises:
        ShardedCheckpointError: what is there is of another network, not whole, or not plain data.
    """
    saved = SavedShards.open(folder, name)
    if saved.shapes != held.shapes:
        raise ShardedCheckpointError(
            f"{folder} holds another {name} than is trained: {saved.difference(held.shapes)}; resume it with the "
            "config in its folder"
        )
    held.bring(saved)
    for i, piece in enumerate(held.pieces):
        for part in saved.parts(piece.name):
            value = saved.cut(piece.name, part, piece.start, piece.count)
            if part != AVERAGE:
                held.write(piece, part, value)
            elif held.averages is not None:
                held.averages[i].copy_(value)
    held.count(saved.scalars)
    for group, other in zip(held.groups, saved.groups, strict=True):
        # how a step is computed is for the machine at hand to say
        group.update({k: v for k, v in other.items() if k not in ("fused", "foreach")})
    return saved


def save_sharded(folder: Path, held: Mapping[str, ShardedNetwork], rank: int, checkpoint: dict[str, Any]) -> None:
    """Writes this rank's files of a checkpoint, and rank 0 what Lightning has beside the networks.

    It is written in place: who wants it whole or absent hands in a scratch path and renames it afterwards. No rank
    waits for another once it writes, so that one whose disk is full does not leave the others waiting.

    Args:
        held: what this rank holds, by network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, mine in held.items():
        write_shards(folder, name, mine, rank, checkpoint.get("save", {}))
    if rank == 0:
        save_rest(folder, checkpoint)


def restore_sharded(folder: Path, held: Mapping[str, ShardedNetwork]) -> dict[str, Any]:
    """Reads what `save_sharded` wrote, under any strategy and on any number of processes; nothing in it is executed.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        ShardedCheckpointError: it holds more than plain data, or other networks than these.
    """
    rest = load_rest(folder)
    for name, mine in held.items():
        read_shards(folder, name, mine).require(rest.get("save", {}), REST)
    return rest


def rest_of(module: nn.Module) -> dict[str, Any]:
    """Buffers and counters; weights are in the pieces, and frozen ones in the files they came from."""
    weights = {name for name, _ in module.named_parameters()}
    return {k: v for k, v in module.state_dict().items() if k not in weights}


def bring_rest(module: nn.Module, state: dict[str, Any]) -> None:
    """Loads what `rest_of` gave."""
    weights = {name for name, _ in module.named_parameters()}
    module.load_state_dict({k: v for k, v in state.items() if k not in weights}, strict=False)


def save_rest(folder: Path, checkpoint: dict[str, Any]) -> None:
    """What a Lightning checkpoint has beside the pieces; one rank calls it."""
    plain_data.save_data({k: v for k, v in checkpoint.items() if k != "optimizer_states"}, folder / REST)


def load_rest(folder: Path) -> dict[str, Any]:
    require_sharded(folder)
    found: dict[str, Any] = plain_data.load_data(folder / REST, ShardedCheckpointError, OTHER)
    return found


def consolidate(folder: str | Path) -> dict[str, dict[str, Tensor]]:
    """Whole float32 weights of a checkpoint in pieces, by network and parameter, on one process.

    Returns:
        `student`, `critic` and `student_average` of Distill: state dicts of DiT, on the processor.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        ShardedCheckpointError: it is not plain data, or not whole.
    """
    folder = Path(folder)
    save = load_rest(folder).get("save", {})
    found: dict[str, dict[str, Tensor]] = {}
    for name in sorted({p.name[: -len("-00000.pt")] for p in folder.glob("*-00000.pt")}):
        saved = SavedShards.open(folder, name)
        saved.require(save, REST)
        found[name] = {key: saved.whole(key, WEIGHT) for key in saved.shapes}
        if all(AVERAGE in saved.parts(key) for key in saved.shapes):
            found[f"{name}_average"] = {key: saved.whole(key, AVERAGE) for key in saved.shapes}
    return found


def require_sharded(folder: Path) -> None:
    """Refuses what is no checkpoint in pieces.

    Raises:
        FileNotFoundError: there is none.
    """
    if not (folder / REST).is_file():
        raise FileNotFoundError(f"no sharded checkpoint at {folder}: there is no {REST} in it")


@dataclass
class SavedShards:
    """What all ranks wrote of one network; tensors are mapped, and read when asked for."""

    folder: Path
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pieces: dict[str, list[tuple[int, dict[str, Tensor]]]] = field(default_factory=dict)
    scalars: dict[str, Tensor] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    save: dict[str, Any] = field(default_factory=dict)
    """The run and its iteration, the same in all files of a save."""

    @classmethod
    def open(cls, folder: Path, name: str) -> SavedShards:
        made = cls(folder)
        files = sorted(folder.glob(f"{name}-?????.pt"))
        if not files:
            raise ShardedCheckpointError(f"{folder} holds no {name}: it was saved by another stage of the training")
        for file in files:
            told = plain_data.load_data(file, ShardedCheckpointError, OTHER)
            try:
                made.shapes = {k: tuple(int(n) for n in shape) for k, shape in told["shapes"].items()}
                made.groups = [dict(group) for group in told["groups"]]
                made.scalars = made.scalars or dict(told["scalars"])
                made.save = dict(told.get("save", {})) if file == files[0] else made.save
                made.require(told.get("save", {}), file.name)
                for key, start, parts in told["pieces"]:
                    made.pieces.setdefault(key, []).append((int(start), {k: v.flatten() for k, v in parts.items()}))
            except ShardedCheckpointError:
                raise
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise ShardedCheckpointError(
                    f"{file} is not a rank's part of a {name} ({error!r}): copy it again"
                ) from error
        made._check()
        return made

    def require(self, save: Mapping[str, Any], file: str) -> None:
        """Refuses a file of another save than the first of these: between two, no weight fits its moments."""
        if dict(save) != self.save:
            told = " and ".join(f"iteration {s.get('iteration')} of run {s.get('run')}" for s in (save, self.save))
            raise ShardedCheckpointError(f"{self.folder} mixes files of {told} ({file}): copy the whole folder again")

    def _check(self) -> None:
        """Pieces lie side by side and fill the weights, so that nothing is made that is not there."""
        for key, shape in self.shapes.items():
            at, whole = 0, True
            for start, parts in sorted(self.pieces.get(key, []), key=lambda piece: piece[0]):
                sizes = {part.numel() for part in parts.values()}
                whole = whole and start == at and len(sizes) == 1 and WEIGHT in parts
                at += max(sizes, default=0) if whole else 0
            if not whole or at != prod(shape):
                raise ShardedCheckpointError(
                    f"{self.folder} lacks a part of {key} from element {at} on, or has it twice: are the files "
                    "of all ranks there, and of no other run?"
                )

    def difference(self, shapes: dict[str, tuple[int, ...]]) -> str:
        return next(
            f"{key} has shape {self.shapes.get(key)}, not {shapes.get(key)}"
            for key in (*shapes, *self.shapes)
            if self.shapes.get(key) != shapes.get(key)
        )

    def parts(self, key: str) -> set[str]:
        return set.intersection(*(set(parts) for _, parts in self.pieces[key]))

    def cut(self, key: str, part: str, start: int, count: int) -> Tensor:
        """Elements `start` to `start + count` of a flattened weight or moment, whoever wrote them."""
        found = torch.zeros(count)
        for at, parts in self.pieces[key]:
            held = parts[part]
            first, last = max(start, at), min(start + count, at + held.numel())
            if first < last:
                found[first - start : last - start].copy_(held[first - at : last - at])
        return found

    def whole(self, key: str, part: str) -> Tensor:
        shape = self.shapes[key]
        return self.cut(key, part, 0, prod(shape)).view(shape)


NAMES = {
    "student": "student.net",
    "student_average": "student.ema.net",
    "critic": "critic.net",
    "teacher": "net",
    "teacher_average": "ema.net",
}
"""Our names of a checkpoint's networks -> those of an unsharded one."""


def state_of(folder: Path) -> Path | None:
    """What a checkpoint folder of a run holds: a file, or a folder of pieces; None where it is no such folder."""
    state = folder / "state.ckpt"
    return state if state.exists() else folder if (folder / "rest.pt").is_file() else None


def gather(state: Path) -> dict[str, StoredTensor]:
    """Every network's float32 weights, under the names that an unsharded checkpoint gives them."""
    try:
        networks = consolidate(state)
    except ShardedCheckpointError as error:
        raise WeightsError(str(error)) from error
    return {
        f"{NAMES.get(network, network)}.{name}": StoredTensor.of(tensor)
        for network, weights in networks.items()
        for name, tensor in weights.items()
    }
