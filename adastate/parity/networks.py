"""Replays of single forwards: the bidirectional network and the block-causal training forward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.wan import DiT
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import NET, Replay, names_in_key
from adastate.parity.tolerances import Compared, absolute
from adastate.types import FrameMask

PARTS = {"self_attn": "self_attn.o", "cross_attn": "cross_attn.o", "ffn": "ffn"}
"""Probe names within a block -> the module whose output they record."""


@torch.no_grad()
def bidirectional(f: Fixture) -> list[Compared]:
    """Flow of `x` [B, C, F, H, W] at `t` [B], and at every other input NAME as the output `flow_NAME`.

    Probes are recorded in the pass at `t`: `block{i}_out`, `block{i}_{self_attn|cross_attn|ffn}_out`, the embeddings
    and `patch_embed_sample0`. They may contain only the first rows of the batch.
    """
    x, text, net = f.input("x").transpose(1, 2), f.input("context"), f.net()
    with probes(net, f) as seen:
        made = {"flow": net(x, f.input("t"), text).transpose(1, 2)}
    for name in f.outputs:
        if name.startswith("flow_"):
            made[name] = net(x, f.input(name.removeprefix("flow_")), text).transpose(1, 2)
    return _compare(f, made, seen)


@torch.no_grad()
def causal(f: Fixture) -> list[Compared]:
    """Flow of `x` [B, C, F, H, W] at `t` [B, F] under the block-causal mask, or after a clean copy.

    The clean half is modulated with `aug_t` [B, F], or with t = 0. `frame_mask` [Fq, Fk] is the share of token pairs
    that the reference sees; values below 1 are its diagonal of tokens, where no frame sees another.
    """
    net, mask = f.net(), frame_mask(f)
    with probes(net, f) as seen:
        made = {"flow": masked_flow(f, net, mask)}
    found = _compare(f, made, seen)
    if "frame_mask" in f.outputs:
        expected = (f.outputs["frame_mask"] > 0.5).float()
        found.append(absolute("frame_mask", torch.tensor(mask).float(), expected, 0.0))
    return found


def frame_mask(f: Fixture) -> FrameMask:
    """Our mask for a block-causal fixture; with teacher forcing over [clean copy | noisy copy], without a window."""
    frames, block = f.input("x").shape[2], f.setting("num_frame_per_block")
    first = 1 if f.setting("independent_first_frame", False) else None
    if f.setting("teacher_forcing", "clean_x" in f.inputs):
        return teacher_forcing(frames, block, first=first)
    window = f.setting("local_attn_size", -1)
    return block_causal(frames, block, None if window < 0 else window, first)


def masked_flow(f: Fixture, net: DiT, mask: FrameMask) -> Tensor:
    """Flow `[B, C, F, H, W]` under `mask`."""
    x, t = f.input("x").transpose(1, 2), f.input("t")
    frames, copies = x.shape[1], len(mask) // x.shape[1]
    if t.dim() == 1:
        t = t[:, None].expand(-1, frames)
    if copies == 2:
        x = torch.cat([f.input("clean_x").transpose(1, 2), x], 1)
        aug_t = f.inputs.get("aug_t", torch.zeros_like(t)).to(t)
        t = torch.cat([(aug_t if aug_t.dim() == 2 else aug_t[:, None]).expand_as(t), t], 1)
    elif "clean_x" in f.inputs or "aug_t" in f.inputs:
        raise FixtureError("clean_x and aug_t need teacher_forcing, which meta.json disables")
    flow = net(x, t, f.input("context"), positions=[*range(frames)] * copies, visible=mask)
    return flow[:, -frames:].transpose(1, 2)


@contextmanager
def probes(net: DiT, f: Fixture) -> Iterator[dict[str, Tensor]]:
    """Records intermediate tensors of `net` under the names of the fixture's probes."""
    seen: dict[str, Tensor] = {}
    handles = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            seen[name] = out

        return hook

    def patches(module: nn.Module, args: Any) -> None:
        seen["patch_embed_sample0"] = args[0]

    named = {"text_embed": "text_embedding", "time_embed_e": "time_embedding", "time_proj_e0": "time_projection"}
    for name in f.outputs:
        if match := re.fullmatch(rf"block(\d+)_(?:({'|'.join(PARTS)})_)?out", name):
            named[name] = ".".join(filter(None, ("blocks", match[1], PARTS.get(match[2]))))
    for name, path in named.items():
        try:
            handles.append(net.get_submodule(path).register_forward_hook(keep(name)))
        except AttributeError:
            raise FixtureError(f"the network has no {path} for the probe {name}") from None
    handles.append(net.blocks[0].register_forward_pre_hook(patches))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _compare(f: Fixture, made: dict[str, Tensor], seen: dict[str, Tensor]) -> list[Compared]:
    """Compares flows, and those probes that were recorded."""
    made |= {name: _as_recorded(seen[name], f.outputs[name]) for name in f.outputs.keys() & seen.keys()}
    return [absolute(name, made[name], expected) for name, expected in f.outputs.items() if name in made]


def _as_recorded(got: Tensor, expected: Tensor) -> Tensor:
    """The recorded part of a probe: the first samples, or one frame of an embedding by frame [B, F, D]."""
    parts = [got[: len(expected)], got[0], got[:, 0]]
    if got.numel() == expected.numel():
        parts.append(got.reshape(expected.shape))
    return next((part for part in parts if part.shape == expected.shape), got)


REPLAY = {
    "bidirectional": Replay(bidirectional, NET, "x|context|t(_.*)?"),
    "block_causal": Replay(
        causal,
        NET | names_in_key("num_frame_per_block local_attn_size independent_first_frame teacher_forcing"),
        "x|context|t|clean_x|aug_t",
    ),
}
