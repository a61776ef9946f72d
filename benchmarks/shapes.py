"""What the benchmarks run: shapes, streams, and a lower bound on the time of any implementation of a shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.stream import StreamSpec


@dataclass(frozen=True)
class Shape:
    """A network and its latents; `text` of the prompt's `size.text_tokens` are real tokens."""

    size: Size
    latents: tuple[int, int, int]
    chunks: int
    text_tokens: int = 16

    @property
    def frame_tokens(self) -> int:
        return self.latents[1] // self.size.patch[1] * (self.latents[2] // self.size.patch[2])


SHAPES = {
    "tiny": Shape(Size(), (16, 8, 8), 40),
    "small": Shape(Size(width=128, layers=4, heads=4, ffn=512), (16, 8, 8), 40),
    "large": Shape(Size(width=256, layers=6, heads=4, ffn=1024), (16, 30, 52), 7),
    "wan_1_3b": Shape(
        Size(width=1536, layers=30, heads=12, ffn=8960, text_width=4096, text_tokens=512, time_embedding_dim=256),
        (16, 60, 104),
        24,
        512,
    ),
}

PLAIN = {"chunk_frames": 3, "anchor": "none", "state_frames": 0, "position": "absolute"}
STREAMS = {
    "self_forcing, window 6": StreamSpec(**PLAIN, past_frames=3),  # type: ignore[arg-type]
    "self_forcing, window 21": StreamSpec(**PLAIN, past_frames=18),  # type: ignore[arg-type]
    "adastate": StreamSpec(),
    "adastate, window 9, three states": StreamSpec(past_frames=6, state_frames=3),
    "adastate, chunk of 1": StreamSpec(chunk_frames=1),
}


def random_network(shape: Shape, device: str, dtype: torch.dtype = torch.float32) -> tuple[DiT, Tensor]:
    """A network with random weights, and a prompt."""
    torch.manual_seed(0)
    net = DiT(shape.size).requires_grad_(False)
    torch.nn.init.normal_(net.head.head.weight, std=0.02)
    text = torch.randn(1, shape.text_tokens, shape.size.text_width)
    return net.to(device, dtype), text.to(device, dtype)


class Normals:
    """Noise drawn before timing starts."""

    def __init__(self, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        frames = spec.chunk_frames + spec.state_frames
        distinct = min(chunks, 8) * len(spec.denoising_steps)  # a long stream reuses them
        self._drawn = [torch.randn(1, frames, *shape.latents, generator=generator).to(device) for _ in range(distinct)]
        self._next = 0

    def normal(self, *shape: int) -> Tensor:
        drawn = self._drawn[self._next % len(self._drawn)]
        self._next += 1
        return drawn[:, : shape[0]]


class Floor:
    """Only the matrix products and attention calls of one denoising pass at a full window, nothing between them."""

    def __init__(self, shape: Shape, spec: StreamSpec, device: str, dtype: torch.dtype) -> None:
        size, tokens = shape.size, shape.frame_tokens
        queries = (spec.chunk_frames + spec.state_frames * (spec.anchor == "state")) * tokens
        keys = queries + ((spec.past_frames or 0) + spec.state_frames) * tokens
        d, heads = size.width, (size.heads, size.width // size.heads)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        self.layers, self.x, self.h = size.layers, drawn(queries, d), drawn(queries, size.ffn)
        self.square, self.qkv = drawn(d, d), drawn(d, 3 * d)
        self.up, self.down = drawn(d, size.ffn), drawn(size.ffn, d)
        self.q, self.k, self.t = (drawn(1, n, *heads).transpose(1, 2) for n in (queries, keys, shape.text_tokens))
        self.flop = size.layers * (
            2 * queries * (6 * d * d + 2 * d * size.ffn) + 4 * queries * (keys + shape.text_tokens) * d
        )

    def __call__(self) -> None:
        attention = nnf.scaled_dot_product_attention
        for _ in range(self.layers):
            self.x @ self.qkv
            attention(self.q, self.k, self.k)
            self.x @ self.square
            self.x @ self.square
            attention(self.q, self.t, self.t)
            self.x @ self.square
            self.x @ self.up
            self.h @ self.down
