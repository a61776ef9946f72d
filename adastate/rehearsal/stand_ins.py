"""Replaces files in a rehearsal: random networks, encoders of their published geometry, and a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from adastate.config.classes import class_at
from adastate.encoders.hub import need
from adastate.models.adapters import adapted
from adastate.types import Batch

WORDS = 100
"""Number of tokens of a prompt."""


def _network(made: Callable[..., Any]) -> Callable[..., Any]:
    def network(size: Any, weights: Any = None, **options: Any) -> Any:
        net = made(size, None, **options)
        net.of_a_file = weights is not None
        return net

    return network


def module_host_bytes(module: pl.LightningModule, strategy: Any, low: int) -> int:
    """Host memory that a real run would use for `module` while it starts, see adastate.plan.memory.host_bytes.

    Args:
        strategy: as in the configuration.
        low: bytes per number of weights that ZeRO shards.
    """
    told = (strategy.get("init_args") or {}) if isinstance(strategy, dict) else {}
    trained = getattr(module, "trained", {}).values() if told.get("stage") == 3 else ()
    cut = [net.net for net in trained] + [*module.frozen.values()] * bool(told.get("shard_frozen"))  # type: ignore[operator, union-attr]
    read = [net for net in module.modules() if getattr(net, "of_a_file", False) and not adapted(net)]
    straight = {id(p) for net in read for p in net.parameters()}
    held = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()) if id(t) not in straight)
    return held + sum(p.numel() * low for net in cut for p in net.parameters() if id(p) in straight)


class StandInTokens(dict[str, Tensor]):
    """Like transformers' BatchEncoding."""

    input_ids: Tensor
    attention_mask: Tensor

    def to(self, device: Any) -> StandInTokens:
        made = StandInTokens({name: x.to(device) for name, x in self.items()})
        made.input_ids, made.attention_mask = made["input_ids"], made["attention_mask"]
        return made


def tokenize(prompts: list[str], max_length: int = 512, **options: Any) -> StandInTokens:
    ids = torch.ones(len(prompts), max_length, dtype=torch.int64)
    mask = (torch.arange(max_length) < WORDS).long().expand(len(prompts), -1).contiguous()
    made = StandInTokens(input_ids=ids, attention_mask=mask)
    made.input_ids, made.attention_mask = ids, mask
    return made


WAN22_VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
"""The published geometry of Wan2.2's VAE."""


def _part(channels: int, source: str, part: Any, load: Any) -> Any:
    """Wan's VAE for latents with this many channels, UMT5-XXL or its tokenizer, without their files."""
    told = getattr(load, "keywords", {})
    dtype = told.get("torch_dtype") or told.get("dtype") or torch.float32
    if "tokenizer" in part.name:
        return tokenize
    if "VAE" in part.name:
        geometry: dict[str, Any] = WAN22_VAE if channels == WAN22_VAE["z_dim"] else {}
        vae: Any = need("diffusers").AutoencoderKLWan(**geometry)
        return vae.to(dtype)
    transformers = need("transformers")
    config = transformers.UMT5Config(
        vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    with _without_drawing():
        return transformers.UMT5EncoderModel(config).to(dtype)


@contextlib.contextmanager
def _without_drawing() -> Iterator[None]:
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


@contextlib.contextmanager
def without_files(channels: int = 16) -> Iterator[None]:
    """In this context networks, and encoders of latents with this many channels, are created without weight files."""
    from adastate.distributed import protocol
    from adastate.encoders import group_codec, taehv, wan_vae
    from adastate.training import student

    with contextlib.ExitStack() as stack:
        for module in (protocol, student):
            stack.enter_context(mock.patch.object(module, "load_network", _network(module.load_network)))
        stack.enter_context(mock.patch.object(wan_vae, "load_part", partial(_part, channels)))
        stack.enter_context(mock.patch.object(group_codec.GroupCodec, "load", lambda self, weights, shipped: None))
        stack.enter_context(mock.patch.object(taehv.TAEHV, "_load", lambda self, path: None))
        yield


def _zeros(*shape: int) -> Tensor:
    """Zeros on the host that take the memory of one number: a batch too large for a device need not fit here."""
    return torch.zeros(()).expand(shape)


@dataclass(frozen=True)
class BatchShape:
    """Shape of one micro batch of a rank.

    Attributes:
        size: samples.
        latents: `[F, C, H, W]`, None if the data have none.
        video: `[T, 3, h, w]`, likewise.
        levels: timesteps of trajectories, likewise.
        actions: action columns of a steered world, and number of frames.
        pairs: whether every prompt has a next one.
    """

    size: int
    latents: tuple[int, int, int, int] | None = None
    video: tuple[int, int, int, int] | None = None
    levels: tuple[float, ...] | None = None
    actions: tuple[int, int] | None = None
    pairs: bool = False

    def batch(self, first: int) -> Batch:
        """A batch on the host, whose samples have the numbers from `first` on."""
        n = self.size
        prompts = [f"a slow flight over a green meadow {first + i}" for i in range(n)]
        trajectory = levels = None
        if self.levels is not None and self.latents is not None:
            trajectory, levels = _zeros(n, len(self.levels), *self.latents), torch.tensor(self.levels)
        return Batch(
            index=torch.arange(first, first + n),
            prompts=prompts,
            latents=None
            if self.latents is None
            else _zeros(n, *self.latents),  # also for trajectories: their clean past
            video=None if self.video is None else _zeros(n, *self.video),
            trajectory=trajectory,
            levels=levels,
            actions=None if self.actions is None else torch.zeros(n, *self.actions),
            next_prompts=[f"{p}, then turning" for p in prompts] if self.pairs else [],
        )


class _Endless(IterableDataset[Batch]):
    def __init__(self, data: StandInData, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world

    def __iter__(self) -> Iterator[Batch]:
        step = 0
        while True:
            yield self.data.shape_now.batch((step * self.world + self.rank) * self.data.batch).pin_memory()
            step += 1


class StandInData(pl.LightningDataModule):
    """Batches with the shapes that a configuration's own data would have."""

    def __init__(self, shape: BatchShape) -> None:
        super().__init__()
        self.shape, self.batch = shape, shape.size

    @property
    def shape_now(self) -> BatchShape:
        return replace(self.shape, size=self.batch)

    def train_dataloader(self) -> Any:
        trainer: Any = self.trainer
        return DataLoader(_Endless(self, trainer.global_rank, trainer.world_size), batch_size=None)


SHIPPED = {"PromptData", "ShardData", "TrajectoryData", "WorldData"}


def batch_shape(data: dict[str, Any], variables: dict[str, Any], module: Any) -> BatchShape | None:
    """The shape of the batches of a configuration's datamodule for `module`; None for a class that is not ours."""
    kind, told = class_at(data["class_path"]).__name__, data.get("init_args") or {}
    if kind not in SHIPPED:
        return None
    size = int(told.get("batch", 16))
    actions = int((variables.get("size") or {}).get("actions") or 0)
    height, width = variables.get("latent_size") or (8, 8)
    rollout = variables.get("rollout") or {}
    frames = int(told.get("frames") or rollout.get("frames") or 7)
    student = getattr(module, "student", module)
    channels = int(((variables.get("size") or {}).get("channels")) or 16)
    latents = (frames, channels, height, width)
    steered = (frames, actions) if actions else None
    if kind == "PromptData":
        return BatchShape(size, actions=steered, pairs=bool(told.get("pairs") or told.get("next_file")))
    if kind == "TrajectoryData":
        levels = (*student.spec.timesteps, 0.0)
        return BatchShape(size, latents, levels=levels, actions=steered)
    codec = getattr(student, "codec", None)
    pictures = int(told.get("video_frames") or rollout.get("video_frames") or 0)
    if (kind == "ShardData" and told.get("want") == "video") or (kind == "WorldData" and codec is not None):
        scale = int(getattr(codec, "scale", 1))
        if kind == "WorldData" and told.get("codec"):
            return BatchShape(size, latents, actions=steered)
        return BatchShape(size, video=(pictures, 3, height * scale, width * scale), actions=steered)
    return BatchShape(size, latents, actions=steered)
