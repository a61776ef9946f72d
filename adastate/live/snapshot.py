"""The state of a session, in memory or in a file: tensors as safetensors, everything else as JSON in its header.

Files may come from anyone: they contain only numbers and text, and can be used only with the weights and the stream
that they were made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adastate.diffusion.noise import PlacedNoise
from adastate.live.model import LiveModel
from adastate.live.stream_state import StreamState, check_shapes
from adastate.runtime.atomic import replacing
from adastate.runtime.plain_json import load_json
from adastate.runtime.writable import check_file
from adastate.stream import StreamSpec

FORMAT = "adastate session 1"


@dataclass(frozen=True)
class Snapshot:
    """The state of a session at one moment; immutable.

    Attributes:
        script, scripted: controls so far, and those of a script that are still to come.
        identity: identifies weights and stream, see LiveModel.identity.
    """

    state: StreamState | Mapping[str, Any]
    script: tuple[dict[str, Any], ...]
    scripted: tuple[dict[str, Any], ...]
    seed: int
    system: str | None
    identity: dict[str, Any]

    @property
    def prompt(self) -> str:
        return self.state.prompt if isinstance(self.state, StreamState) else str(self.state["prompt"])

    @property
    def chunk(self) -> int:
        """Number of the next chunk."""
        state = self.state
        return state.cache.generated if isinstance(state, StreamState) else int(state["cache"]["generated"])

    def state_for(self, model: LiveModel, spec: StreamSpec) -> StreamState:
        """The state for a session of `model` that continues from here.

        Raises:
            ValueError: the snapshot is of other weights or of another stream, or damaged.
        """
        told, wanted = _plain(self.identity), _plain(model.identity(spec))
        if differ := [name for name in wanted if told.get(name) != wanted[name]]:
            raise ValueError(
                f"this snapshot was made with other {' and '.join(differ)}: it continues only with those that made it"
            )
        if isinstance(self.state, StreamState):
            return self.state.fork()
        noise = PlacedNoise(self.seed, [0], device=model.device)
        try:
            state = _moved(self.state, model.device)
            made = StreamState.restored(state, noise, spec, model.network)
            check_shapes(made, model.frame_keys, model.shape)
            return made
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"this snapshot is damaged: {type(error).__name__} {error}") from error

    def save(self, path: str | Path) -> Path:
        """Writes the file; it is complete or absent."""
        tensors: dict[str, Tensor] = {}
        state = self.state.saved() if isinstance(self.state, StreamState) else self.state
        told = {
            "format": FORMAT,
            "state": _without_tensors(state, "state", tensors),
            "script": list(self.script),
            "scripted": list(self.scripted),
            "seed": self.seed,
            "system": self.system,
            "identity": self.identity,
        }
        path = Path(path)
        check_file(path, "give another file")
        with replacing(path) as scratch:
            save_file(tensors, scratch, metadata={"adastate": json.dumps(told)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Reads one.

        Raises:
            ValueError: the file is no snapshot.
        """
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder: give the file of a snapshot, as its save wrote it")
        try:
            with safe_open(path, "pt") as file:
                told = load_json((file.metadata() or {})["adastate"])
                if told["format"] != FORMAT:
                    raise ValueError(f"its format is {told['format']!r}, but only {FORMAT!r} is supported")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            state = _with_tensors(told["state"], tensors)
            seed, system, identity = int(told["seed"]), told["system"], dict(told["identity"])
            script, scripted = (tuple(map(dict, told[name])) for name in ("script", "scripted"))
        except FileNotFoundError:
            raise ValueError(f"there is no snapshot {path}") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a snapshot of a session ({type(error).__name__}: {error})") from error
        return cls(state, script, scripted, seed, system, identity)


def _without_tensors(node: Any, name: str, found: dict[str, Tensor]) -> Any:
    """The same node with each tensor replaced by its name; the tensors go to `found`."""
    if isinstance(node, Tensor):
        found[name] = node.detach().cpu().contiguous().clone()  # it may be a view of a larger tensor
        return {"tensor": name}
    if isinstance(node, Mapping):
        return {"map": {str(k): _without_tensors(v, f"{name}.{k}", found) for k, v in node.items()}}
    if isinstance(node, (list, tuple)):
        return [_without_tensors(v, f"{name}.{i}", found) for i, v in enumerate(node)]
    return node


def _with_tensors(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if "tensor" in node:
            return tensors[node["tensor"]]
        return {k: _with_tensors(v, tensors) for k, v in node["map"].items()}
    return [_with_tensors(v, tensors) for v in node] if isinstance(node, list) else node


def _moved(node: Any, device: torch.device) -> Any:
    if isinstance(node, Tensor):
        return node.to(device)
    if isinstance(node, Mapping):
        return {k: _moved(v, device) for k, v in node.items()}
    return [_moved(v, device) for v in node] if isinstance(node, (list, tuple)) else node


def _plain(node: Any) -> Any:
    """The node as JSON represents it: tuples become lists."""
    return json.loads(json.dumps(node))
