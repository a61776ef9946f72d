"""Equals DiT.forward (wan/dit.py) without gradient, up to rounding: tests/models/wan/test_fused.py.

The same network, in fewer and larger operations. A stream runs it at a handful of timesteps, one for all frames of a
pass. So everything that depends on the timestep alone is computed once per timestep: the six modulations of a layer
become the weight and bias of its layer norms and the gate of its residual. With steered frames, that holds for each
timestep with the same actions, frame by frame. Query, key and value come from one matrix product, and are normalised
and rotated together. The weights are cast once, not once per pass. A clean pass ends with the last layer's keys and
values. Nothing is approximated.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from adastate.models.activation import gelu
from adastate.models.adapters import merged
from adastate.models.attention import attend
from adastate.models.compute_dtype import AUTO
from adastate.models.engine import steady
from adastate.models.engine_pass import EnginePass, Modulation, Modulations, stacked
from adastate.models.linear import Linear, apply, check_fp8, in_fp8
from adastate.models.rope import rope_table, rotate
from adastate.models.video_network import Engine, TextKeys
from adastate.models.wan.dit import Block, DiT
from adastate.types import Memory, Positions, TokenSplit, host_level

MOST_LEVELS = 64
"""Timesteps whose modulations are cached; a step list has about five."""

MOST_STEERED = 8
"""The same with actions, for every frame of a pass: enough for the levels of one chunk, and for held actions."""


class _Layer:
    """Weights of one block, cast and concatenated."""

    def __init__(self, block: Block, dtype: torch.dtype, fp8: bool) -> None:
        own, cross = block.self_attn, block.cross_attn

        def linear(*layers: Any) -> Linear:
            weights, biases = zip(*map(merged, layers), strict=True)
            one = len(layers) == 1
            bias, weight = (biases[0], weights[0]) if one else (torch.cat(biases), torch.cat(weights))
            made = Linear(bias.detach().to(dtype), weight.detach().to(dtype).t())
            return in_fp8(made) if fp8 else made

        self.qkv, self.out = linear(own.q, own.k, own.v), linear(own.o)
        self.norm_qk = torch.stack([own.norm_q.weight, own.norm_k.weight]).detach().float()
        self.norm_text = block.norm3.weight.detach().to(dtype), block.norm3.bias.detach().to(dtype)
        self.q_text, self.norm_q_text = linear(cross.q), cross.norm_q.weight.detach()
        self.out_text = linear(cross.o)
        self.up, self.down = linear(block.ffn[0]), linear(block.ffn[2])
        self.modulation = block.modulation.detach().float()


class Passes:
    """Passes of `net` without gradient, for any prompt. Weights are cast and concatenated at construction, or shared if
    that is not needed: create new Passes after a training step.

    Args:
        net: unsharded.
        dtype: of the passes; None: the net's own.
        engine: see adastate.models.engine; passes that it does not support run eagerly. Steered passes are a separate
            kind, with one modulation per frame: two more programs.
        fp8: runs the products of the blocks in FP8; embeddings and head stay in `dtype`, which must be bfloat16.
    """

    def __init__(self, net: DiT, dtype: torch.dtype | None = None, engine: Engine = "eager", fp8: bool = False) -> None:
        self.net, self.size = net, net.size
        embedding = net.patch_embedding
        # FP8 needs passes in bfloat16, so it overrides the device's choice
        own = torch.bfloat16 if fp8 and net.compute_dtype_name == AUTO else net.compute_dtype
        self.dtype = dtype or own or embedding.weight.dtype
        if fp8:
            check_fp8(self.dtype, embedding.weight.device)
        self.layers = [_Layer(block, self.dtype, fp8) for block in net.blocks]  # type: ignore[arg-type]
        assert embedding.bias is not None
        flat = embedding.weight.detach().flatten(1).to(self.dtype)
        self.embedding = Linear(embedding.bias.detach().to(self.dtype), flat.t())
        weight, bias = merged(net.head.head)
        assert bias is not None
        self.head = Linear(bias.detach().to(self.dtype), weight.detach().to(self.dtype).t())
        self.eps = torch.tensor(net.size.eps, device=embedding.weight.device)
        self._levels: dict[float, Modulations] = {}
        self._steered: dict[tuple[float, bytes], Modulations] = {}
        self.steady = steady(engine, self.run, embedding.weight.device)
        # In inference mode an operation costs less on the host; graphs and compiled programs do not benefit.
        self._quiet = torch.inference_mode if self.steady is None else torch.no_grad

    def text(self, keys: TextKeys) -> TextKeys:
        """Converts a prompt's keys, from `net.text_keys`, for `__call__`."""
        # The norm weight of the text attention's queries is moved to its keys, where it costs nothing.
        weights = [layer.norm_q_text.unflatten(0, (self.size.heads, -1)) for layer in self.layers]
        return [((k * w).to(self.dtype), v.to(self.dtype)) for (k, v), w in zip(keys, weights, strict=True)]

    def __call__(self, x: Tensor, t: Tensor, memory: Memory, text: TextKeys, actions: Tensor | None = None) -> Tensor:
        """As DiT.forward with a memory: `x` [B, F, C, H, W], `t` [B, F], `actions` [B, F, A + 1] on the host.

        The result of a clean pass is not meaningful.
        """
        with torch.autocast(x.device.type, enabled=False):
            with self._quiet():
                flow = self._forward(x, t, memory, text, actions)
            # an ordinary tensor, which an autograd graph may save
            return flow.clone() if flow.is_inference() and not torch.is_inference_mode_enabled() else flow

    def _forward(self, x: Tensor, t: Tensor, memory: Memory, text: TextKeys, actions: Tensor | None) -> Tensor:
        size = self.size
        _, ph, pw = size.patch
        grid = (x.shape[3] // ph, x.shape[4] // pw)
        head_dim = size.width // size.heads

        def table(at: Positions) -> Tensor:
            return rope_table(at, *grid, head_dim, size.rope_max_frames, x.device)

        def turn(k: Tensor, at: Positions) -> Tensor:
            return rotate(k, table(at))

        queries, keys = memory.query_positions, memory.key_positions
        tables = table(queries)[:, None] if queries == keys else torch.stack([table(queries), table(keys)], 1)
        patches = rearrange(x.to(self.dtype), "b f c (h p) (w q) -> b (f h w) (c p q)", p=ph, q=pw)
        split, frames = self.net.split, x.shape[1]
        if split is not None:
            patches, tables = split.own(patches, frames), split.own(tables, frames, 0)
        pass_ = EnginePass(
            batch=x.shape[0],
            frame_tokens=grid[0] * grid[1],
            table=tables,
            keeps=memory.keeps,
            visible=memory.visible,
            join=memory.join,
            turn=turn,
            text=text,
            probe=memory.probe,
            split=split,
            key_positions=keys,
        )
        patches = patches.flatten(0, 1)
        made = self._modulate(t) if actions is None or not bool(actions.any()) else self._steer(t, actions)
        alone = self.steady is not None and split is None and host_level(t) is not None
        fixed = memory.slab_tensors(turn) if alone else None
        if fixed is not None and self.steady is not None:
            out = self.steady(patches, made, pass_, fixed, memory.clean)
        else:
            out = self.run(patches, made, pass_, memory.clean)
        if out is None:
            return x.new_empty(0)
        if split is not None:
            out = split.whole(out.unflatten(0, (x.shape[0], -1)), frames).flatten(0, 1)
        shape = {"b": x.shape[0], "f": x.shape[1], "h": grid[0], "w": grid[1], "p": ph, "q": pw}
        return rearrange(out, "(b f h w) (p q c) -> b f c (h p) (w q)", **shape).to(x.dtype)

    def run(self, patches: Tensor, made: Modulations, pass_: EnginePass, clean: bool) -> Tensor | None:
        """All layers: patches `[B L, C p q]` to velocity patches, still to be unpatched; None for a clean pass."""
        x = apply(patches, self.embedding)
        for i, (layer, m) in enumerate(zip(self.layers, made.blocks, strict=True)):
            if clean and i == len(self.layers) - 1:
                self._leave(i, layer, m, x, pass_)
                return None
            x = self._block(i, layer, m, x, pass_)
        return apply(_norm(x, *made.head, self.size.eps), self.head)

    def _block(self, index: int, layer: _Layer, m: Modulation, x: Tensor, pass_: EnginePass) -> Tensor:
        """One block; `x` [B L, D]."""
        width, heads, eps = self.size.width, self.size.heads, self.size.eps
        apart = (pass_.batch, -1, heads, width // heads)
        qkv = apply(_norm(x, m.scale, m.shift, eps), layer.qkv)
        v = qkv.narrow(1, 2 * width, width).view(apart)
        qk = qkv.narrow(1, 0, 2 * width).view(-1, 2, width)
        raw, turned = self._turned(qk, layer.norm_qk, pass_.table, pass_)
        q, k = turned.to(x.dtype).unbind(2)
        own, split = raw[:, :, 1] if raw is not None else None, pass_.split
        if split is not None:
            own, k, v, (q,) = _own_heads(own, k, v, pass_, split, q)
        k, v = pass_.join(index, own, k, v, pass_.turn)
        if pass_.probe is not None:
            seen = (q, k) if split is None else (split.all_heads(q), split.all_heads(k))
            pass_.probe(index, *seen, pass_.visible)
        out = attend(q, k, v, pass_.visible, pass_.frame_tokens)
        out = (out if split is None else split.tokens(out, len(pass_.key_positions))).reshape(-1, width)
        x = _gated(x, apply(out, layer.out), m.gate)
        q = apply(_norm(x, *layer.norm_text, eps), layer.q_text)
        q = q.mul_(_inverse_rms(q, self.eps)).view(apart)  # its weight is contained in the text's keys
        x = apply(attend(q, *pass_.text[index]).reshape(-1, width), layer.out_text).add_(x)
        h = apply(_norm(x, m.scale_ffn, m.shift_ffn, eps), layer.up)
        return _gated(x, apply(gelu(h), layer.down), m.gate_ffn)

    def _leave(self, index: int, layer: _Layer, m: Modulation, x: Tensor, pass_: EnginePass) -> None:
        """The part of a block that is needed for the cache: its keys and values."""
        width, heads, eps = self.size.width, self.size.heads, self.size.eps
        apart = (pass_.batch, -1, heads, width // heads)
        k, v = apply(_norm(x, m.scale, m.shift, eps), layer.qkv.after(width)).split(width, 1)
        raw, turned = self._turned(k[:, None], layer.norm_qk[1:], pass_.table[:, -1:], pass_)
        own, k, v = raw[:, :, 0] if raw is not None else None, turned[:, :, 0].to(x.dtype), v.reshape(apart)
        if pass_.split is not None:
            own, k, v, _ = _own_heads(own, k, v, pass_, pass_.split)
        pass_.join(index, own, k, v, pass_.turn)

    def _turned(self, x: Tensor, weight: Tensor, table: Tensor, pass_: EnginePass) -> tuple[Tensor | None, Tensor]:
        """(raw, if it is kept, and rotated) from products `[B L, n, D]` of n kinds: both `[B, L, n, N, K]`, float32.

        The norm's divisor is applied to the table, which all heads share, not to the products.
        """
        shape = (pass_.batch, -1, x.shape[1], self.size.heads, self.size.width // self.size.heads)
        inverse = _inverse_rms(x, self.eps).view(*shape[:3], 1, 1)
        weighted = (x * weight).view(shape)
        pairs = weighted.unflatten(-1, (-1, 2))
        if table.is_complex():
            turned = torch.view_as_real(torch.view_as_complex(pairs) * (table * inverse)).flatten(-2)
        else:  # for compilers, which do not support complex numbers
            (a, b), (cos, sin) = pairs.unbind(-1), (table * inverse[..., None]).unbind(-1)
            turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        return (weighted * inverse if pass_.keeps else None), turned

    def _modulate(self, t: Tensor) -> Modulations:
        """Modulations at timesteps `t` [B, F]."""
        level = host_level(t)
        if level is None:
            return self._made(t)
        if level not in self._levels:
            if len(self._levels) >= MOST_LEVELS:
                self._levels.clear()
            self._levels[level] = self._kept(self._made(t[:1, :1], one=True))
        return self._levels[level]

    def _steer(self, t: Tensor, actions: Tensor) -> Modulations:
        """The same, frame by frame, with `actions` [B, F, A + 1]."""
        level, on_device = host_level(t), actions.to(t.device, non_blocking=True)
        if level is None:
            return self._made(t, on_device)
        key = (level, actions.contiguous().numpy().tobytes())
        if key not in self._steered:
            if len(self._steered) >= MOST_STEERED:
                del self._steered[next(iter(self._steered))]  # the oldest
            self._steered[key] = self._kept(self._made(t, on_device))
        return self._steered[key]

    def _kept(self, made: Modulations) -> Modulations:
        return stacked(made) if self.steady is not None else made

    def _made(self, t: Tensor, actions: Tensor | None = None, one: bool = False) -> Modulations:
        time = self.net._time(t, t.shape, actions).detach().to(self.dtype)
        e = self.net.time_projection(time.to(self.net.head.modulation.dtype)).detach().unflatten(-1, (6, -1))

        def spread(v: Tensor) -> Tensor:  # [B, F, D] -> [D], or by frame
            v = v.to(self.dtype)
            return v[0, 0] if one else v.flatten(0, 1)

        found = []
        for layer in self.layers:
            shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (layer.modulation + e.float()).unbind(2)
            parts = (1 + scale, shift, gate, 1 + scale_ffn, shift_ffn, gate_ffn)
            found.append(Modulation(*map(spread, parts)))
        shift, scale = (self.net.head.modulation.detach().float() + time.float()[:, :, None]).unbind(2)
        return Modulations(found, (spread(1 + scale), spread(shift)))


def _own_heads(
    raw: Tensor | None, k: Tensor, v: Tensor, pass_: EnginePass, split: TokenSplit, *q: Tensor
) -> tuple[Tensor | None, Tensor, Tensor, list[Tensor]]:
    """(raw keys, rotated ones, values, queries) of all tokens and this rank's heads, from all heads of this rank's
    tokens; keys are sent once, and rotated after arrival if the raw ones are kept."""
    k, v, *rest = split.heads(len(pass_.key_positions), k if raw is None else raw.to(v.dtype), v, *q)
    turned = k if raw is None else pass_.turn(k, pass_.key_positions)
    return (None if raw is None else k), turned, v, rest


class Streamer:
    """`net` with a prompt bound: (x, t, memory) -> velocity, without gradient.

    Args:
        net, dtype, engine, fp8: see Passes.
        text_keys: from `net.text_keys`.
        passes: shared Passes of another Streamer of the same net.
    """

    def __init__(
        self,
        net: DiT,
        text_keys: TextKeys,
        dtype: torch.dtype | None = None,
        engine: Engine = "eager",
        passes: Passes | None = None,
        fp8: bool = False,
    ) -> None:
        self.passes = passes or Passes(net, dtype, engine, fp8)
        self.text = self.passes.text(text_keys)

    def __call__(self, x: Tensor, t: Tensor, memory: Memory, actions: Tensor | None = None) -> Tensor:
        return self.passes(x, t, memory, self.text, actions)


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm, then scale and shift: with one timestep they are its weight and bias."""
    if scale.dim() == 1:
        return torch.layer_norm(x, x.shape[-1:], scale, shift, eps)
    frames = torch.layer_norm(x, x.shape[-1:], eps=eps).unflatten(0, (len(scale), -1))
    return torch.addcmul(shift[:, None], frames, scale[:, None]).flatten(0, 1)


def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate y, with one gate for all frames or one per frame."""
    if gate.dim() == 1:
        return torch.addcmul(x, y, gate)
    frames = (len(gate), -1)
    return torch.addcmul(x.unflatten(0, frames), y.unflatten(0, frames), gate[:, None]).flatten(0, 1)


def _inverse_rms(x: Tensor, eps: Tensor) -> Tensor:
    """Inverse root mean square along the last axis, which is kept, in float32."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, size, size, value=1 / x.shape[-1]).rsqrt_()
