"""A fixture: one recorded run of a reference implementation, in a folder with meta.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adastate.models.video_network import Size
from adastate.models.wan import DiT

SIZE_OF = {
    "dim": "width",
    "num_layers": "layers",
    "num_heads": "heads",
    "ffn_dim": "ffn",
    "in_dim": "channels",
    "text_dim": "text_width",
    "text_len": "text_tokens",
    "freq_dim": "time_embedding_dim",
    "patch_size": "patch",
    "eps": "eps",
}
"""Wan's names in `config` -> ours in Size."""

FIXED = {"model_type": "t2v", "qk_norm": True, "cross_attn_norm": True, "window_size": [-1, -1]}
"""Settings for which the network has only one option."""

REQUIRED = object()


class FixtureError(ValueError):
    """The reason why a fixture cannot be replayed, in one sentence."""


@dataclass(frozen=True)
class Fixture:
    """One run of a reference implementation.

    Attributes:
        folder: its path; other files are named relative to it.
        meta: meta.json.
        inputs, outputs: recorded tensors by name.
    """

    folder: Path
    meta: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def setting(self, key: str, default: Any = REQUIRED) -> Any:
        """`meta[key]`; raises FixtureError if it is absent and has no default."""
        if key in self.meta:
            return self.meta[key]
        if default is REQUIRED:
            raise FixtureError(f"meta.json has no {key!r}")
        return default

    def input(self, key: str) -> Tensor:
        if key not in self.inputs:
            raise FixtureError(f"the inputs have no {key!r}; they have {', '.join(sorted(self.inputs)) or 'nothing'}")
        return self.inputs[key]

    @property
    def size(self) -> Size:
        config = self.setting("config")
        for key, value in config.items():
            if key == "out_dim" and value == config.get("in_dim"):
                continue
            if key in FIXED and value != FIXED[key]:
                raise FixtureError(f"the config has {key} {value!r}; only {FIXED[key]!r} is supported")
            if key not in SIZE_OF and key not in FIXED:
                raise FixtureError(f"unknown key 'config.{key}'")
        missing = sorted(SIZE_OF.keys() - config.keys())
        if missing:
            raise FixtureError(f"the config has no {missing[0]!r}")
        values = {ours: config[theirs] for theirs, ours in SIZE_OF.items()}
        if "rope_rows" in self.meta:
            values["rope_max_frames"] = self.meta["rope_rows"]
        return Size(**{**values, "patch": tuple(values["patch"])})

    def net(self, role: str = "model", **kwargs: Any) -> DiT:
        """The reference's net with its weights, under Wan's names: missing or additional weights are an error."""
        entry = self.setting("weights").get(role)
        if entry is None:
            raise FixtureError(f"meta.json has no weights of the {role}; it has {', '.join(self.meta['weights'])}")
        if strange := entry.keys() - {"file", "sha256"}:
            raise FixtureError(f"unknown key 'weights.{role}.{min(strange)}'")
        path = self.folder / entry["file"]
        state = tensors(path)
        if "sha256" in entry and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != entry["sha256"]:
            raise FixtureError(
                f"{entry['file']} is not the file of meta.json: sha256 {found[:12]}, not {entry['sha256'][:12]}"
            )
        net = DiT(self.size, **kwargs)
        theirs = net.state_dict()
        if state.keys() != theirs.keys():
            name = min(state.keys() ^ theirs.keys())
            raise FixtureError(
                f"{entry['file']} {'has' if name in state else 'lacks'} {name!r}, unlike the config's net"
            )
        for name, value in state.items():
            if value.shape != theirs[name].shape:
                raise FixtureError(
                    f"{name} is {tuple(value.shape)} in {entry['file']} and {tuple(theirs[name].shape)} by the config"
                )
        net.load_state_dict(state)
        return net


def read_fixture(folder: Path) -> Fixture:
    """Reads the fixture in a folder; raises FixtureError if anything is missing or broken."""
    path = folder / "meta.json"
    if not path.is_file():
        raise FixtureError(f"no meta.json in {folder}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FixtureError(f"meta.json is not valid JSON: {error}") from error
    if not isinstance(meta, dict):
        raise FixtureError("meta.json is not a JSON object")
    inputs = tensors(folder / meta.get("inputs_file", "inputs.safetensors"))
    return Fixture(folder, meta, inputs, tensors(folder / "outputs.safetensors"))


def tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file."""
    if not path.is_file():
        raise FixtureError(f"no file {path.name} in {path.parent.name}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FixtureError(f"{path.name} is not a whole safetensors file") from error
