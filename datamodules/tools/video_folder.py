"""What lies in a folder of videos: the videos, their captions, and what is neither."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from adastate.media.video_error import VideoError
from adastate.runtime.text_files import read_text
from datamodules.shards.shard_error import ShardError

SUFFIXES = set(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .gif".split()  # noqa: SIM905
)
CAPTIONS = (".txt", ".TXT")
ACTIONS = ".actions.npy"


@dataclass(frozen=True)
class VideoFolder:
    """The content of a folder and of the folders in it.

    Attributes:
        videos: in order of name.
        others: files that are no videos and belong to none, counted by ending.
        closed: what could not be looked at, and why.
    """

    videos: list[Path]
    others: Counter[str]
    closed: dict[str, str]

    def told(self) -> str:
        """Its `others` in words."""
        kinds = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))
        return f"other files, not read: {', '.join(f'{n} {kind}' for kind, n in kinds)}" if kinds else ""


def look_into(folder: Path) -> VideoFolder:
    """Looks through a folder. Links are followed, and every folder is entered once, by a link only if it must be.

    Hidden files and folders are left alone: a Mac puts a `._name.mp4`, which is none, beside each name.mp4.

    Raises:
        ShardError: no folder there, or no video in it.
    """
    if folder.is_file():
        raise ShardError(f"{folder} is a file: give the folder that holds the videos")
    if not folder.is_dir():
        raise ShardError(f"no folder {folder}: give the folder that holds the videos")
    files, hidden, closed = _walk(folder)
    videos = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    others = Counter({"hidden": hidden} if hidden else {})
    beside = {path.with_name(path.stem + ending) for path in videos for ending in (*CAPTIONS, ACTIONS)}
    others.update(path.suffix.lower() or "without an ending" for path in files - {*videos} - beside)
    found = VideoFolder(videos, others, closed)
    if not videos:
        there = f"; {found.told()}" if others else ""
        raise ShardError(f"no video in {folder}{there}: put files there that end in {', '.join(sorted(SUFFIXES))}")
    without = [path for path in videos if actions_beside(path) is None]
    if 0 < len(without) < len(videos):
        raise ShardError(
            f"{len(without)} of {len(videos)} videos have no {ACTIONS} beside them, {without[0].name} the first: give "
            "actions to all of them or to none, because all samples of a batch have actions or none has"
        )
    return found


def _walk(folder: Path) -> tuple[set[Path], int, dict[str, str]]:
    """Its files, how many are hidden, and what cannot be looked at."""
    files: set[Path] = set()
    closed: dict[str, str] = {}
    hidden = 0
    entered: set[Path] = set()
    waiting = deque([folder])
    while waiting:
        here = waiting.popleft()
        if here.resolve() in entered:
            continue
        entered.add(here.resolve())
        try:
            for path in sorted(here.iterdir()):
                if path.name.startswith("."):
                    hidden += 1
                elif path.is_dir():
                    (waiting.append if path.is_symlink() else waiting.appendleft)(path)
                elif path.is_file():
                    files.add(path)
                elif path.is_symlink():
                    closed[name_in_folder(path, folder)] = "a link that leads nowhere"
        except OSError as error:
            closed[name_in_folder(here, folder)] = f"cannot be looked into ({error.strerror})"
    return files, hidden, closed


def name_in_folder(path: Path, folder: Path) -> str:
    """Its name in the folder; bytes that are no UTF-8 are spelled out."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def actions_beside(video: Path) -> Path | None:
    """The file of actions of a video, if there is one."""
    path = video.with_name(video.stem + ACTIONS)
    return path if path.is_file() else None


def caption_of(video: Path) -> str:
    """The caption beside a video; empty if there is none, or an empty one.

    Raises:
        VideoError: what is there is no text.
    """
    file = next((file for ending in CAPTIONS if (file := video.with_suffix(ending)).is_file()), None)
    if file is None:
        return ""
    try:
        return read_text(file).strip()
    except ValueError as error:
        raise VideoError(f"{file.name} {str(error).removeprefix(f'{file} ')}") from None
