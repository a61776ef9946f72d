"""All settings of a stream in one place. The defaults are AdaState's; other systems have other values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from adastate.diffusion.step_list import check_steps
from adastate.stream.anchors import Anchor, anchor_named
from adastate.stream.switches import SwitchPolicy

OWN = ("decay", "pingpong_slots", "state_update_every")
"""Settings that belong to one kind of anchor, which lists them in `takes`; the others reject them."""


@dataclass(frozen=True)
class StreamSpec:
    """How a stream is generated. [A] is stated by AdaState's authors, [D] is our decision where no source says.

    Attributes:
        chunk_frames: latent frames F per chunk.
        first_chunk_frames: latent frames of the first chunk, if different (an independent first frame: 1).
        past_frames: past latent frames W_p that a chunk sees, not counting the anchor; None keeps all.
        anchor: what is kept beyond the window: a name of adastate.stream.anchors.ANCHORS, whose files describe them,
            or the dotted path of your own Anchor.
        state_frames: latent frames F_s of the anchor, of any kind.
        decay: weight of the old value in a moving average: one number for `ema`, (long, short) for `dual_ema`.
        pool: what the average includes of the frames that leave: each `token` separately, or their `mean` over tokens.
        pingpong_slots: frames of a `pingpong` anchor in view at a time.
        position: `slot` counts from the anchor (relative time); `absolute` is the frame's index in the stream,
            bounded by the RoPE table; `anchor_contiguous` is absolute, with the anchor moved up to end where the past
            begins.
        query_position: positions of the queries. `own`: those of their own keys. `stream`: the chunk's index in the
            stream until the window would be full, as in Infinity-RoPE; it differs for a moment after a flush.
        warmup: slots before the window is full. `fixed` [D]: the chunk has its final indices from the start and
            the past is right-aligned against it. `growing`: the next free index.
        attention_frames: frames in view of one pass, counting anchor, past and its own; None: all that are kept.
        schedule: `uniform` denoises a chunk through all levels, then the next; `staircase` denoises as many chunks
            at once as there are levels, each one level noisier than the one before.
        denoising_steps: timesteps of the denoising passes before the shift, noise first.
        first_chunk_denoising_steps: those of the first generated chunk, if different.
        steps_are_unshifted: whether `denoising_steps` are before the shift; False takes them as they are.
        timestep_shift: shift of the noise levels.
        shared_noise: every chunk starts from the same noise.
        restart_frames: number of frames after which the stream restarts from its last `restart_overlap`; None: never.
        restart_overlap: see `restart_frames`.
        state_visibility: what sees what [D]. `both`: state and chunk see old state, past, new state and chunk;
            `previous`: the chunk does not see the new state; `replace`: the chunk sees the new state, not the old.
        state_position: `anchor` [D]: the new state has the position of the old one, "denoised in-place"; `behind`: it
            comes after the chunk.
        state_init: `denoised` [D]: the first chunk denoises a state, too; `first_frame`: the first frames of the
            first chunk become the state, and are then no longer in the window.
        state_update_every: chunks between two updates of each frame of the state, one number per frame; empty: all
            with every chunk, as in AdaState. All are denoised with every chunk; the first chunk writes all.
        clean_pass_sees_old_state: whether the clean pass still sees the old state [D].
        clean_pass_context: what else it sees. `same`: what a denoising pass sees; `recent`: the last `attention_frames`
            frames that are kept, at their own indices, the anchor only while it is among them.
        context_noise: timestep of the clean pass.
        context_renoise: whether the input of the clean pass is noised to that level, as in Self-Forcing's training
            rollout [D].
        cache_grad: `detached`: cached keys and values carry no gradient; `straight_through`: they have the values
            of the clean pass and the gradient of the exit pass.
        state_grad: number of chunks for which the state's keys and values stay attached; the clean pass then runs with
            gradient (truncated backpropagation through time); 0 is off [D].
        switch: what a change of the prompt does to the cache.
    """

    chunk_frames: int = 3
    first_chunk_frames: int | None = None
    past_frames: int | None = 3
    anchor: str = "state"
    state_frames: int = 1
    decay: tuple[float, ...] = ()
    pool: Literal["token", "mean"] = "token"
    pingpong_slots: int = 0
    position: Literal["slot", "absolute", "anchor_contiguous"] = "slot"
    query_position: Literal["own", "stream"] = "own"
    warmup: Literal["fixed", "growing"] = "fixed"
    attention_frames: int | None = None
    schedule: Literal["uniform", "staircase"] = "uniform"
    denoising_steps: tuple[int, ...] = (1000, 750, 500, 250)
    first_chunk_denoising_steps: tuple[int, ...] = ()
    steps_are_unshifted: bool = True
    timestep_shift: float = 5.0
    shared_noise: bool = False
    restart_frames: int | None = None
    restart_overlap: int = 0
    state_visibility: Literal["both", "previous", "replace"] = "both"
    state_position: Literal["anchor", "behind"] = "anchor"
    state_init: Literal["denoised", "first_frame"] = "denoised"
    state_update_every: tuple[int, ...] = ()
    clean_pass_sees_old_state: bool = True
    clean_pass_context: Literal["same", "recent"] = "same"
    context_noise: float = 0.0
    context_renoise: bool = False
    cache_grad: Literal["detached", "straight_through"] = "detached"
    state_grad: int = 0
    switch: SwitchPolicy = SwitchPolicy()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        for name in (
            "decay",
            "denoising_steps",
            "first_chunk_denoising_steps",
            "state_update_every",
        ):  # a config file has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.switch, Mapping):
            object.__setattr__(self, "switch", SwitchPolicy(**self.switch))
        self._check_frames()
        self._check_anchor()
        self._check_positions()
        self._check_schedule()
        self._check_gradients()
        self.check_switch(self.switch)

    def _check_frames(self) -> None:
        for name in ("chunk_frames", "first_chunk_frames"):
            frames = getattr(self, name)
            if frames is not None and frames < 1:
                raise ValueError(f"{name} is {frames}; a chunk has at least one latent frame")
        if self.past_frames is not None and self.past_frames < 0:
            raise ValueError(
                f"past_frames is {self.past_frames}: the window would be smaller than a chunk of {self.chunk_frames}; "
                "past_frames counts the frames before the chunk, without it and without the anchor"
            )
        if self.attention_frames is not None and self.attention_frames < self.state_frames + self._pass_frames:
            raise ValueError(
                f"attention_frames is {self.attention_frames}, less than the anchor of {self.state_frames} and the "
                f"{self._pass_frames} frames of a pass together"
            )

    def _check_anchor(self) -> None:
        kind = self.anchor_kind
        if (self.anchor == "none") != (kind.frames(self) == 0) or self.state_frames < 0:
            raise ValueError(
                f"anchor is {self.anchor!r} with state_frames {self.state_frames}: use state_frames 0 with anchor "
                "none, and at least 1 with any other"
            )
        for name in OWN:
            if getattr(self, name) and name not in kind.takes:
                raise ValueError(f"anchor {self.anchor!r} takes no {name}, got {getattr(self, name)}")
        kind.check(self)

    def _check_positions(self) -> None:
        denoised = self.anchor_kind.queries is not None
        if denoised and self.position != "slot":
            raise ValueError(f"a state has no place in absolute time: use position: slot with anchor: {self.anchor}")
        if self.position == "anchor_contiguous" and self.anchor == "none":
            raise ValueError("position 'anchor_contiguous' moves an anchor, and anchor is 'none'")
        if self.position == "slot" and self.warmup == "fixed" and self.past_frames is None:
            raise ValueError("warmup: fixed needs to know the window; set past_frames, or use warmup: growing")
        if self.query_position == "stream" and (
            self.position != "slot" or self.warmup != "growing" or self.past_frames is None or denoised
        ):
            raise ValueError(
                "query_position 'stream' belongs to growing slots of a given window without a state; got position "
                f"{self.position!r}, warmup {self.warmup!r}, past_frames {self.past_frames}, anchor {self.anchor!r}"
            )
        if self.clean_pass_context == "recent" and (self.attention_frames is None or self.position == "slot"):
            raise ValueError(
                f"clean_pass_context 'recent' counts attention_frames in stream time: got {self.attention_frames} with "
                f"position {self.position!r}"
            )

    def _check_schedule(self) -> None:
        if not 0 < self.timestep_shift < math.inf:
            raise ValueError(f"timestep_shift is {self.timestep_shift}; it has to be above 0, and 1 shifts nothing")
        if self.schedule == "staircase" and self.anchor_kind.queries is not None:
            raise ValueError("schedule 'staircase' has several levels in a pass, a state has one: use uniform")
        if self.schedule == "staircase" and (
            self.first_chunk_denoising_steps or self.shared_noise or self.first_chunk_frames
        ):
            raise ValueError("'staircase' knows no first_chunk_denoising_steps, first_chunk_frames or shared_noise")
        if self.restart_frames is not None and not (
            self.schedule == "uniform" and 0 < self.restart_overlap < self.restart_frames
        ):
            raise ValueError(
                f"a restart after restart_frames {self.restart_frames} needs a restart_overlap below it, got "
                f"{self.restart_overlap}, and schedule 'uniform', got {self.schedule!r}"
            )
        if self.restart_overlap % self.chunk_frames:
            raise ValueError(
                f"restart_overlap {self.restart_overlap} does not divide into chunks of {self.chunk_frames}"
            )
        for steps in (self.denoising_steps, self.first_chunk_denoising_steps or self.denoising_steps):
            check_steps(steps)

    def _check_gradients(self) -> None:
        if self.state_grad and self.cache_grad == "straight_through":
            raise ValueError(
                "state_grad and cache_grad: straight_through are two ways to teach the state; use one of them"
            )
        if self.state_grad < 0:
            raise ValueError(f"state_grad is {self.state_grad}; it counts chunks, 0 is off")

    def check_switch(self, policy: SwitchPolicy) -> None:
        """Raises ValueError where a prompt switch of this kind is not possible in this stream."""
        kind = policy.kind
        if kind != "keep" and (self.schedule == "staircase" or not self.anchor_kind.renewable):
            raise ValueError(
                f"switch {kind!r} needs a uniform schedule and an anchor that it can renew; got schedule "
                f"{self.schedule!r} and anchor {self.anchor!r}: use switch 'keep'"
            )
        flushes = kind in ("flush", "cut")
        if flushes and policy.keeps == "last_places" and (self.anchor != "static" or policy.keeps != self.switch.keeps):
            raise ValueError(
                "switch.keeps 'last_places' belongs to a static anchor and to the stream's own switch; got anchor "
                f"{self.anchor!r}, and a stream whose switch keeps {self.switch.keeps!r}"
            )
        if flushes and policy.keeps == "newest" and self.past_frames is not None and policy.kept > self.past_frames:
            raise ValueError(f"switch {kind!r} keeps {policy.kept} frames, the window has {self.past_frames}")
        if kind == "cut" and self.position != "slot":
            raise ValueError(f"a cut moves a chunk to a far slot; position is {self.position!r}")

    @property
    def _pass_frames(self) -> int:
        """Content frames of the largest denoising pass."""
        return self.chunk_frames * (len(self.denoising_steps) if self.schedule == "staircase" else 1)

    @property
    def anchor_kind(self) -> Anchor:
        """What `anchor` names."""
        return anchor_named(self.anchor)

    @property
    def anchor_frames(self) -> int:
        """Latent frames of the anchor when it is complete."""
        return self.anchor_kind.frames(self)

    @property
    def window_frames(self) -> int | None:
        """Frames in view of a chunk when the window is full: anchor, past and chunk; None where nothing leaves."""
        if self.past_frames is None:
            return None
        return self.attention_frames or self.anchor_kind.shown(self) + self.past_frames + self.chunk_frames

    @property
    def places(self) -> int:
        """Latent frames that a pass holds at a time at most, its own and a second state counted; if all are kept, of
        the first chunks."""
        if self.past_frames is None:
            return 4 * self._pass_frames
        states = 1 if self.anchor_kind.queries is None else 2
        return states * self.anchor_frames + self.past_frames + self._pass_frames

    def frames_of(self, chunk: int) -> int:
        """Latent frames of the generated chunk `chunk`."""
        return self.first_chunk_frames if chunk == 0 and self.first_chunk_frames else self.chunk_frames

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The denoising timesteps after the shift, noise first."""
        return self._warped(self.denoising_steps)

    def levels(self, chunk: int) -> tuple[float, ...]:
        """The denoising timesteps of the generated chunk `chunk`."""
        return (
            self._warped(self.first_chunk_denoising_steps)
            if chunk == 0 and self.first_chunk_denoising_steps
            else self.timesteps
        )

    def _warped(self, steps: tuple[int, ...]) -> tuple[float, ...]:
        from adastate.diffusion import flow  # not above: a stream is checked before anything imports torch

        warped = flow.warp_steps(steps, self.timestep_shift)
        return warped if self.steps_are_unshifted else tuple(float(s) for s in steps)

    def chunks(self, frames: int) -> int:
        """How many chunks make `frames` latent frames."""
        first = self.frames_of(0)
        if frames < first or (frames - first) % self.chunk_frames:
            near = first + max(0, round((frames - first) / self.chunk_frames)) * self.chunk_frames
            raise ValueError(f"{frames} frames are not a multiple of the chunk of {self.chunk_frames}; {near} would be")
        return 1 + (frames - first) // self.chunk_frames

    def rescaled(self, chunk_frames: int) -> StreamSpec:
        """The same stream for another chunk: every count of frames in proportion, and none falls below one.

        The compared systems are written for chunks of 3; a network with chunks of 1 sees as many chunks of theirs.
        """

        def scale(n: int | None) -> int | None:
            return n and max(1, round(n * chunk_frames / self.chunk_frames))

        return replace(
            self,
            chunk_frames=chunk_frames,
            first_chunk_frames=None if chunk_frames == 1 else self.first_chunk_frames,
            past_frames=scale(self.past_frames),
            state_frames=scale(self.state_frames) or 0,
            pingpong_slots=scale(self.pingpong_slots) or 0,
            attention_frames=scale(self.attention_frames),
            restart_frames=scale(self.restart_frames),
            restart_overlap=scale(self.restart_overlap) or 0,
            switch=replace(self.switch, frames=scale(self.switch.frames)),
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StreamSpec:
        """From a config's `stream` block."""
        return cls(**values)
