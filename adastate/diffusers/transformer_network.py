"""diffusers' Wan transformer as a network that streams.

Every pass goes through the transformer's own `forward`, so that its hooks, quantised layers, adapters and attention
backends do what they always do. What streaming adds stands in the attention processors: keys turn by the stream's
positions, and meet those that the memory holds. A pass tells them through a context variable; without one they leave
everything to the processors that were there before, so that other pipelines may share the transformer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from adastate.models.attention import attend
from adastate.models.rope import rope_table, rotate
from adastate.models.video_network import Size, TextKeys, VideoNetwork
from adastate.types import FrameMask, Memory, Positions, host_level


class PromptKeys(list[tuple[Tensor, Tensor]]):
    """Cross-attention keys and values `[B, Lt, N, K]` of every layer, filled by the first pass that asks for them.

    They are made within a pass, and not before: only then have hooks brought the transformer to its device.
    """

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings


@dataclass(frozen=True)
class PassContext:
    """What the attention processors need to know of one pass.

    Attributes:
        table, key_table: RoPE of the queries and of their own keys.
        grid: tokens of a frame, in height and width.
        rows: of the RoPE table in time.
    """

    table: Tensor
    key_table: Tensor
    grid: tuple[int, int]
    rows: int
    visible: FrameMask | None
    memory: Memory | None
    text: PromptKeys

    def rotate(self, keys: Tensor, positions: Positions) -> Tensor:
        return rotate(keys, rope_table(positions, *self.grid, keys.shape[-1], self.rows, keys.device))


_PASS: ContextVar[PassContext | None] = ContextVar("adastate_diffusers_pass", default=None)


class TransformerNetwork(VideoNetwork):
    """A `WanTransformer3DModel` behind the protocol of all networks here. It has no layer for actions.

    Args:
        transformer: text-to-video; its weights stay where they are and as they are.
        rope_max_frames: positions in time that a stream needs beyond those the transformer was made for.

    Raises:
        ValueError: the transformer takes a picture or other channels beside its latents.
    """

    def __init__(self, transformer: Any, rope_max_frames: int = 0) -> None:
        config = transformer.config
        made = config.out_channels or config.in_channels
        if config.image_dim or config.in_channels != made:
            what = "a picture's embedding" if config.image_dim else f"{config.in_channels} channels and makes {made}"
            raise ValueError(
                f"this transformer takes {what}: it is an image-to-video network, and a stream is given its first "
                "picture through the cache; load a text-to-video transformer, Wan2.1-T2V or a student of it"
            )
        size = Size(
            width=config.num_attention_heads * config.attention_head_dim,
            layers=config.num_layers,
            heads=config.num_attention_heads,
            ffn=config.ffn_dim,
            channels=config.in_channels,
            text_width=config.text_dim,
            time_embedding_dim=config.freq_dim,
            patch=tuple(config.patch_size),
            rope_max_frames=max(config.rope_max_seq_len, rope_max_frames),
            eps=config.eps,
        )
        super().__init__(size)
        self.transformer = transformer
        self.blocks = transformer.blocks
        proj = transformer.condition_embedder.timesteps_proj
        if not any(hook is _exact_sinusoid for hook in proj._forward_hooks.values()):
            proj.register_forward_hook(_exact_sinusoid)

    def reaching(self, rope_max_frames: int) -> TransformerNetwork:
        """Itself, with at least so many positions in time."""
        self.size = replace(self.size, rope_max_frames=max(self.size.rope_max_frames, rope_max_frames))
        return self

    def text_keys(self, text: Tensor) -> TextKeys:
        if text.shape[-1] != self.size.text_width:
            raise ValueError(f"text embeddings are {text.shape[-1]} wide, the network expects {self.size.text_width}")
        return PromptKeys(text)

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
        if actions is not None and bool(actions.any()):
            raise ValueError("diffusers' transformer has no layer for actions: it cannot be steered")
        keys = text if isinstance(text, PromptKeys) else PromptKeys(_embeddings(text))
        frames, height, width = x.shape[1], x.shape[3] // self.size.patch[1], x.shape[4] // self.size.patch[2]
        if memory is not None:
            positions, visible = memory.query_positions, memory.visible
        at = tuple(range(frames) if positions is None else positions)
        head, rows = self.size.width // self.size.heads, self.size.rope_max_frames

        def table(places: Positions) -> Tensor:
            return rope_table(places, height, width, head, rows, x.device)

        key_table = table(at if memory is None else memory.key_positions)
        context = PassContext(table(at), key_table, (height, width), rows, visible, memory, keys)
        self._take_over()
        told = keys.embeddings if len(keys) < self.size.layers else keys.embeddings[:, :1]  # nobody asks for them again
        dtype = self.transformer.dtype
        token = _PASS.set(context)
        try:
            velocity = self.transformer(
                hidden_states=x.transpose(1, 2).to(dtype),
                timestep=_timesteps(t, height * width),
                encoder_hidden_states=told.to(dtype),
                return_dict=False,
            )[0]
        finally:
            _PASS.reset(token)
        return velocity.transpose(1, 2).to(x.dtype)  # type: ignore[no-any-return]

    def _take_over(self) -> None:
        """Puts processors of a stream in front of those that are there, which may have been changed since."""
        blocks: Any = self.blocks
        for layer, block in enumerate(blocks):
            for attention, kind in ((block.attn1, StreamSelfAttention), (block.attn2, StreamCrossAttention)):
                if not isinstance(attention.processor, kind):
                    attention.set_processor(kind(attention.processor, layer))


class _StreamProcessor(ABC):
    """An attention processor of a layer that does as the one before it while nothing streams."""

    def __init__(self, before: Any, layer: int) -> None:
        self.before, self.layer = before, layer
        self._attention_backend = getattr(before, "_attention_backend", None)
        self._parallel_config = getattr(before, "_parallel_config", None)

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        context = _PASS.get()
        if context is not None:
            return self.streamed(context, attn, hidden_states, *args, **kwargs)
        for name in ("_attention_backend", "_parallel_config"):
            if hasattr(self.before, name):
                setattr(self.before, name, getattr(self, name))
        return self.before(attn, hidden_states, *args, **kwargs)

    @abstractmethod
    def streamed(self, context: PassContext, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attention of a layer within a pass of a stream."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dispatch_attention_fn(q, k.to(q.dtype), v.to(q.dtype), backend=self._attention_backend)  # type: ignore[no-any-return]


class StreamSelfAttention(_StreamProcessor):
    """Keys at the stream's positions, beside those of its memory."""

    def streamed(self, context: PassContext, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if getattr(attn, "fused_projections", False):
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        raw, memory = k, context.memory
        q, k = rotate(q, context.table), rotate(k, context.key_table)
        if memory is not None:
            k, v = memory.join(self.layer, raw if memory.keeps else None, k, v, context.rotate)
            if memory.probe is not None:
                memory.probe(self.layer, q, k, context.visible)
        if context.visible is None:
            out = self.attend(q, k, v)
        else:
            out = attend(q, k.to(q.dtype), v.to(q.dtype), context.visible, context.grid[0] * context.grid[1])
        return _projected(attn, out)


class StreamCrossAttention(_StreamProcessor):
    """The prompt's keys, made once."""

    def streamed(self, context: PassContext, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(context.text) == self.layer:
            context.text.append(self._keys(attn, *args, **kwargs))
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        return _projected(attn, self.attend(q, *context.text[self.layer]))

    def _keys(self, attn: Any, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if getattr(attn, "fused_projections", False):
            k, v = attn.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        else:
            k, v = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        return attn.norm_k(k).unflatten(-1, (attn.heads, -1)), v.unflatten(-1, (attn.heads, -1))


def _exact_sinusoid(module: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    """Sinusoids of timesteps as Wan makes them, in float64: diffusers' float32 is off by 1e-4 at timestep 1000."""
    if _PASS.get() is None:
        return None
    half = module.num_channels // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=out.device) / half)
    angle = given[0].double()[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1).to(out.dtype)


def _projected(attn: Any, out: Tensor) -> Tensor:
    projection, dropout = attn.to_out
    return dropout(projection(out.flatten(2, 3)))  # type: ignore[no-any-return]


def _timesteps(t: Tensor, tokens: int) -> Tensor:
    """`[B]` where all frames of a sample have one, else one a token `[B, F tokens]`; from `[B]` or `[B, F]`."""
    if t.dim() == 1:
        return t
    if host_level(t) is not None:
        return t[:, 0]
    return t.repeat_interleave(tokens, 1)


def _embeddings(text: Tensor | TextKeys) -> Tensor:
    if isinstance(text, Tensor):
        return text
    raise TypeError("these text keys are of another network; make them with `text_keys`")
