"""Previews to files, TensorBoard and other trackers, off the training thread."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch import Tensor
from torch.utils.tensorboard.writer import FileWriter

from adastate.media.strip import strip
from adastate.media.video import VideoWriter, beside, gif_bytes, held_state
from adastate.runtime import atomic, json_lines
from callbacks.previews import figures, tags, trackers
from callbacks.previews.gallery import INDEX, write_gallery
from callbacks.previews.render import Preview
from callbacks.previews.trackers import Shown

EVENT_FILE_BYTES = 100_000_000
"""TensorBoard reads an event file from its start, so a new one is opened beyond this size."""

GIF_PICTURES = 40

WATCHABLE = 128
"""Shorter side of the mp4s of tiny video, in pixels; the gallery enlarges them further, and a run writes many."""


class PreviewFiles:
    """Writes previews into a run folder: `videos/`, `strips/`, `figures/`, `media/` for TensorBoard, `gallery.html`.

    TensorBoard has no video, but plays an animated GIF inside an image summary. `loggers` that support video get the
    files themselves.
    """

    def __init__(self, run: Path, loggers: Sequence[Logger] = ()) -> None:
        self.run, self.loggers = run, loggers
        self._events: FileWriter | None = None
        self._written = 0

    def write(self, previews: list[Preview]) -> dict[int, float]:
        """Writes all, and returns the processor seconds that each horizon took."""
        seconds, shown = {}, {}
        for preview in previews:
            begun = time.thread_time()
            shown[preview.horizon] = self._preview(preview)
            seconds[preview.horizon] = time.thread_time() - begun
        if self._events is not None:
            self._events.flush()
        write_gallery(self.run)
        for preview in previews:  # last: an unreachable tracker must not cost the run its own files
            trackers.log_media(self.loggers, preview.horizon, preview.iteration, shown[preview.horizon])
        return seconds

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _preview(self, preview: Preview) -> list[Shown]:
        entry: dict[str, Any] = {
            "iteration": preview.iteration,
            "horizon": preview.horizon,
            "frames": preview.frames,
            "seed": preview.seed,
            "prompts": preview.prompts,
            **({"steered": preview.steered} if preview.steered else {}),
            "videos": [],
            "states": [],
            "strips": [self._strip(preview)],
            "figures": self._figures(preview),
        }
        for row in range(len(preview.prompts)):
            video = torch.cat([c[row] for c in preview.chunks])
            state = _held(preview, row)
            entry["videos"].append(self._mp4(preview, row, "", video))
            if state is not None:
                entry["states"].append(self._mp4(preview, row, "-state", state))
            k = math.ceil(len(video) / GIF_PICTURES)
            shown = video[::k] if state is None else beside(video[::k], state[::k])
            self._image(preview, f"video_{row}", gif_bytes(shown, preview.fps / k), preview.prompts[row])
        json_lines.append(self.run / INDEX, entry)  # last: the gallery lists only complete previews
        return self._shown(preview, entry)

    def _shown(self, preview: Preview, entry: dict[str, Any]) -> list[Shown]:
        every = "\n".join(preview.prompts)
        sheets = [*entry["strips"], *entry["figures"]]
        shown = [Shown(Path(name).stem.rpartition("-")[2], self.run / name, every) for name in sheets]
        for kind, what in (("videos", "video"), ("states", "state")):
            rows = enumerate(zip(entry[kind], preview.prompts, strict=False))
            shown += [Shown(f"{what}_{row}", self.run / name, prompt) for row, (name, prompt) in rows]
        return shown

    def _mp4(self, preview: Preview, row: int, kind: str, video: Tensor) -> str:
        path = self.run / "videos" / f"{preview.name}-{row}{kind}.mp4"
        height, width = video.shape[-2:]
        scale = math.ceil(WATCHABLE / min(height, width, WATCHABLE))
        with VideoWriter(path, preview.fps, height, width, scale) as writer:
            writer.append(video)
        return str(path.relative_to(self.run))

    def _strip(self, preview: Preview) -> str:
        length = f"{preview.horizon}x the training horizon, {preview.frames} latent frames"
        sheet = strip(
            preview.chunks,
            preview.states,
            prompts=preview.prompts,
            fps=preview.fps,
            title=f"iteration {preview.iteration:,}  ·  {length}",
            horizon=preview.horizon_chunks,
            steered=preview.steered,
        )
        return self._png(preview, "strips", "strip", sheet)

    def _figures(self, preview: Preview) -> list[str]:
        made = []
        if (d := preview.drift) is not None:
            series = {"step / norm": [float("nan"), *d.step], "cosine to first": d.cosine}
            title = f"hidden state over {preview.horizon}x, iteration {preview.iteration:,}"
            sheet = figures.line_figure(series, title, d.first, preview.horizon_chunks)
            made.append(self._png(preview, "figures", "drift", sheet))
        if preview.attention:
            title = f"attention share over {preview.horizon}x, iteration {preview.iteration:,}"
            sheet = figures.areas(preview.attention, title, preview.horizon_chunks)
            made.append(self._png(preview, "figures", "attention", sheet))
        return made

    def _png(self, preview: Preview, folder: str, what: str, image: Image.Image) -> str:
        path = self.run / folder / f"{preview.name}-{what}.png"
        data = io.BytesIO()
        image.save(data, "PNG", optimize=True)
        atomic.write_bytes(path, data.getvalue())
        self._image(preview, what, data.getvalue())
        return str(path.relative_to(self.run))

    def _image(self, preview: Preview, what: str, data: bytes, prompt: str = "") -> None:
        if self._events is None or self._written + len(data) > EVENT_FILE_BYTES:
            self.close()
            # In a sub-run of its own, so that the scalars' event file stays small and loads quickly.
            self._events, self._written = FileWriter(str(self.run / "media")), 0
        width, height = Image.open(io.BytesIO(data)).size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        about = SummaryMetadata(summary_description=prompt or "\n\n".join(preview.prompts))
        value = Summary.Value(tag=tags.media_tag(preview.horizon, what, prompt), image=image, metadata=about)
        self._events.add_summary(Summary(value=[value]), preview.iteration)
        self._written += len(data)


def _held(preview: Preview, row: int) -> Tensor | None:
    """The states of one row as a video in step with it: each lasts as long as its chunk; black where there is none."""
    if all(s is None for s in preview.states):
        return None
    clips = []
    for chunk, state in zip(preview.chunks, preview.states, strict=True):
        clips.append(torch.zeros_like(chunk[row]) if state is None else held_state(state[row], chunk.shape[1]))
    return torch.cat(clips)
