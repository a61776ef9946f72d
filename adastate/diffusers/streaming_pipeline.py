"""`StreamingWanPipeline`: what `adastate generate` streams, on diffusers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchLCMScheduler
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.utils import logging
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from adastate.config.systems import read_system, system_names
from adastate.diffusers.call_checks import changes_of, check_call, check_options
from adastate.diffusers.pipeline_parts import (
    GeneratorNoise,
    PromptEncoder,
    codec_of,
    grid_of,
    place_codec,
    reencoder,
    show_levels,
    text_of,
    wake,
)
from adastate.diffusers.prompt_turns import PromptTurns
from adastate.diffusers.streamed_chunk import StreamedChunk
from adastate.diffusers.transformer_network import TransformerNetwork
from adastate.diffusion.noise import SampleNoise
from adastate.encoders import Codec, TextEncoder
from adastate.inference import conditioning, prompt_schedule
from adastate.inference.video_length import chunk_starts, frames_for, span
from adastate.stream import StateCache, StreamSpec, SwitchPolicy, prefill
from adastate.stream.passes import Noise
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from adastate.weights import mismatch
from adastate.weights.pipeline_folder import write_pipeline_file

logger = logging.get_logger(__name__)

OnChunkEnd = Callable[[Any, int, dict[str, Any]], Mapping[str, Any] | None]
"""(pipeline, number of the chunk, the tensors asked for) -> what is to change from here on."""


class StreamingWanPipeline(DiffusionPipeline, WanLoraLoaderMixin):  # type: ignore[misc]
    """Text to video, chunk by chunk, as long as one likes, with any system of conf/systems.

    The components are those of diffusers' WanPipeline, whose folders load as they are. The scheduler keeps the levels
    of the stream; another than FlowMatchLCMScheduler gives way to one.

    Args:
        transformer: a student, distilled to few steps and block-causal passes.
        transformer_2: refused: Wan2.2's second expert has no place in a stream.
        stream: fields of StreamSpec that the weights have learnt, as `weights export` writes them.
        system: stream to run where a call names none, for weights that do not say what they have learnt.
        latent_size: height and width of the latents where a call gives none.
        fps: pictures a second.
        codec, text: {"class_path": "adastate.encoders.TinyCodec", "init_args": ...} in the place of a VAE and a text
            encoder, for weights of the small worlds.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ("latents", "prompt_embeds")
    _optional_components = ["tokenizer", "text_encoder", "vae", "scheduler", "transformer_2"]  # noqa: RUF012 - theirs

    def __init__(
        self,
        transformer: Any,
        tokenizer: Any = None,
        text_encoder: Any = None,
        vae: Any = None,
        scheduler: Any = None,
        transformer_2: Any = None,
        stream: Any = None,
        system: Any = None,
        latent_size: Any = (60, 104),
        fps: Any = 16,
        codec: Any = None,
        text: Any = None,
    ) -> None:
        super().__init__()
        if transformer_2 is not None:
            raise ValueError(
                "these weights are two experts (Wan2.2 A14B), and a stream runs one network: give a student"
            )
        if not isinstance(scheduler, FlowMatchLCMScheduler):
            scheduler = FlowMatchLCMScheduler(shift=5.0)
        self.network = TransformerNetwork(transformer)
        self.register_modules(
            transformer=transformer,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=scheduler,
            transformer_2=None,
        )
        self.register_to_config(
            stream=stream, system=system, latent_size=tuple(latent_size), fps=fps, codec=codec, text=text
        )
        self.video_processor = VideoProcessor(vae_scale_factor=1)
        self._interrupt = False
        self._made: tuple[Any, Codec] | None = None

    # ---- what a call consists of

    @property
    def codec(self) -> Codec:
        """Over the VAE that the pipeline has now."""
        if self._made is None or self._made[0] is not self.vae:
            self._made = (self.vae, codec_of(self.vae, self.config.codec, self.config.fps))
        return self._made[1]

    @property
    def interrupt(self) -> bool:
        """Whether the stream is to end with the chunk at hand; a callback sets `_interrupt`, as in other pipelines."""
        return self._interrupt

    def spec(self, system: str | None = None) -> tuple[StreamSpec, int]:
        """(the stream of a system for these weights' chunks, positions in time that it needs); None: their own.

        Raises:
            ValueError: no such system, or none is known to the weights.
        """
        learnt = StreamSpec.of(dict(self.config.stream)) if self.config.stream else None
        name = system or self.config.system
        if name is None and learnt is None:
            raise ValueError(
                f"the weights do not say for which stream they were trained: give system=, one of "
                f"{', '.join(system_names())}, here or to from_pretrained"
            )
        if name is None:
            assert learnt is not None
            return learnt, 0
        read = read_system(name, 3 if learnt is None else learnt.chunk_frames)
        if learnt is not None and (sentence := mismatch(asdict(learnt), asdict(read.spec))):
            logger.warning(sentence.partition(": set ")[0])
        return read.spec, read.rope_max_frames

    def encode_prompt(self, prompt: str | list[str], max_sequence_length: int = 512) -> Tensor:
        """Embeddings `[B, max_sequence_length, text_dim]` of prompts, as a call makes them."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        encoder: TextEncoder = text_of(self.tokenizer, self.text_encoder, self.config.text, max_sequence_length)
        device = self._execution_device
        if isinstance(encoder, PromptEncoder):
            return encoder.embed(texts, device)
        return encoder.embed(texts).to(device)

    # ---- calls

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        seconds: float | None = None,
        num_frames: int | None = None,
        return_dict: bool = True,
        output_type: str = "np",
        **options: Any,
    ) -> WanPipelineOutput | tuple[Any]:
        """A whole video, its chunks put together; arguments as of `stream`.

        Returns:
            `frames`: numpy [B, T, h, w, 3] or torch [B, T, 3, h, w] in [0, 1], lists of PIL pictures, or latents.
        """
        check_options(options, [*signature(self.stream).parameters])
        parts = [
            chunk.frames
            for chunk in self.stream(
                prompt, seconds=seconds, num_frames=num_frames, output_type=_whole(output_type), **options
            )
        ]
        frames = torch.cat(parts, 2 if output_type == "latent" else 1)
        if output_type != "latent":
            frames = self.video_processor.postprocess_video(2 * frames.transpose(1, 2) - 1, output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: str | list[str] | None = None,
        seconds: float | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        system: str | None = None,
        seed: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        image: Image.Image | str | Path | None = None,
        prompt_embeds: Tensor | None = None,
        max_sequence_length: int = 512,
        output_type: str = "np",
        decode_state: bool = False,
        callback_on_chunk_end: OnChunkEnd | None = None,
        callback_on_chunk_end_tensor_inputs: Sequence[str] = ("latents",),
        noise: Noise | None = None,
    ) -> Iterator[StreamedChunk]:
        """A generator of chunks, each handed out as soon as it is decoded; all arguments are checked at once.

        Args:
            prompt: one, several for a batch, or the schedule of one stream, ["0s: ...", "10s cut: ..."].
            seconds: length at least, in whole chunks; or `num_frames` pictures exactly (81 without either).
            height, width: in pixels.
            system: name in conf/systems; None: what the weights have learnt.
            seed: row i's noise is what `adastate generate --seed` draws for prompt i; or `generator`, as in other
                pipelines; or `noise`, a source of one's own. Without any, noise is drawn anew each time.
            image: the first picture; it is shown first.
            prompt_embeds: `[B, Lt, text_dim]` in the place of prompts.
            max_sequence_length: rows to which prompts are padded.
            decode_state: also show the hidden state.
            callback_on_chunk_end: called as (pipeline, number of the chunk, {name: tensor}) before the chunk is
                decoded. It may return "latents", which take the chunk's place in the video and in memory, and "prompt"
                or "prompt_embeds", to which the stream turns with its next chunk in its own way, or as "switch" says
                (keep, recache, flush, cut).
        """
        words = check_call(prompt, prompt_embeds, seconds, num_frames, output_type, seed, generator)
        spec, rows = self.spec(system)
        timed = prompt_schedule.parse_prompts(words or [])
        unknown = set(callback_on_chunk_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_chunk_end_tensor_inputs has {unknown}: there are {self._callback_tensor_inputs}"
            )
        codec, device = self.codec, self._execution_device
        place_codec(codec, device)
        grid = grid_of(codec, self.network.size, self.config.latent_size, height, width)
        given = None
        if image is not None:
            wake(self.vae)
            given = conditioning.picture_prefix(image, codec, grid, 1, device).of(0)
        before = 0 if given is None else span(codec, 0, given.shape[1])
        pictures = (num_frames or 81) if seconds is None else None
        length: Any = seconds if pictures is None else (pictures - before) / codec.fps
        frames = frames_for(length, codec, spec, 0 if given is None else given.shape[1])
        texts = [timed[0].text] if timed else words
        embeds = prompt_embeds if texts is None else self.encode_prompt(texts, max_sequence_length)
        assert embeds is not None
        turns = PromptTurns()
        starts = chunk_starts(frames, codec, spec, 0 if given is None else given.shape[1])
        for at, turn in prompt_schedule.prompts_by_chunk(timed or [], starts, length).items():
            turns.plan(at, self.encode_prompt(turn.text, max_sequence_length), turn.policy(spec.switch))
            spec.check_switch(turn.policy(spec.switch) or spec.switch)
        batch = embeds.shape[0]
        if noise is None and seed is not None:
            noise = SampleNoise(seed, 0, range(batch), "stream", device)
        noise = noise or GeneratorNoise(generator, batch, device)
        show_levels(self.scheduler, spec)
        self._interrupt = False
        net = self.network.reaching(rows)
        bound = PromptedNetwork(net, embeds.to(device), fast=False)
        cache = StateCache(spec, None, net.size.layers)
        shape = (net.size.channels, *grid)

        def made() -> Iterator[StreamedChunk]:
            first = given if given is None else given.expand(batch, *given.shape[1:]).to(device)
            with torch.no_grad():
                if first is not None:
                    prefill(bound, cache, first, first_alone=first.shape[1] % spec.chunk_frames == 1)
            turns.bind = lambda e: bound.other(e.to(device))
            chunks = rollout(
                bound,
                noise,
                cache,
                spec.chunks(frames),
                shape,
                finish=False,
                switches=turns,
                reencode=reencoder(codec),
            )
            decoder, left, now = codec.stream(), pictures, embeds
            while True:
                with torch.no_grad():  # around each step: a generator runs in the mode of whoever asks
                    chunk = next(chunks, None)
                    if chunk is None:
                        return
                    if callback_on_chunk_end is not None:
                        told = {"latents": chunk.content.transpose(1, 2), "prompt_embeds": now}
                        asked = {name: told[name] for name in callback_on_chunk_end_tensor_inputs}
                        changes = changes_of(callback_on_chunk_end(self, chunk.index, asked), told["latents"].shape)
                        if "latents" in changes:
                            chunk.content.copy_(changes["latents"].transpose(1, 2))
                        if "prompt" in changes or "prompt_embeds" in changes:
                            turned = changes.get("prompt_embeds")
                            if turned is None:
                                turned = self.encode_prompt(changes["prompt"], max_sequence_length)
                            now = turned.expand(batch, -1, -1)
                            turns.turn(now, self._policy(spec, changes.get("switch")))
                    video, hidden = chunk.content.transpose(1, 2), None
                    if output_type != "latent":
                        wake(self.vae)
                        shown = [decoder.decode(first)] if first is not None and chunk.index == 0 else []
                        video = torch.cat([*shown, decoder.decode(chunk.content)], 1)[:, :left]
                        left = left if left is None else left - video.shape[1]
                        if decode_state and chunk.state is not None:
                            hidden = self._shown(codec.decode(chunk.state), output_type)
                        video = self._shown(video, output_type)
                yield StreamedChunk(frames=video, index=chunk.index, state=hidden)
                if self.interrupt:
                    return

        return made()

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As any pipeline; beside it the file by which DiffusionPipeline finds this class again."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_pipeline_file(Path(save_directory))

    @classmethod
    def _dict_from_json_file(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """An index as this class can load it.

        Without the file that holds this class, as whoever calls it by name need not run another's code; with diffusers'
        transformer in the place of FastVideo's causal one, whose weights it takes; without schedulers of others.
        """
        found: dict[str, Any] = super()._dict_from_json_file(*args, **kwargs)
        changes: dict[str, Any] = {"_class_name": cls.__name__} if isinstance(found.get("_class_name"), list) else {}
        if "CausalWanTransformer3DModel" in (found.get("transformer") or ()):
            changes["transformer"] = ["diffusers", "WanTransformer3DModel"]
        if "scheduler" in found and "FlowMatchLCMScheduler" not in (found["scheduler"] or ()):
            changes["scheduler"] = [None, None]
        return {**found, **changes}

    # ---- parts of a call

    def _policy(self, spec: StreamSpec, kind: str | None) -> SwitchPolicy:
        policy = spec.switch.turned(kind)  # type: ignore[arg-type]
        spec.check_switch(policy)
        return policy

    def _shown(self, video: Tensor, output_type: str) -> Any:
        """Pictures `[B, T, 3, h, w]` in [-1, 1] as `output_type` asks."""
        return self.video_processor.postprocess_video(video.transpose(1, 2), output_type)


def _whole(output_type: str) -> str:
    """In which form the chunks of a whole video are put together."""
    return "pt" if output_type in ("np", "pil") else output_type
