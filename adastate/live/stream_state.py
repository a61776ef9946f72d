"""State of a stream between two chunks, and how it continues: everything that a snapshot has to contain.

Nothing that it references is changed in place, so a copy costs a handful of references, and a stream that continues
from a copy is bit-equal to one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from adastate.diffusion.noise import PlacedNoise
from adastate.models.actions import Steering
from adastate.stream import StateCache
from adastate.stream.cache_state import FRAMES, fork, restored_cache, saved
from adastate.stream.passes import PassRequest, Reencode, Requests, clean_pass
from adastate.stream.prompt_switch import prefilling, restart_if_due, switching
from adastate.stream.rolling import joint_pass, next_in_flight, one_level_down
from adastate.stream.rollout import denoise_chunk
from adastate.stream.spec import StreamSpec
from adastate.stream.switches import SwitchPolicy
from adastate.training.prompted_network import PromptedNetwork
from adastate.types import Chunk

Watch = Callable[[PassRequest], None]
"""Called with the last denoising pass of a chunk before it runs."""


Bound = Callable[[str, Steering | None], PromptedNetwork]
"""Binds a prompt and a steering to the network."""

PLAIN = ("prompt", "keys", "flight", "given", "decoded")


@dataclass
class StreamState:
    """A stream between two chunks.

    Attributes:
        noise: a function of the position in the stream, which is the chunk's number.
        cache: what the stream remembers.
        network: with the prompt and the steering bound.
        prompt, keys: in effect, as they were requested.
        unwritten: [state | content] of the newest chunk, whose clean pass is still to come, and its number of state
            frames: the chunk is shown before that pass.
        flight: in a staircase, the chunks that are being denoised.
        given: clean latents that precede the stream, until they are written to the cache.
        decoded: memory of the stream's decoder.
    """

    noise: PlacedNoise
    cache: StateCache
    network: PromptedNetwork
    prompt: str
    keys: str = ""
    unwritten: tuple[Tensor, int] | None = None
    flight: list[Tensor] = field(default_factory=list)
    given: Tensor | None = None
    decoded: dict[str, Any] = field(default_factory=dict)

    @property
    def steering(self) -> Steering | None:
        return self.network.steering

    def fork(self) -> StreamState:
        """A second state that continues independently."""
        network = self.network
        if network.steering is not None:
            network = network.steered(network.steering.fork())
        return replace(
            self, cache=fork(self.cache), network=network, flight=list(self.flight), decoded=dict(self.decoded)
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that it holds, except those of the network and its text."""
        frames = [f for f in (self.cache.anchor, self.cache.window, self.cache.last_places) if f is not None]
        held = [t for f in frames for t in (*f.keys, *f.values)]
        held += [t for t in (self.cache.recent, self.cache.shared_noise, self.given, *self.flight) if t is not None]
        held += [self.unwritten[0]] if self.unwritten is not None else []
        held += [t for t in self.decoded.values() if isinstance(t, Tensor)]
        return held + ([self.steering.flagged] if self.steering is not None else [])

    def saved(self) -> dict[str, Any]:
        """Numbers, texts, lists and tensors, for `restored`; ranks that share the network's passes call it together."""
        return {
            "cache": saved(self.cache, self.network.net.split),
            "steering": None if self.steering is None else self.steering.saved(),
            "unwritten": None if self.unwritten is None else list(self.unwritten),
            **{name: getattr(self, name) for name in PLAIN},
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], noise: PlacedNoise, spec: StreamSpec, network: Bound) -> StreamState:
        """The inverse of `saved`; `network` binds the prompt and the steering."""
        steering = None if state["steering"] is None else Steering.restored(state["steering"])
        bound = network(state["prompt"], steering)
        made = cls(noise, restored_cache(spec, state["cache"], bound.net.split), bound, state["prompt"])
        x0 = state["unwritten"]
        made.unwritten = None if x0 is None else (x0[0], int(x0[1]))
        made.keys, made.flight, made.given = str(state["keys"]), list(state["flight"]), state["given"]
        made.decoded = dict(state["decoded"])
        return made

    def turn(self, network: PromptedNetwork, prompt: str, policy: SwitchPolicy) -> Requests[None]:
        """Sets a new prompt from the next chunk on. The latest chunk is first written under the old prompt."""
        yield from self._write()
        self.network, self.prompt = network, prompt
        if self.cache.frames and self.cache.spec.schedule != "staircase":
            yield from switching(network, self.cache, policy)

    def advance(self, shape: tuple[int, int, int], reencode: Reencode | None, watch: Watch) -> Requests[Chunk]:
        """Generates the next chunk."""
        yield from self._write()
        cache = self.cache
        if self.given is not None:
            yield from prefilling(self.network, cache, self.given, self.given.shape[1] % cache.spec.chunk_frames == 1)
            self.given = None
        yield from restart_if_due(self.network, cache, reencode)
        if cache.spec.schedule == "staircase":
            chunk = yield from self._down_the_stairs(shape, watch)
        else:
            levels = len(cache.spec.levels(cache.generated))
            made = yield from _watched(denoise_chunk(self.network, self.noise, cache, shape), levels, watch)
            chunk, self.unwritten = made.chunk(cache), (made.x0, made.step.queries)
        cache.generated += 1
        if self.steering is not None:
            self.steering.forget(cache.origin + cache.frames - frames_in_reach(cache.spec))
        return chunk

    def _write(self) -> Requests[None]:
        if self.unwritten is not None:
            x0, queries = self.unwritten
            yield from clean_pass(self.network, self.noise, self.cache, x0, queries)
            self.unwritten = None

    def _down_the_stairs(self, shape: tuple[int, int, int], watch: Watch) -> Requests[Chunk]:
        cache, last = self.cache, len(self.cache.spec.timesteps) - 1
        while True:
            self.flight.append(next_in_flight(self.noise, cache, self.flight, shape))
            levels = [len(self.flight) - 1 - i for i in range(len(self.flight))]
            x0, _ = yield from _watched(joint_pass(self.network, cache, self.flight, levels, taught=False), 1, watch)
            self.flight = one_level_down(self.noise, cache, x0, levels, shape)
            if levels[0] == last:
                content = x0[0].clone()  # not a view, which would keep the others in memory
                self.unwritten = (content, 0)
                return Chunk(cache.generated, cache.origin + cache.frames, content, None, last + 2)


def _watched(requests: Requests[Any], passes: int, watch: Watch) -> Generator[PassRequest, Tensor, Any]:
    """Passes on the requests; calls `watch` with the last of `passes` before it runs."""
    count, velocity = 0, None
    try:
        request = next(requests)
        while True:
            count += 1
            if count == passes:
                watch(request)
            velocity = yield request
            request = requests.send(velocity)
    except StopIteration as end:
        return end.value


def frames_in_reach(spec: StreamSpec) -> int:
    """How many latent frames back from the newest written one a pass may need, including restarts and prompt switches
    that encode again."""
    return max(spec.window_frames or 0, spec.restart_overlap) + 2 * spec.chunk_frames


def check_shapes(state: StreamState, frame_keys: tuple[int, int, int, int], shape: tuple[int, int, int]) -> None:
    """Raises ValueError for a state whose shapes do not fit this network.

    Args:
        frame_keys: layers, tokens, heads and head dim of the keys of one latent frame.
        shape: channels, height and width of the latents.
    """
    layers, tokens, heads, head_dim = frame_keys
    for name in FRAMES:
        frames = getattr(state.cache, name)
        if frames is not None:
            wanted = (1, frames.count * tokens, heads, head_dim)
            found = {tuple(t.shape) for t in (*frames.keys, *frames.values)}
            if found != {wanted} or not len(frames.keys) == len(frames.values) == layers:
                raise ValueError(f"{name} has keys of shape {sorted(found)}, but {layers} of {wanted} are needed")
    latents = [state.cache.recent, state.cache.shared_noise, state.given, *state.flight]
    for t in [*latents, *(() if state.unwritten is None else state.unwritten[:1])]:
        if t is not None and (t.dim() != 5 or t.shape[0] != 1 or tuple(t.shape[2:]) != shape):
            raise ValueError(f"latents have shape {list(t.shape)}, but [1, F, {', '.join(map(str, shape))}] is needed")
