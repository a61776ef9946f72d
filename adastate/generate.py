"""`adastate generate`: prompts and seconds to mp4, streamed to the file as it is made, however long.

Memory does not grow with the length: the cache is bounded, the decoder keeps its own small cache, and pictures go
straight to the encoder. The timing report says what streaming costs with decoding and without.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from adastate.encoders import Codec
from adastate.media import VideoWriter, strip
from adastate.runs import load_student
from adastate.student import Student

STRIP_CHUNKS = 200
"""A strip shows so many chunks at most, so that memory stays flat whatever the length."""


@dataclass(frozen=True)
class Timing:
    """Seconds and pictures a second of one batch of streams; writing the file counts in neither."""

    streams: int
    pictures: int  # of each stream
    first_picture_s: float  # from the call to the first decoded picture
    denoising_s: float
    decoding_s: float
    pictures_s_without_decoding: float  # of all streams together
    pictures_s_with_decoding: float
    device: str
    chunk_frames: int
    steps: int
    window_frames: int | None


def frames_for(seconds: float, codec: Codec, chunk: int) -> int:
    """Latent frames, whole chunks, that make at least so many seconds."""
    if seconds <= 0:
        raise SystemExit(f"adastate generate: {seconds} seconds is no length; give --seconds above 0")
    frames = chunk
    while codec.pictures(frames) < seconds * codec.fps:
        per_chunk = codec.pictures(frames + chunk) - codec.pictures(frames)
        frames += chunk * max(1, math.floor((seconds * codec.fps - codec.pictures(frames)) / per_chunk))
    return frames


@torch.no_grad()
def generate(
    student: Student, prompts: Sequence[str], frames: int, out: Path, seed: int, states: bool, sheet: bool = False
) -> Timing:
    """Streams one video a prompt into `out`, all in one batch.

    With `states` the decoded state stands to the right of the video; `sheet` adds strip.png.
    """
    codec, spec = student.codec, student.spec
    decoder = codec.stream()
    files: list[VideoWriter | None] = [None] * len(prompts)
    kept: list[tuple[Tensor, Tensor | None]] = []
    began, first, denoising, decoding, pictures = time.perf_counter(), math.nan, 0.0, 0.0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("streaming", total=frames, rate="")
        chunks = student.stream(list(prompts), frames, seed)
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            _sync(student.device)
            middle = time.perf_counter()
            denoising += middle - start
            if chunk is None:
                break
            video = decoder.decode(chunk.content)
            _sync(student.device)
            decoding += time.perf_counter() - middle
            first = time.perf_counter() - began if math.isnan(first) else first
            pictures += video.shape[1]
            hidden = codec.decode(chunk.state) if chunk.state is not None and (states or sheet) else None
            if sheet and len(kept) < STRIP_CHUNKS:
                kept.append((video, hidden))
            if states:
                video = beside(video, hidden)
            for i, clip in enumerate(video):
                if files[i] is None:
                    files[i] = VideoWriter(out / f"{file_name(prompts[i], i)}.mp4", codec.fps, *clip.shape[-2:])
                files[i].append(clip)  # type: ignore[union-attr]
            progress.update(task, advance=chunk.frames, rate=f"{pictures / (denoising + decoding):.1f} pictures/s")
    for writer in files:
        if writer is not None:
            writer.close()
    if sheet:
        title = f"{pictures / codec.fps:.1f} s, states below their chunks"
        horizon = student.rollout_frames // spec.chunk_frames
        clips, hidden_clips = [v for v, _ in kept], [h for _, h in kept]
        strip(clips, hidden_clips, prompts=prompts, fps=codec.fps, title=title, horizon=horizon).save(out / "strip.png")
    total = pictures * len(prompts)
    return Timing(
        streams=len(prompts),
        pictures=pictures,
        first_picture_s=round(first, 3),
        denoising_s=round(denoising, 3),
        decoding_s=round(decoding, 3),
        pictures_s_without_decoding=round(total / denoising, 1),
        pictures_s_with_decoding=round(total / (denoising + decoding), 1),
        device=str(student.device),
        chunk_frames=spec.chunk_frames,
        steps=len(spec.steps),
        window_frames=None if spec.past_frames is None else spec.past_frames + spec.chunk_frames + spec.state_frames,
    )


def beside(video: Tensor, state: Tensor | None) -> Tensor:
    """Video left, the state of its chunk right, held to the chunk's length; black where there is none."""
    length = video.shape[1]
    held = None if state is None else state[:, torch.arange(length) * state.shape[1] // length]
    state = torch.full_like(video, -1.0) if held is None else held
    gap = torch.full_like(video[..., : max(2, video.shape[-1] // 16)], -1.0)
    return torch.cat([video, gap, state], -1)


def file_name(prompt: str, index: int) -> str:
    words = re.sub(r"[^\w-]+", "-", prompt.lower()).strip("-")[:60]
    return f"{index:03d}-{words or 'empty'}"


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("adastate generate", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    parser.add_argument("--checkpoint", type=Path, help="safetensors; default: the run's student.safetensors")
    parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
    parser.add_argument("--prompts", type=Path, help="text file, one prompt a line")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--most", type=int, help="take only so many prompts")
    parser.add_argument("--strip", action="store_true", help="also write strip.png: pictures over time, states below")
    parser.add_argument("--states", action="store_true", help="show the decoded hidden state beside the video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the mp4s; default <run>/generated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    prompts = args.prompt + ([p for p in args.prompts.read_text().splitlines() if p.strip()] if args.prompts else [])
    prompts = prompts[: args.most]
    if not prompts:
        raise SystemExit('adastate generate: no prompt; give --prompt "..." or --prompts file')
    student = load_student(args.run, args.checkpoint).to(args.device)
    frames = frames_for(args.seconds, student.codec, student.chunk_frames)
    out = args.out or args.run / "generated"
    timing = generate(student, prompts, frames, out, args.seed, args.states, args.strip)
    (out / "timing.json").write_text(json.dumps(asdict(timing), indent=1))
    print(f"{timing.streams} videos of {timing.pictures} pictures in {out}")
    print(
        f"first picture after {timing.first_picture_s} s; all streams together {timing.pictures_s_without_decoding} "
        f"pictures/s without decoding, {timing.pictures_s_with_decoding} with it ({timing.device})"
    )
