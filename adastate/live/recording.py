"""Records a session's chunks as an mp4 while they are shown."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from adastate.live.step import Step
from adastate.media.video import VideoWriter, beside


class Recording:
    """A growing file; it is complete after `close`.

    Args:
        path: of the mp4.
        fps: of the video.
        states: whether the hidden state is shown beside the video.
        most_s: maximum length in seconds; later chunks are dropped.
    """

    def __init__(self, path: Path, fps: float, states: bool, most_s: float) -> None:
        self.path, self.fps, self.states, self.most_s = path, fps, states, most_s
        self.seconds = 0.0
        self._writer: VideoWriter | None = None

    @property
    def full(self) -> bool:
        return self.seconds >= self.most_s

    def append(self, step: Step) -> None:
        """Adds the next chunk that is shown."""
        video = step.video.permute(0, 3, 1, 2)
        if self.states:
            video = beside(video, _fitting(step.state, video))
        if self._writer is None:
            self._writer = VideoWriter(self.path, self.fps, *video.shape[-2:])
        self._writer.append(video)
        self.seconds += len(video) / self.fps

    def close(self) -> bool:
        """Completes the file; returns whether there is one."""
        if self._writer is None:
            return False
        self._writer.close()
        return True

    def discard(self) -> None:
        """Deletes the file."""
        if self._writer is not None:
            self._writer.discard()
        self.path.unlink(missing_ok=True)


def _fitting(state: Tensor | None, video: Tensor) -> Tensor | None:
    """States as `[t, 3, h, w]` if they have the video's size, else None."""
    if state is None or state.shape[1:3] != video.shape[-2:]:
        return None
    return state.permute(0, 3, 1, 2)
