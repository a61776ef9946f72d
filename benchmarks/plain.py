"""The reference of the streaming benchmark: the same network and window, implemented plainly, as public code often is.

Nothing is reused and nothing is optimised: the window is shifted by copying, rotary positions are applied one sample at
a time in complex float64, modulations are computed in every pass from a timestep per frame, query, key and value are
three products. Used only by benchmarks/stream.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.diffusion import flow
from adastate.models.norm import RMSNorm
from adastate.models.wan import DiT


class PlainStream:
    """A stream of `net` with absolute positions, a sliding window and no anchor: Self-Forcing's.

    Args:
        text: embeddings `[B, Lt, text_width]`.
        window: visible latent frames, including the chunk.
        steps: timesteps after the shift, noise first.
    """

    def __init__(self, net: DiT, text: Tensor, chunk: int, window: int, steps: tuple[float, ...], shift: float) -> None:
        self.net, self.chunk, self.window, self.steps, self.shift = net, chunk, window, steps, shift
        self.text_keys = net.text_keys(text)
        self.dtype = net.patch_embedding.weight.dtype
        self.frames = 0
        self.filled = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @torch.no_grad()
    def next(self, x: Tensor, fresh: list[Tensor]) -> Tensor:
        """One chunk `[B, F, C, H, W]` from noise; `fresh` is the noise of the later levels; advances the cache."""
        for i, t in enumerate(self.steps):
            times = torch.full(x.shape[:2], t)
            x0 = flow.to_x0(x, self.forward(x, times), times, self.shift)
            if i + 1 < len(self.steps):
                x = flow.add_noise(x0, fresh[i], torch.full(x.shape[:2], self.steps[i + 1]), self.shift)
        self.forward(x0, torch.zeros(x.shape[:2]), write=True)
        self.frames += self.chunk
        self.filled = min(self.filled + self.chunk, self.window)
        return x0

    def forward(self, x: Tensor, t: Tensor, write: bool = False) -> Tensor:
        net, size = self.net, self.net.size
        batch, frames, _, height, width = x.shape
        _, ph, pw = size.patch
        grid = (height // ph, width // pw)
        h = nnf.conv3d(
            x.transpose(1, 2).to(self.dtype), net.patch_embedding.weight, net.patch_embedding.bias, stride=size.patch
        )
        tokens = h.flatten(2).transpose(1, 2)
        half = size.time_embedding_dim // 2
        rates = torch.pow(10_000.0, -torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(t.flatten().double(), rates)
        time = net.time_embedding(torch.cat([angle.cos(), angle.sin()], 1).to(self.dtype)).unflatten(0, (batch, frames))
        e0 = net.time_projection(time).unflatten(-1, (6, -1))
        table = _table(size.rope_max_frames, size.width // size.heads)
        if not self.keys:
            space = self.window * grid[0] * grid[1]
            for _ in net.blocks:
                self.keys.append(torch.zeros(batch, space, size.heads, size.width // size.heads, dtype=self.dtype))
                self.values.append(torch.zeros_like(self.keys[-1]))
        for i, block in enumerate(net.blocks):
            tokens = self._block(i, block, tokens, e0, frames, grid, table, write)
        e = (net.head.modulation.unsqueeze(1) + time.unsqueeze(2)).chunk(2, dim=2)
        normed = nnf.layer_norm(tokens.float(), tokens.shape[-1:], eps=size.eps).to(self.dtype)
        out = net.head.head(_modulated(normed, e[0], e[1], frames))
        out = out.view(batch, frames, *grid, 1, ph, pw, size.channels)
        out = torch.einsum("bfhwpqrc->bcfphqwr", out)
        return out.reshape(batch, size.channels, frames, height, width).transpose(1, 2).to(x.dtype)

    def _block(
        self,
        i: int,
        block: object,
        x: Tensor,
        e0: Tensor,
        frames: int,
        grid: tuple[int, int],
        table: Tensor,
        write: bool,
    ) -> Tensor:
        own, cross, size = block.self_attn, block.cross_attn, self.net.size  # type: ignore[attr-defined]
        e = (block.modulation.unsqueeze(1) + e0).chunk(6, dim=2)  # type: ignore[attr-defined]
        h = nnf.layer_norm(x.float(), x.shape[-1:], eps=size.eps).to(x.dtype)
        h = _modulated(h, e[0], e[1], frames)
        heads = (x.shape[0], x.shape[1], size.heads, -1)
        q = _normed(own.q(h), own.norm_q).view(heads)
        k = _normed(own.k(h), own.norm_k).view(heads)
        v = own.v(h).view(heads)
        q, k = _turned(q, grid, frames, table, self.frames), _turned(k, grid, frames, table, self.frames)
        keys, values = self.keys[i], self.values[i]
        tokens, room = x.shape[1], keys.shape[1]
        end = min(self.filled, self.window - frames) * grid[0] * grid[1]
        if self.filled + frames > self.window:
            shown_k, shown_v = keys.clone(), values.clone()
            shown_k[:, : room - tokens] = keys[:, tokens:].clone()
            shown_v[:, : room - tokens] = values[:, tokens:].clone()
        else:
            shown_k, shown_v = keys.clone(), values.clone()
        shown_k[:, end : end + tokens], shown_v[:, end : end + tokens] = k, v
        if write:
            self.keys[i], self.values[i] = shown_k, shown_v
        out = nnf.scaled_dot_product_attention(
            q.transpose(1, 2), shown_k[:, : end + tokens].transpose(1, 2), shown_v[:, : end + tokens].transpose(1, 2)
        )
        x = x + _gated(own.o(out.transpose(1, 2).flatten(2)), e[2], frames)
        q = _normed(cross.q(block.norm3(x)), cross.norm_q).view(heads)  # type: ignore[attr-defined]
        text_k, text_v = self.text_keys[i]
        out = nnf.scaled_dot_product_attention(q.transpose(1, 2), text_k.transpose(1, 2), text_v.transpose(1, 2))
        x = x + cross.o(out.transpose(1, 2).flatten(2))
        h = nnf.layer_norm(x.float(), x.shape[-1:], eps=size.eps).to(x.dtype)
        return x + _gated(block.ffn(_modulated(h, e[3], e[4], frames)), e[5], frames)  # type: ignore[attr-defined]


def _normed(x: Tensor, norm: RMSNorm) -> Tensor:
    return nnf.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def _modulated(h: Tensor, shift: Tensor, scale: Tensor, frames: int) -> Tensor:
    return (h.unflatten(1, (frames, -1)) * (1 + scale) + shift).flatten(1, 2)


def _gated(y: Tensor, gate: Tensor, frames: int) -> Tensor:
    return (y.unflatten(1, (frames, -1)) * gate).flatten(1, 2)


def _table(rows: int, head_dim: int) -> Tensor:
    space = 2 * (head_dim // 6)
    parts = []
    for dim in (head_dim - 2 * space, space, space):
        rates = 1.0 / torch.pow(10_000.0, torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.outer(torch.arange(rows, dtype=torch.float64), rates)
        parts.append(torch.polar(torch.ones_like(angle), angle))
    return torch.cat(parts, 1)


def _turned(x: Tensor, grid: tuple[int, int], frames: int, table: Tensor, start: int) -> Tensor:
    height, width = grid
    pairs = x.shape[-1] // 2
    time, high, wide = table.split([pairs - 2 * (pairs // 3), pairs // 3, pairs // 3], dim=1)
    out = []
    for row in x:
        turn = torch.cat(
            [
                time[start : start + frames].view(frames, 1, 1, -1).expand(frames, height, width, -1),
                high[:height].view(1, height, 1, -1).expand(frames, height, width, -1),
                wide[:width].view(1, 1, width, -1).expand(frames, height, width, -1),
            ],
            dim=-1,
        ).reshape(frames * height * width, 1, -1)
        z = torch.view_as_complex(row.to(torch.float64).reshape(frames * height * width, x.shape[2], -1, 2))
        out.append(torch.view_as_real(z * turn).flatten(2))
    return torch.stack(out).type_as(x)
