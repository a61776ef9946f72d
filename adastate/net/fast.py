"""The same network for passes without gradient, in fewer and larger operations.

A stream runs the network at a handful of timesteps, one for all frames of a pass. So what depends on the timestep
alone is computed once for each: the six modulations of a layer become the weight and bias of its layer norms and the
gate of its residual. Query, key and value come from one matrix product, and are normalised and rotated together. The
weights are cast once, not once per pass. Nothing is approximated: it equals DiT.forward up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as nnf

from adastate.net.attention import attend
from adastate.net.dit import Block, DiT
from adastate.net.rope import rope_table, rotate
from adastate.types import Memory, Positions, host_level

MOST_LEVELS = 64
"""Timesteps whose modulations are kept; a step list has about five."""


@dataclass(frozen=True)
class _Modulation:
    """What a timestep makes of a layer's norms and residuals, each `[D]` for one level or `[B, L, D]` by token."""

    scale: Tensor  # 1 + scale
    shift: Tensor
    gate: Tensor
    scale_ffn: Tensor
    shift_ffn: Tensor
    gate_ffn: Tensor


def is_whole(net: DiT) -> bool:
    """Whether this process holds all weights, as a Streamer needs; under ZeRO-3 and FSDP it holds pieces."""
    return all(p.numel() > 0 and not hasattr(p, "full_tensor") and not hasattr(p, "ds_id") for p in net.parameters())


class _Layer:
    """Weights of one block, cast and joined."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        own, cross = block.self_attn, block.cross_attn

        def cast(*weights: Any) -> Tensor:
            parts = [w.detach().to(dtype) for w in weights]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        self.qkv = cast(own.q.weight, own.k.weight, own.v.weight), cast(own.q.bias, own.k.bias, own.v.bias)
        self.norm_qk = torch.stack([own.norm_q.weight.detach(), own.norm_k.weight.detach()]).to(dtype)
        self.out = cast(own.o.weight), cast(own.o.bias)
        self.norm_text = cast(block.norm3.weight), cast(block.norm3.bias)
        self.q_text, self.norm_q_text = (cast(cross.q.weight), cast(cross.q.bias)), cast(cross.norm_q.weight)
        self.out_text = cast(cross.o.weight), cast(cross.o.bias)
        up, down = block.ffn[0], block.ffn[2]
        self.up, self.down = (cast(up.weight), cast(up.bias)), (cast(down.weight), cast(down.bias))
        self.modulation = block.modulation.detach().float()


class Streamer:
    """`net` with a prompt bound: (x, t, memory) -> flow, without gradient.

    Weights are joined and cast when it is made, the others shared: after a training step a new one is to be made.

    Args:
        net: whole, not in shards.
        text_keys: of `net.text_keys`.
        dtype: of the passes; None takes the net's own.
    """

    def __init__(self, net: DiT, text_keys: list[tuple[Tensor, Tensor]], dtype: torch.dtype | None = None) -> None:
        self.net, self.size = net, net.size
        self.dtype = dtype or net.compute_dtype or net.patch_embedding.weight.dtype
        self.layers = [_Layer(block, self.dtype) for block in net.blocks]  # type: ignore[arg-type]
        self.text = [(k.to(self.dtype), v.to(self.dtype)) for k, v in text_keys]
        embedding = net.patch_embedding
        assert embedding.bias is not None
        self.embedding = embedding.weight.detach().flatten(1).to(self.dtype), embedding.bias.detach().to(self.dtype)
        head = net.head.head
        self.head = head.weight.detach().to(self.dtype), head.bias.detach().to(self.dtype)
        self._levels: dict[float, tuple[list[_Modulation], tuple[Tensor, Tensor]]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        """As DiT.forward with a memory: `x` [B, F, C, H, W], `t` [B, F]."""
        with torch.autocast(x.device.type, enabled=False):
            return self._forward(x, t, memory)

    def _forward(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        size = self.size
        _, ph, pw = size.patch
        grid = (x.shape[3] // ph, x.shape[4] // pw)
        patches = rearrange(x.to(self.dtype), "b f c (h p) (w q) -> b (f h w) (c p q)", p=ph, q=pw)
        tokens = nnf.linear(patches, *self.embedding)
        modulations, (scale, shift) = self._modulate(t, grid[0] * grid[1])
        head_dim = size.width // size.heads

        def table(at: Positions) -> Tensor:
            return rope_table(at, *grid, head_dim, size.rope_rows, x.device)

        def turn(k: Tensor, at: Positions) -> Tensor:
            return rotate(k, table(at))

        apart = memory.query_positions != memory.key_positions
        ropes = table(memory.query_positions), table(memory.key_positions) if apart else None
        for i, (layer, m) in enumerate(zip(self.layers, modulations, strict=True)):
            tokens = self._block(i, layer, m, tokens, memory, ropes, turn, grid[0] * grid[1])
        out = nnf.linear(_norm(tokens, scale, shift, size.eps), *self.head)
        shape = {"f": x.shape[1], "h": grid[0], "w": grid[1], "p": ph, "q": pw}
        return rearrange(out, "b (f h w) (p q c) -> b f c (h p) (w q)", **shape).to(x.dtype)

    def _block(
        self,
        index: int,
        layer: _Layer,
        m: _Modulation,
        x: Tensor,
        memory: Memory,
        ropes: tuple[Tensor, Tensor | None],
        turn: object,
        frame_tokens: int,
    ) -> Tensor:
        width, heads, eps = self.size.width, self.size.heads, self.size.eps
        h = _norm(x, m.scale, m.shift, eps)
        qkv = nnf.linear(h, *layer.qkv)
        qk = nnf.rms_norm(qkv[..., : 2 * width].unflatten(-1, (2, width)), (width,), eps=eps) * layer.norm_qk
        qk = qk.unflatten(-1, (heads, -1))  # [B, L, 2, N, K]
        v = qkv[..., 2 * width :].unflatten(-1, (heads, -1))
        past = memory.read(index, turn)  # type: ignore[arg-type]
        memory.stage(index, qk[:, :, 1], v)
        if ropes[1] is None:
            turned = rotate(qk.flatten(2, 3), ropes[0])
            q, k = turned[:, :, :heads], turned[:, :, heads:]
        else:
            q, k = rotate(qk[:, :, 0], ropes[0]), rotate(qk[:, :, 1], ropes[1])
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        if memory.probe is not None:
            memory.probe(index, q, k, memory.visible)
        out = attend(q, k, v, memory.visible, frame_tokens).flatten(-2)
        x = torch.addcmul(x, nnf.linear(out, *layer.out), m.gate)
        q = nnf.linear(nnf.layer_norm(x, (width,), *layer.norm_text, eps), *layer.q_text)
        q = nnf.rms_norm(q, (width,), layer.norm_q_text, eps).unflatten(-1, (heads, -1))
        x = x + nnf.linear(attend(q, *self.text[index]).flatten(-2), *layer.out_text)
        h = nnf.linear(_norm(x, m.scale_ffn, m.shift_ffn, eps), *layer.up)
        return torch.addcmul(x, nnf.linear(nnf.gelu(h, approximate="tanh"), *layer.down), m.gate_ffn)

    def _modulate(self, t: Tensor, frame_tokens: int) -> tuple[list[_Modulation], tuple[Tensor, Tensor]]:
        """(modulations of every layer, those of the head) at timesteps `t` [B, F]."""
        level = host_level(t)
        if level is not None and level in self._levels:
            return self._levels[level]
        one = level is not None
        times = t[:1, :1] if one else t
        time = self.net._time(times, times.shape).detach().to(self.dtype)
        e = self.net.time_projection(time.to(self.net.head.modulation.dtype)).detach().unflatten(-1, (6, -1))

        def spread(v: Tensor) -> Tensor:  # [B, F, D] -> [D], or by token
            v = v.to(self.dtype)
            return v[0, 0] if one else v.repeat_interleave(frame_tokens, 1)

        found = []
        for layer in self.layers:
            shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (layer.modulation + e.float()).unbind(2)
            parts = (1 + scale, shift, gate, 1 + scale_ffn, shift_ffn, gate_ffn)
            found.append(_Modulation(*map(spread, parts)))
        shift, scale = (self.net.head.modulation.detach().float() + time.float()[:, :, None]).unbind(2)
        made = found, (spread(1 + scale), spread(shift))
        if level is not None:
            if len(self._levels) >= MOST_LEVELS:
                self._levels.clear()
            self._levels[level] = made
        return made


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm, then scale and shift: with one timestep they are its weight and bias."""
    if scale.dim() == 1:
        return nnf.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return torch.addcmul(shift, nnf.layer_norm(x, x.shape[-1:], eps=eps), scale)
