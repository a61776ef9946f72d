"""Where the passes of a training rollout stop, and which of them have the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from adastate.stream.spec import StreamSpec


@dataclass(frozen=True)
class Exits:
    """One draw, the same for all chunks and samples of a rollout, and for all ranks.

    Attributes:
        level: of a uniform schedule, the denoising step whose x0 is a chunk's output; None: the last one.
        first_level: the same of a first chunk with steps of its own, counted in that list; None: its last one.
        window_phase: of a staircase in training. The joint passes whose number modulo the number of levels equals it
            have the gradient, and the x0 of all their chunks, each at its own level, are the output. None: chunks are
            output when they are finished, as at inference.
        quiet_frames: so many frames at the beginning have no gradient: chunks that begin among them, and joint passes
            that end with them, whose output is zero.
        state_phase: with `StreamSpec.state_grad` k, the graph through the state is cut in front of every chunk whose
            number plus this is a multiple of k + 1.
    """

    level: int | None = None
    first_level: int | None = None
    window_phase: int | None = None
    quiet_frames: int = 0
    state_phase: int = 0

    def check(self, spec: StreamSpec, grad: bool) -> None:
        """Raises ValueError for what the stream does not have."""
        stairs, levels = spec.schedule == "staircase", len(spec.timesteps)
        named = {
            "exit level": (self.level, 0 if stairs else levels),
            "exit level of the first chunk": (self.first_level, len(spec.first_chunk_denoising_steps)),
            "window phase": (self.window_phase, levels if stairs else 0),
        }
        for name, (value, there) in named.items():
            if value is not None and not 0 <= value < there:
                raise ValueError(f"{name} {value} does not exist: the schedule has {there or 'no'} levels for it")
        if stairs and grad and self.window_phase is None:
            raise ValueError("the gradient of a staircase is that of its joint passes: give Exits a window_phase")

    def at(self, spec: StreamSpec, chunk: int) -> int:
        """The exit level of the generated chunk `chunk` of a uniform schedule."""
        own = chunk == 0 and bool(spec.first_chunk_denoising_steps)
        level = self.first_level if own else self.level
        return len(spec.levels(chunk)) - 1 if level is None else level
