"""Loads the parity fixtures in tests/data (its README tells where they come from)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from adastate.net import DiT, Size
from adastate.stream import StreamSpec

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Fixture:
    """One run of a reference implementation."""

    folder: Path
    meta: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def net(self, role: str = "model", **kwargs: Any) -> DiT:
        """The reference's net with its weights, under Wan's names: a missing or additional one is an error."""
        c = self.meta["config"]
        size = Size(
            width=c["dim"],
            layers=c["num_layers"],
            heads=c["num_heads"],
            ffn=c["ffn_dim"],
            channels=c["in_dim"],
            text_width=c["text_dim"],
            text_tokens=c["text_len"],
            freq=c["freq_dim"],
            patch=tuple(c["patch_size"]),
            eps=c["eps"],
        )
        net = DiT(size, **kwargs)
        net.load_state_dict(load_file(self.folder / self.meta["weights"][role]["file"]))
        return net

    def draws(self, spec: StreamSpec, levels: int) -> list[Tensor]:
        """The recorded normals in the order in which `rollout` asks for them, `levels` passes a chunk."""
        noise, frames = self.inputs["noise"], spec.chunk_frames
        injected = iter(v for k, v in sorted(self.inputs.items()) if k.startswith("injected_"))
        every = []
        for first in range(0, noise.shape[1], frames):
            every.append(noise[:, first : first + frames])
            every += [next(injected).unflatten(0, (-1, frames)) for _ in range(levels - 1 + spec.context_renoise)]
        assert next(injected, None) is None, "draws are left over"
        return every


def load(name: str) -> Fixture:
    folder = DATA / name
    meta = json.loads((folder / "meta.json").read_text())
    return Fixture(folder, meta, load_file(folder / meta["inputs_file"]), load_file(folder / "outputs.safetensors"))
