"""The weights that sessions share: one network, its codec and text encoder, and the streams that they support."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adastate.config import systems
from adastate.config.schema import ConfigError
from adastate.config.world_words import vocabulary
from adastate.distributed.sequence_split import SequenceSplit, split_networks
from adastate.encoders import Codec, starts_with_a_picture
from adastate.inference.student_source import StudentSource
from adastate.inference.vbench import content_fingerprint
from adastate.live.stream_state import frames_in_reach
from adastate.models import attention
from adastate.models.actions import Steering
from adastate.models.size import check_degree
from adastate.stream import StreamSpec
from adastate.stream.passes import Reencode
from adastate.training.load_run import student_of
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.student import Student

PROMPTS = 32
"""Number of prompts whose embeddings and text keys are cached."""


class LiveModel:
    """What all sessions of a server or program share.

    Args:
        student: frozen, on its device.
        source: where the weights come from.
        system: name in conf/systems of the stream to run; None: the one that the weights were trained for.
    """

    def __init__(self, student: Student, source: StudentSource, system: str | None = None) -> None:
        self.student, self.source = student, source
        self.codec: Codec = student.codec
        self.device, self.shape = student.device, student.latent_shape
        self.fps: int = student.codec.fps
        self.height, self.width = (side * student.codec.scale for side in student.latent_size)
        self.actions: int = student.net.size.actions
        self.reencode: Reencode | None = student._reencode if starts_with_a_picture(student.codec) else None
        self._specs: dict[str | None, StreamSpec] = {None: student.spec}
        self._bound: OrderedDict[str, PromptedNetwork] = OrderedDict()
        self.system = system
        self.split: SequenceSplit | None = None
        self._root = student.averaged(torch.empty(0))
        if system is not None:
            self._specs[None] = self.spec(system)

    @classmethod
    def of(
        cls,
        source: StudentSource,
        device: torch.device | str = "cpu",
        system: str | None = None,
        split: SequenceSplit | None = None,
    ) -> LiveModel:
        """`split`: splits all passes over the ranks that share them.

        Raises:
            ValueError: the network's heads, or the tokens of its frames, are not divisible by the number of ranks.
        """
        attention.use("auto")
        student = student_of(source.config, source.weights).to(device)
        size = student.net.size
        check_degree(1 if split is None else split.degree, size.heads, size.tokens(student.latent_size))
        split_networks([student.net, student.ema.net], split)
        model = cls(student, source, system)
        model.split = split
        return model

    @property
    def world(self) -> str | None:
        """The built-in world from whose vocabulary prompts are built; None if prompts are free text."""
        return self.source.world

    @property
    def vocabulary(self) -> list[str]:
        """The words of that world."""
        return [] if self.world is None else list(vocabulary(self.world))

    @property
    def examples(self) -> list[str]:
        """Example prompts."""
        return list(self.source.previewed)

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the weights file."""
        return content_fingerprint(Path(self.source.weights))

    # ---- streams

    @cached_property
    def systems(self) -> list[str]:
        """Names in conf/systems of the streams that these weights support."""
        found = []
        for name in systems.system_names():
            try:
                self.spec(name)
            except ValueError:  # includes ConfigError
                continue
            found.append(name)
        return found

    def spec(self, system: str | None) -> StreamSpec:
        """The stream of a system, with this network's chunk size; None: the model's own.

        Raises:
            ConfigError: there is no such system. File paths are refused, as the request may come from another machine.
        """
        if system not in self._specs:
            if system not in systems.system_names():
                raise ConfigError(f"no system {system!r}; there are {', '.join(systems.system_names())}")
            assert system is not None
            read = systems.read_system(system, self.student.chunk_frames)
            size = self.student.net.size
            if read.rope_max_frames > size.rope_max_frames:
                for net in (self.student.net, self.student.ema.net, self._root.net):
                    net.size = replace(size, rope_max_frames=read.rope_max_frames)
                # passes are bound to the network's size at their creation
                self._root, self._bound = self.student.averaged(torch.empty(0)), OrderedDict()
            self._specs[system] = read.spec
        return self._specs[system]

    def identity(self, spec: StreamSpec) -> dict[str, Any]:
        """What a snapshot must have in common with the model that continues from it."""
        return {"weights": self.fingerprint, "shape": list(self.shape), "stream": asdict(spec)}

    def network(self, prompt: str, steering: Steering | None = None) -> PromptedNetwork:
        """The network with a prompt bound to it."""
        if prompt in self._bound:
            self._bound.move_to_end(prompt)
        else:
            with torch.no_grad():
                self._bound[prompt] = self._root.other(self.student.embed([prompt]))
            while len(self._bound) > PROMPTS:
                self._bound.popitem(last=False)
        bound = self._bound[prompt]
        _ = bound.quiet_keys  # computed once for all sessions with this prompt
        return bound.steered(steering)

    # ---- what a session costs

    def session_bytes(self, system: str | None = None, history: int = 0) -> int:
        """Maximum memory in bytes of a session that can roll back `history` chunks.

        Text keys, which sessions with the same prompt share, are not counted.

        Raises:
            ValueError: the stream keeps all frames, so its memory is unbounded.
        """
        spec = self.spec(system)
        if spec.past_frames is None:
            raise ValueError("this stream keeps every frame, so that its memory grows with its length: set past_frames")
        channels, height, width = self.shape
        queries = spec.anchor_kind.queries
        unwritten = spec.chunk_frames + (0 if queries is None else queries(spec, True))
        flying = spec.chunk_frames * (len(spec.denoising_steps) - 1) * (spec.schedule == "staircase")
        recent = max(spec.window_frames or 0, spec.restart_overlap)
        latent = 4 * channels * height * width
        latents, shared = latent * (unwritten + flying + recent), latent * unwritten * spec.shared_noise
        kept = spec.switch.kept * (spec.switch.keeps == "last_places")
        cached = (spec.anchor_frames + spec.past_frames + kept) * self.frame_numbers * self.key_bytes
        actions = 4 * (self.actions + 1) * (frames_in_reach(spec) + spec.chunk_frames + flying) if self.actions else 0
        return (1 + history) * (cached + latents + actions + self._decoder_bytes) + shared

    @property
    def frame_numbers(self) -> int:
        """Number of elements in the keys and values of one latent frame, over all layers."""
        return 2 * prod(self.frame_keys)

    @property
    def frame_keys(self) -> tuple[int, int, int, int]:
        """Layers, tokens, heads and head dim of the keys of one latent frame; a rank holds only its own heads."""
        size, (_, height, width), split = self.student.net.size, self.shape, self._root.net.split
        tokens = (height // size.patch[1]) * (width // size.patch[2])
        return size.layers, tokens, size.heads // (1 if split is None else split.degree), size.width // size.heads

    @property
    def key_bytes(self) -> int:
        """Bytes per element of the keys and values."""
        dtype = self._root.net.compute_dtype or self._root.net.weight_dtype
        return dtype.itemsize

    @cached_property
    def _decoder_bytes(self) -> int:
        decoder = self.codec.stream()
        for _ in range(2):
            decoder.decode(torch.zeros(1, 1, *self.shape, device=self.device))
        return sum(t.numel() * t.element_size() for t in decoder.memory.values() if isinstance(t, Tensor))
