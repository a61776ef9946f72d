"""Nets, streams and modules so small that a law is checked in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from adastate.models.backbones import build_network
from adastate.models.video_network import Size, VideoNetwork
from adastate.models.wan import DiT
from adastate.stream import StreamSpec
from adastate.types import Memory

ROOT = Path(__file__).parents[2]
SIZE = Size(width=64, layers=2, heads=4, ffn=96, channels=4, text_width=16, text_tokens=4, time_embedding_dim=32)
GRID = (4, 6)
"""Latent height and width: 2 x 3 tokens a frame."""

SHAPE = (SIZE.channels, *GRID)
DOT = Size(width=16, layers=1, heads=2, ffn=16, channels=2, text_width=8, text_tokens=2, time_embedding_dim=8)
"""The smallest net there is, for long streams; its frames of 2 x 2 latents are one token each."""


def randomise(net: VideoNetwork, seed: int = 0) -> VideoNetwork:
    """Every parameter away from its initial value: a fresh head predicts zero, and biases of zero hide mistakes."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return net


def random_net(size: Size = SIZE, seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    return randomise(build_network(size, **kwargs), seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Drawn:
    """A source of noise for `rollout`: a plain generator that counts what is asked for."""

    def __init__(self, seed: int = 0, batch: int = 1) -> None:
        self.generator, self.batch = torch.Generator().manual_seed(seed), batch
        self.asked: list[tuple[int, ...]] = []

    def normal(self, *shape: int) -> Tensor:
        self.asked.append(shape)
        return torch.randn((self.batch, *shape), generator=self.generator)


class NetStudent:
    """A net with its prompt bound, that notes every pass: (latents, timesteps, memory, flow)."""

    def __init__(self, net: DiT, text: Tensor | None = None) -> None:
        self.net = net
        self.text = normal(1, net.size.text_tokens, net.size.text_width, seed=7) if text is None else text
        self.passes: list[tuple[Tensor, Tensor, Any, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        flow = self.net(x, t, self.text.expand(len(x), -1, -1), memory=memory)
        self.passes.append((x.detach(), t, memory, flow.detach()))
        return flow


class Marked:
    """Adds a zero of its own to the input of every pass: whether a loss hangs on a pass is its gradient there."""

    def __init__(self, net: DiT) -> None:
        self.inner, self.marks, self.graph = NetStudent(net), [], []

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        mark = torch.zeros((), requires_grad=True)
        self.marks.append(mark)
        self.graph.append(torch.is_grad_enabled())
        return self.inner(x + mark, t, memory)


class TaggedStudent:
    """Costs nothing: every frame is one token whose key is the number of its pass (from 1 on), its value its row.

    What each pass reads is noted as [(pass that made the key, row in that pass)], beside its PassMemory and timestep.
    """

    def __init__(self) -> None:
        self.read: list[list[tuple[int, int]]] = []
        self.views: list[Any] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        past = memory.read(0, lambda k, positions: k)
        pairs = (
            []
            if past is None
            else [(int(k), int(v)) for k, v in zip(past[0].flatten(), past[1].flatten(), strict=True)]
        )
        self.read.append(pairs)
        self.views.append(memory)
        self.times.append(float(t[0, 0]))
        assert bool((t == t[0, 0]).all()), "a pass has one level for all its frames"
        rows = torch.arange(x.shape[1], dtype=torch.float32).reshape(1, -1, 1, 1)
        memory.stage(0, torch.full_like(rows, len(self.read)), rows)
        return torch.zeros_like(x)


def visible(view: Any) -> list[tuple[int, int, int]]:
    """(stream index, RoPE index, chunk whose clean pass wrote it) of every cached frame that a pass sees."""
    return [
        (f.source[i], at, f.written[i]) for f, which, ats in view._context for i, at in zip(which, ats, strict=True)
    ]


def slots(view: Any) -> list[str]:
    """What a pass sees, as tests/stream/test_visibility.py writes it: source@index, own frames last, a state as S."""
    name = {-1: "S"}
    return [f"{name.get(source, source)}@{at}" for source, at, _ in visible(view)]


STAIRS: dict[str, Any] = {
    "schedule": "staircase",
    "anchor": "static",
    "state_frames": 3,
    "position": "anchor_contiguous",
    "past_frames": 9,
    "attention_frames": 12,
    "clean_pass_context": "recent",
}
"""Rolling-Forcing's choices, over `spec`."""

STATE = {"denoising_steps": (1000, 500)}
VARIANTS: Sequence[dict[str, Any]] = (
    {},
    {"state_visibility": "previous"},
    {"state_visibility": "replace"},
    {"state_frames": 3, "past_frames": 6},
    {"chunk_frames": 1},
    {"chunk_frames": 1, "state_frames": 3, "past_frames": 4, "state_visibility": "replace"},
    {"warmup": "growing"},
    {"clean_pass_sees_old_state": False},
    {"state_init": "first_frame"},
    {"state_init": "first_frame", "state_frames": 3, "warmup": "growing", "clean_pass_sees_old_state": False},
    {"state_position": "behind"},
    {"past_frames": 2},
    {"state_frames": 2, "state_update_every": (1, 3)},
)
"""AdaState's switches, each away from its default at least once."""


def spec(**kwargs: Any) -> StreamSpec:
    """AdaState with two levels, which is enough of a schedule for a law."""
    return StreamSpec(**{**STATE, **kwargs})


def read_system(name: str) -> StreamSpec:
    """The stream of conf/systems/<name>.yaml."""
    return StreamSpec(**yaml.safe_load((ROOT / f"conf/systems/{name}.yaml").read_text())["stream"])


def named(variant: dict[str, Any]) -> str:
    """Test id of a variant."""
    return ", ".join(f"{k}={v}" for k, v in variant.items()) or "defaults"
