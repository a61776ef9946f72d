"""A folder of shards as the shards command fills it: its settings, its room on the disk, and what a run did."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from adastate.encoders import Codec
from adastate.runtime.secrets import printable
from adastate.runtime.spelling import how_many
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter
from datamodules.tools.clip_members import Facts


@dataclass(frozen=True)
class ShardReport:
    """What a run did; printed as its closing summary."""

    out: Path
    written: int  # clips of this run
    kept: int  # clips that were there
    shards: int
    skipped: dict[str, str] = field(default_factory=dict)  # video -> why it gave nothing, or not all
    captioned_by_name: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)  # video -> what was the matter with its pictures
    others: str = ""  # files beside the videos, in words
    few: str = ""  # that the clips are few, in a sentence

    @property
    def clips(self) -> int:
        return self.written + self.kept

    def __str__(self) -> str:
        there = f"{how_many(self.clips, 'clip')} in {how_many(self.shards, 'shard')}"
        lines = [f"{self.out}: {there}, {self.written} of them written now"]
        lines += [f"  no caption, its file name is used: {name}" for name in self.captioned_by_name]
        lines += [f"  {name}: {note}" for name, note in self.notes.items()]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.skipped.items()]
        lines += [f"  {self.others}"] if self.others else []
        lines += [f"note: {self.few}"] if self.few and self.clips else []
        return "\n".join(printable(line).replace("\n", "\\n") for line in lines)


def open_set(out: Path, per_shard: int, before: Facts, settings: Facts, can_remake: bool) -> ShardWriter:
    """Opens the folder; a set with other settings is removed first, if all of it can be made again."""
    stored = before.get("settings", settings)
    if stored != settings:
        changed = ", ".join(
            f"{k} {stored.get(k)} -> {settings.get(k)}"
            for k in {**settings, **stored}
            if stored.get(k) != settings.get(k)
        )
        if not can_remake or stored.get("kind") != settings["kind"]:
            raise ShardError(
                f"{out} holds clips made with other settings ({changed}), which cannot be made again now: choose "
                "another --out"
            )
        for path in [*out.glob("shard-*.tar"), out / "index.json"]:  # the index last: it says that these files are ours
            path.unlink()
    return ShardWriter(out, per_shard, settings)


def stored_clip_bytes(
    size: tuple[int, int], pictures: int, fps: float, codec: Codec | None, lossless: bool = False
) -> float:
    """Rough bytes of a clip in a shard, of `size` (height, width) in pixels; `lossless` is of video.

    Raises:
        ShardError: settings that do not fit the codec, or h264.
    """
    height, width = size
    if pictures < 1 or fps <= 0 or min(size) < 2:
        raise ShardError(f"{pictures} pictures of {height} x {width} at {fps:g} fps are no clip: give larger numbers")
    side = codec.scale if codec else 2
    if height % side or width % side:
        raise ShardError(f"clips of {height} x {width} do not fit: give a height and width divisible by {side}")
    if codec is None:
        return 4096 + (0.4 if lossless else 0.15) * pictures * 3 * height * width
    frames = next(n for n in range(1, pictures + 1) if codec.video_frames(n) >= pictures)
    if codec.video_frames(frames) != pictures:
        raise ShardError(f"a clip of {pictures} pictures does not fit the codec: give {codec.video_frames(frames)}")
    return 4096 + 2 * frames * codec.channels * (height // side) * (width // side)


def check_disk(out: Path, need: float) -> None:
    free = shutil.disk_usage(out).free
    if need > free:
        raise ShardError(f"{out} has {decimal(free)} free and needs about {decimal(int(need))}: choose another disk")
