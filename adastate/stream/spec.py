"""Every choice of a stream in one place. The defaults are AdaState's; other systems are other values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adastate import flow


@dataclass(frozen=True)
class StreamSpec:
    """How a stream is made. [A] is said by AdaState's authors, [D] is our decision where nobody says.

    Attributes:
        chunk_frames: latent frames F made per step.
        past_frames: past latent frames W_p that a chunk sees, the anchor not counted; None keeps all.
        anchor: what is kept beyond the window. `state` is denoised anew with every chunk and replaces itself,
            `static` is written once by the first frames, `none` keeps nothing.
        state_frames: latent frames F_s of the anchor (of either kind).
        position: `slot` counts from the anchor, whatever the time (relative); `absolute` is the frame's index in
            the stream, bounded by the RoPE table.
        warmup: slots before the window is full. `fixed` [D]: the chunk has its final indices from the start and
            the past is right-aligned against it. `growing`: the next free index.
        steps: timesteps of the denoising passes before the shift, noise first.
        shift: of the noise table.
        state_visibility: who sees whom [D]. `both`: state and chunk see old state, past, new state and chunk;
            `previous`: the chunk does not see the new state; `replace`: the chunk sees the new state, not the old.
        state_position: `anchor` [D]: the new state stands where the old one stands, "denoised in-place";
            `behind`: after the chunk.
        state_init: `denoised` [D]: the first chunk denoises a state, too; `first_frame`: the first frames of the
            first chunk become the state, and are then no longer in the window.
        clean_sees_old: whether the clean pass still sees the old state [D].
        context_noise: timestep of the clean pass.
        context_renoise: whether its input is noised to that level, as in Self-Forcing's training rollout [D].
        cache_grad: `detached`: cached keys and values carry no gradient; `straight_through`: they have the values
            of the clean pass and the gradient of the exit pass.
        state_grad: the clean pass runs with gradient and the state's keys and values stay attached for so many
            chunks (truncated backpropagation through time); 0 is off [D].
    """

    chunk_frames: int = 3
    past_frames: int | None = 3
    anchor: Literal["none", "static", "state"] = "state"
    state_frames: int = 1
    position: Literal["slot", "absolute"] = "slot"
    warmup: Literal["fixed", "growing"] = "fixed"
    steps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    state_visibility: Literal["both", "previous", "replace"] = "both"
    state_position: Literal["anchor", "behind"] = "anchor"
    state_init: Literal["denoised", "first_frame"] = "denoised"
    clean_sees_old: bool = True
    context_noise: float = 0.0
    context_renoise: bool = False
    cache_grad: Literal["detached", "straight_through"] = "detached"
    state_grad: int = 0

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}; a chunk has at least one latent frame")
        if self.past_frames is not None and self.past_frames < 0:
            raise ValueError(
                f"past_frames is {self.past_frames}: the window would be smaller than a chunk of {self.chunk_frames}; "
                "past_frames counts the frames before the chunk, without it and without the anchor"
            )
        if (self.anchor == "none") != (self.state_frames == 0) or self.state_frames < 0:
            raise ValueError(
                f"anchor is {self.anchor!r} with state_frames {self.state_frames}: use state_frames 0 with anchor "
                "none, and at least 1 with static or state"
            )
        if self.anchor == "state" and self.position == "absolute":
            raise ValueError("a state has no place in absolute time: use position: slot with anchor: state")
        if self.position == "slot" and self.warmup == "fixed" and self.past_frames is None:
            raise ValueError("warmup: fixed needs to know the window; set past_frames, or use warmup: growing")
        if self.state_init == "first_frame" and self.state_frames > self.chunk_frames:
            raise ValueError(
                f"the first chunk has {self.chunk_frames} frames, too few for a state of {self.state_frames}"
            )
        if self.state_grad and self.cache_grad == "straight_through":
            raise ValueError(
                "state_grad and cache_grad: straight_through are two ways to teach the state; use one of them"
            )
        if self.state_grad < 0:
            raise ValueError(f"state_grad is {self.state_grad}; it counts chunks, 0 is off")
        flow.warp_steps(self.steps, self.shift)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The denoising timesteps after the shift, noise first."""
        return flow.warp_steps(self.steps, self.shift)

    def chunks(self, frames: int) -> int:
        """How many chunks make `frames` latent frames."""
        if frames < 1 or frames % self.chunk_frames:
            near = max(1, round(frames / self.chunk_frames)) * self.chunk_frames
            raise ValueError(f"{frames} frames are not a multiple of the chunk of {self.chunk_frames}; {near} would be")
        return frames // self.chunk_frames
