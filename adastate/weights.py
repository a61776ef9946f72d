"""Network weights in and out of files, with their geometry beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adastate.encoders import PRETRAINED
from adastate.net import DiT

BUILTIN = {"builtin": PRETRAINED / "tiny_teacher.safetensors"}


def save(net: DiT, path: Path, half: bool = False) -> None:
    """Writes `net` as safetensors under Wan's names, whole or not at all; the size travels in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: (v.half() if half else v).detach().cpu().contiguous() for k, v in net.state_dict().items()}
    scratch = path.with_suffix(".tmp")
    save_file(state, scratch, metadata={"size": json.dumps(asdict(net.size))})
    scratch.rename(path)


def load(net: DiT, source: str) -> None:
    """Loads a safetensors file (or "builtin", the tiny teacher that ships) into `net`; anything amiss is an error."""
    path = BUILTIN.get(source, Path(source))
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; give a .safetensors file or train the stage that writes it")
    try:
        with safe_open(path, "pt") as f:
            size = (f.metadata() or {}).get("size")
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error
    if size is not None and _plain(json.loads(size)) != _plain(asdict(net.size)):
        theirs, ours = _plain(json.loads(size)), _plain(asdict(net.size))
        differ = ", ".join(f"{k} {theirs.get(k)} in the file, {ours[k]} here" for k in ours if theirs.get(k) != ours[k])
        raise ValueError(f"{path} holds a network of another size: {differ}; choose the matching conf/sizes/*.yaml")
    _fit(net, state, path)


def _plain(size: dict[str, object]) -> dict[str, object]:
    """As JSON has it (tuples become lists), without what does not shape the weights."""
    return {k: v for k, v in json.loads(json.dumps(size)).items() if k not in ("rope_rows", "eps", "text_tokens")}


def _fit(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = net.state_dict()
    wrong = [
        f"{k} {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} here"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if wrong or missing or unexpected:
        raise ValueError(
            f"{path} does not fit the network: {len(wrong)} of another shape ({'; '.join(wrong[:3])}), "
            f"{len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    net.load_state_dict({k: v.float() for k, v in state.items()})
