"""The Wan2.1 diffusion transformer, with Wan's own parameter names.

One set of weights serves three uses: no mask and no memory is the bidirectional teacher or critic; a frame
mask is the block-causal training forward; a memory is the streaming student. The network sees the cache only
through the `Memory` it is handed (adastate.types).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from adastate.models.actions import check_actions
from adastate.models.activation import gelu
from adastate.models.attention import attend
from adastate.models.modulation import add_gated, modulate
from adastate.models.norm import RMSNorm
from adastate.models.rope import rope_table, rotate
from adastate.models.video_network import Size, TextKeys, VideoNetwork
from adastate.types import FrameMask, Memory, Positions, TokenSplit


class PatchEmbedding(nn.Conv3d):
    """Wan's convolution as a matrix product over patches, which is equivalent as its stride equals its kernel."""

    def forward(self, patches: Tensor) -> Tensor:
        return nnf.linear(patches, self.weight.flatten(1), self.bias)


class Attention(nn.Module):
    """Projections and q/k norms of one attention; Block decides what attends to what."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.q = nn.Linear(size.width, size.width)
        self.k = nn.Linear(size.width, size.width)
        self.v = nn.Linear(size.width, size.width)
        self.o = nn.Linear(size.width, size.width)
        self.norm_q = RMSNorm(size.width, size.eps)
        self.norm_k = RMSNorm(size.width, size.eps)

    def query(self, x: Tensor, table: Tensor | None = None) -> Tensor:
        """`[B, L, N, K]`, rotated by the `table` if given, as everywhere here."""
        return self.norm_q(self.q(x), self.heads, table)  # type: ignore[no-any-return]

    def keys(self, x: Tensor, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.norm_k(self.k(x), self.heads, table), self.v(x).unflatten(-1, (self.heads, -1))

    def out(self, x_BLNK: Tensor) -> Tensor:
        return self.o(x_BLNK.flatten(-2))


class GELU(nn.Module):
    """The tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class Block(nn.Module):
    def __init__(self, size: Size, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.eps = size.eps
        self.self_attn = Attention(size)
        self.cross_attn = Attention(size)
        self.norm3 = nn.LayerNorm(size.width, size.eps)
        self.ffn = nn.Sequential(nn.Linear(size.width, size.ffn), GELU(), nn.Linear(size.ffn, size.width))
        self.modulation = nn.Parameter(torch.randn(1, 6, size.width) / size.width**0.5)

    def text_keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.cross_attn.keys(context)

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        text: tuple[Tensor, Tensor],
        pass_: PassSettings,
        memory: Memory | None,
        recompute: bool = False,
    ) -> Tensor:
        """`x` [B, F*L, D], `e` [B, F, 6, D], L tokens per frame; `recompute` runs it again in backward."""
        plain = type(self)._forward
        run = _compiled(plain, BACKEND) if pass_.compiled else plain
        if recompute:
            # inside forward, so that a strategy's hooks on the module enclose it and do not run again
            return checkpoint(run, self, x, e, text, pass_, memory, use_reentrant=False)  # type: ignore[no-any-return]
        return run(self, x, e, text, pass_, memory)

    def _forward(
        self, x: Tensor, e: Tensor, text: tuple[Tensor, Tensor], pass_: PassSettings, memory: Memory | None
    ) -> Tensor:
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (self.modulation + e).unbind(2)
        q, k, v = self.project(modulate(x, shift, scale, self.eps), pass_, memory)
        mixed = attend(q, k, v, pass_.visible, pass_.frame_tokens)
        mixed = mixed if pass_.split is None else pass_.split.tokens(mixed, pass_.frames)
        x = add_gated(x, self.self_attn.out(mixed), gate)
        del k, v, mixed  # a pass without gradient has its memory peak in the ffn, of which these would be a fifth
        q = self.cross_attn.query(self.norm3(x))
        x = x + self.cross_attn.out(attend(q, text[0].to(q.dtype), text[1].to(q.dtype)))
        del q
        return add_gated(x, self.ffn(modulate(x, shift_ffn, scale_ffn, self.eps)), gate_ffn)

    def project(self, h: Tensor, pass_: PassSettings, memory: Memory | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[B, F*L, N, K]`, and the keys and values that they see: those of `h` and those from the memory."""
        q, split = self.self_attn.query(h, pass_.rope), pass_.split
        keeps = memory is not None and memory.keeps
        k, v = self.self_attn.keys(h, None if keeps else pass_.key_rope)
        if split is not None:
            q, k, v = split.heads(pass_.frames, q, k, v)
        raw = k if keeps else None
        if memory is not None:
            k = pass_.rotate(k, memory.key_positions) if keeps else k
            k, v = memory.join(self.layer, raw, k, v, pass_.rotate)
            if memory.probe is not None:
                seen = (q, k) if split is None else (split.all_heads(q), split.all_heads(k))
                memory.probe(self.layer, *seen, pass_.visible)
        return q, k, v


BACKEND = "inductor"
"""Options of torch.compile."""


@lru_cache(maxsize=4)
def _compiled(plain: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    """`plain` compiled for one kind of block: one program for all layers of a network and all passes of one shape."""
    return torch.compile(plain, backend=backend, dynamic=False)


class Head(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.eps = size.eps
        self.head = nn.Linear(size.width, size.channels * size.patch[1] * size.patch[2])
        self.modulation = nn.Parameter(torch.randn(1, 2, size.width) / size.width**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """`e` [B, F, D]: the time embedding itself, not its projection."""
        shift, scale = (self.modulation + e[:, :, None]).unbind(2)
        return self.head(modulate(x, shift, scale, self.eps))


@dataclass(frozen=True)
class PassSettings:
    """Settings that all blocks of one pass share."""

    rope: Tensor
    key_rope: Tensor
    grid: tuple[int, int]
    visible: FrameMask | None
    rows: int
    compiled: bool
    frames: int
    split: TokenSplit | None

    @property
    def frame_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def rotate(self, k_BLNK: Tensor, positions: Positions) -> Tensor:
        return rotate(k_BLNK, rope_table(positions, *self.grid, k_BLNK.shape[-1], self.rows, k_BLNK.device))


class DiT(VideoNetwork):
    """Wan2.1's transformer. Autocast would cast weights at every use, which on a CPU costs more than bf16 saves, so a
    compute_dtype casts once per forward. Passes have few shapes in a run; `compiled` compiles each of them once."""

    can_split = True

    def __init__(
        self, size: Size, checkpointing: bool = False, compute_dtype: str | None = None, compiled: bool = False
    ) -> None:
        super().__init__(size, checkpointing, compute_dtype, compiled)
        d = size.width
        self.patch_embedding = PatchEmbedding(size.channels, d, kernel_size=size.patch, stride=size.patch)
        self.text_embedding = nn.Sequential(nn.Linear(size.text_width, d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(size.time_embedding_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = self.make_blocks(size)
        self.head = Head(size)
        self._initialise()
        # Last, so that the other layers are initialised as they are without it.
        self.action_embedding = nn.Linear(size.actions + 1, d, bias=False) if size.actions else None
        if self.action_embedding is not None:
            nn.init.zeros_(self.action_embedding.weight)

    def make_blocks(self, size: Size) -> nn.ModuleList:
        return nn.ModuleList(Block(size, i) for i in range(size.layers))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for part in (self.text_embedding, self.time_embedding):
            for layer in part:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | TextKeys,
        positions: Sequence[int] | None = None,
        visible: FrameMask | None = None,
        memory: Memory | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        dtype = self.patch_embedding.weight.dtype
        if self.compute_dtype not in (None, dtype):
            cast = {name: p.to(self.compute_dtype) for name, p in self.named_parameters()}
            return torch.func.functional_call(
                self, cast, (x, t, text, positions, visible, memory, actions), strict=True
            )
        tokens, pass_ = self._embed(x.to(dtype), positions, visible, memory)
        time = self._time(t, x.shape[:2], actions).to(dtype)
        e = self.time_projection(time).unflatten(-1, (6, -1))
        keys = text if isinstance(text, list) else self.text_keys(text)
        for block, layer_keys in zip(self.blocks, keys, strict=True):
            arguments = (tokens, e, layer_keys, pass_, memory)
            recompute = self.checkpointing and torch.is_grad_enabled()
            if recompute and not isinstance(self.head.modulation, nn.Parameter):
                # At recomputation forward's cast weights are no longer in the modules, so pass them on.
                weights = dict(block.named_parameters())
                tokens = checkpoint(torch.func.functional_call, block, weights, arguments, use_reentrant=False)
            else:
                tokens = block(*arguments, recompute)
        out = self.head(tokens, time)
        out = out if self.split is None else self.split.whole(out, x.shape[1])
        _, ph, pw = self.size.patch
        grid = {"f": x.shape[1], "h": pass_.grid[0], "w": pass_.grid[1], "p": ph, "q": pw}
        return rearrange(out, "b (f h w) (p q c) -> b f c (h p) (w q)", **grid).to(x.dtype)

    def text_keys(self, text: Tensor) -> TextKeys:
        if text.shape[-1] != self.size.text_width:
            raise ValueError(f"text embeddings are {text.shape[-1]} wide, the network expects {self.size.text_width}")
        # In float32 even if passes run in compute_dtype: it happens once per prompt, and `Block` casts.
        context = self.text_embedding(text.to(self.patch_embedding.weight.dtype))
        return [block.text_keys(context) for block in self.blocks]  # type: ignore[operator, union-attr]

    def _embed(
        self, x: Tensor, positions: Sequence[int] | None, visible: FrameMask | None, memory: Memory | None
    ) -> tuple[Tensor, PassSettings]:
        _, ph, pw = self.size.patch
        frames, channels, height, width = x.shape[1:]
        if channels != self.size.channels or height % ph or width % pw:
            raise ValueError(
                f"latents are {channels} x {height} x {width}; the network takes {self.size.channels} channels "
                f"and a grid divisible by the patch {ph} x {pw}"
            )
        if memory is not None:
            positions, visible = memory.query_positions, memory.visible
        at = tuple(positions) if positions is not None else tuple(range(frames))
        if len(at) != frames:
            raise ValueError(f"{frames} frames, but {len(at)} positions")
        grid = (height // ph, width // pw)
        head_dim, rows = self.size.width // self.size.heads, self.size.rope_max_frames
        rope = rope_table(at, *grid, head_dim, rows, x.device)
        key_rope = rope if memory is None else rope_table(memory.key_positions, *grid, head_dim, rows, x.device)
        patches = rearrange(x, "b f c (h p) (w q) -> b (f h w) (c p q)", p=ph, q=pw)
        compiled = self.compiled and memory is None and visible is None
        if self.split is not None:
            patches = self.split.own(patches, frames)
            rope, key_rope = (self.split.own(table, frames, 0) for table in (rope, key_rope))
        if compiled:  # compilers do not support complex numbers
            rope = key_rope = torch.view_as_real(rope)
        return self.patch_embedding(patches), PassSettings(
            rope, key_rope, grid, visible, self.size.rope_max_frames, compiled, frames, self.split
        )

    def _time(self, t: Tensor, batch_frames: torch.Size, actions: Tensor | None = None) -> Tensor:
        """Embedding of time and, if given, actions `[B, F, D]`; the sinusoid is computed in float64, cosines first."""
        t = t if t.dim() == 2 else t[:, None].expand(batch_frames)
        half = self.size.time_embedding_dim // 2
        rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angle = t.double()[..., None] * rates
        dtype = self.patch_embedding.weight.dtype
        time = self.time_embedding(torch.cat([angle.cos(), angle.sin()], -1).to(dtype))
        if actions is None:
            return time  # type: ignore[no-any-return]
        check_actions(actions, self.size.actions, t.shape)
        assert self.action_embedding is not None
        return time + self.action_embedding(actions.to(time))  # type: ignore[no-any-return]
