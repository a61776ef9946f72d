"""Codec, text encoder and noise of a pipeline, from what diffusers loads or from the bundled weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adastate import encoders
from adastate.diffusion import flow
from adastate.encoders import Codec, TextEncoder, WanVAE, starts_with_a_picture
from adastate.encoders.wan_vae import tokenized
from adastate.models.video_network import Size
from adastate.stream import StreamSpec


def codec_of(vae: Any, block: Mapping[str, Any] | None, fps: int) -> Codec:
    """The codec over diffusers' VAE, or the one of this package that a pipeline's configuration names.

    Raises:
        ValueError: there is neither.
    """
    if vae is not None:
        return WanVAE.of(vae, fps)
    if block is None:
        raise ValueError(
            'this pipeline has no vae, so it makes latents alone: ask for output_type="latent", or load it with '
            "vae=AutoencoderKLWan.from_pretrained(...)"
        )
    made: Codec = _built(block)
    return made


def text_of(tokenizer: Any, text_encoder: Any, block: Mapping[str, Any] | None, tokens: int) -> TextEncoder:
    """The text encoder over transformers' classes, or the one of this package that a configuration names.

    Raises:
        ValueError: there is neither.
    """
    if text_encoder is not None and tokenizer is not None:
        return PromptEncoder(tokenizer, text_encoder, tokens)
    if block is None:
        raise ValueError(
            "this pipeline has no text_encoder and tokenizer: give prompt_embeds=, or load it with "
            "text_encoder=UMT5EncoderModel.from_pretrained(...) and tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    made: TextEncoder = _built(block)
    return made


def _built(block: Mapping[str, Any]) -> Any:
    """One of adastate.encoders, and nothing else: a model's folder is no place to name code."""
    module, _, name = str(block.get("class_path", "")).rpartition(".")
    if module != "adastate.encoders" or name not in encoders.__all__:
        raise ValueError(
            f"the pipeline's configuration names {block.get('class_path')!r}, no class of adastate.encoders"
        )
    return getattr(encoders, name)(**dict(block.get("init_args") or {}))


class PromptEncoder:
    """UMT5 as a pipeline holds it; prompts are cleaned and padded with zero rows as Wan2.1 was trained."""

    def __init__(self, tokenizer: Any, model: Any, tokens: int) -> None:
        self.tokenizer, self.model, self.tokens = tokenizer, model, tokens

    @torch.no_grad()
    def embed(self, prompts: list[str], device: torch.device | None = None) -> Tensor:
        ids = tokenized(self.tokenizer, prompts, self.tokens).to(device or self.model.device)
        hidden: Tensor = self.model(ids.input_ids, ids.attention_mask).last_hidden_state
        return hidden * ids.attention_mask[..., None].to(hidden.dtype)


class GeneratorNoise:
    """Normals from torch's generators, one for all rows or one for each, drawn on their devices."""

    def __init__(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, batch: int, device: torch.device
    ) -> None:
        if isinstance(generator, Sequence) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators for {batch} streams: give one, or one for each")
        self.generator, self.batch, self.device = generator, batch, device

    def normal(self, *shape: int) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        generator = list(self.generator) if isinstance(self.generator, Sequence) else self.generator
        return randn_tensor((self.batch, *shape), generator=generator, device=self.device)  # type: ignore[no-any-return]


def place_codec(codec: Codec, device: torch.device) -> None:
    """Brings what is no component to its device: a codec of this package, or the statistics beside a VAE."""
    if hasattr(codec, "vae"):
        for name in ("mean", "std"):
            setattr(codec, name, getattr(codec, name).to(device))
    elif isinstance(codec, torch.nn.Module):
        codec.to(device)


def wake(model: Any) -> None:
    """Runs the hook by which a model comes to its device: of a VAE the stream calls parts, and not the whole."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(model)


def reencoder(codec: Codec) -> Callable[[Tensor, int], Tensor] | None:
    """How a stream that restarts takes the first of its last frames: as a picture of its own, where the codec has such.

    Returns:
        (a stream's last latents, n) -> the first of the last n, encoded alone; None where every latent is alike.
    """
    if not starts_with_a_picture(codec):
        return None

    def reencode(latents: Tensor, overlap: int) -> Tensor:
        wake(getattr(codec, "vae", None))
        return codec.encode(codec.decode(latents[:, : latents.shape[1] - overlap + 1])[:, -1:])

    return reencode


def show_levels(scheduler: Any, spec: StreamSpec) -> None:
    """Sets a FlowMatchLCMScheduler to the levels that a stream goes through."""
    sigmas = flow.sigma(torch.tensor(spec.timesteps), spec.timestep_shift).double()
    shift = float(spec.timestep_shift)
    scheduler.set_shift(shift)
    unshifted = (sigmas / (shift - (shift - 1) * sigmas)).tolist()
    scheduler.set_timesteps(sigmas=unshifted, timesteps=list(spec.timesteps))


def grid_of(codec: Codec, size: Size, usual: Sequence[int], height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the latents for a picture of so many pixels; `usual` where none are given."""
    sides = []
    asked = (("height", height), ("width", width))
    for (name, given), own, patch in zip(asked, usual, size.patch[1:], strict=True):
        pixels = given if given is not None else own * codec.scale
        if pixels <= 0 or pixels % (codec.scale * patch):
            raise ValueError(f"{name} is {pixels}; it has to be a multiple of {codec.scale * patch}")
        sides.append(pixels // codec.scale)
    return sides[0], sides[1]
