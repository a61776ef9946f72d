"""A folder of captioned videos made into WebDataset shards.

The key of every clip carries a digest of all that decides what it holds (the settings, the video's bytes, its
caption), so that a second run knows what is done, what has changed and what an interruption left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from adastate.encoders import Codec
from adastate.media.video import to_float
from adastate.media.video_error import VideoError
from adastate.runtime.secrets import printable
from datamodules.shards.few_clips import few_clips
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, read_manifest, sha256
from datamodules.tools.clip_members import Facts, clip_members, codec_name
from datamodules.tools.footage import longest_step, probe, read_clips
from datamodules.tools.shard_set import ShardReport, check_disk, open_set, stored_clip_bytes
from datamodules.tools.video_actions import actions_of_frames, actions_of_latents, latent_starts
from datamodules.tools.video_folder import VideoFolder, actions_beside, caption_of, look_into, name_in_folder

METHOD = 2  # among the settings: raise it when the way clips are cut changes, and old sets are made again


@dataclass(frozen=True)
class _Source:
    path: Path
    name: str  # relative to the folder of videos
    caption: str
    digest: str
    state: Facts  # as index.json keeps it
    actions: Path | None


def make_shards(
    videos: Path,
    out: Path,
    *,
    size: tuple[int, int] = (32, 32),
    pictures: int = 21,
    fps: float = 8,
    clips_per_shard: int = 256,
    latents: Codec | None = None,
    caption_from_name: bool = False,
    stride: int | None = None,
    action_frames: int = 3,
) -> ShardReport:
    """Cuts the videos of a folder, and of its folders, into clips with captions, and writes them as shards.

    Run again, it does what is new or changed only. With other settings it makes the set anew, unless that would
    lose clips of videos that are no longer there.

    Args:
        videos: folder; the caption of `name.mp4` is `name.txt` beside it, how it was steered `name.actions.npy`, for
            all videos or for none.
        out: folder of the shards and their index.json.
        size: height and width of the clips.
        pictures: of a clip; scenes are split into clips, and what is left over is dropped.
        fps: pictures a second.
        clips_per_shard: for the shards not yet written.
        latents: codec, to write `.latent.npy` in place of `.mp4`.
        caption_from_name: lets the words of its file name serve a video without a caption, which is skipped otherwise.
        stride: pictures between the starts of clips of one scene; fewer than `pictures` makes clips overlap. None is
            `pictures`.
        action_frames: frames of a clip that a row of its actions stands for; with `latents` their codec says it.

    Raises:
        ShardError: no videos, actions beside some of them only, settings that do not fit, a folder that cannot be
            written to, or a disk too small.
    """
    settings = {"kind": "videos", "method": METHOD, "size": list(size), "pictures": pictures, "fps": float(fps)}
    settings["codec"] = codec_name(latents)
    stride = pictures if stride is None else stride
    if stride < 1:
        raise ShardError(f"a stride of {stride} pictures between clips: give 1 or more")
    settings["stride"] = stride
    if action_frames < 1:
        raise ShardError(f"actions of {action_frames} frames a row: give 1 or more")
    if action_frames != 3:
        settings["action_frames"] = action_frames
    expected = stored_clip_bytes(size, pictures, fps, latents)
    before, found = read_manifest(out), look_into(videos)
    with Progress(console=Console(stderr=True)) as progress:
        sources, skipped, by_name = _gather(
            videos, found, settings, before.get("sources", {}), caption_from_name, progress
        )
        names = {source.name for source in sources}
        writer = open_set(out, clips_per_shard, before, settings, names >= set(before.get("sources", {})))
        with writer:
            # Clips of a video that is no longer there stay; those of one that has changed go.
            gone = {state["digest"] for name, state in writer.sources.items() if name not in names}
            wanted = gone | {source.digest for source in sources}
            writer.retain(lambda key: _digest_of(key) in wanted)
            present = writer.keys()
            counts = Counter(map(_digest_of, present))
            todo = [source for source in sources if not _is_done(source, writer.sources, counts)]
            check_disk(out, expected * fps / stride * sum(source.state["seconds"] for source in todo))
            task = progress.add_task("cutting", total=sum(source.state["seconds"] for source in todo))
            for source in todo:
                progress.update(task, description=escape(printable(source.name)))
                _cut(source, writer, present, settings, latents)
                progress.advance(task, source.state["seconds"])
    faults, notes = (
        {s.name: told for s in sources if (told := writer.sources[s.name].get(kind))} for kind in ("fault", "note")
    )
    written = len(writer.keys() - present)
    skipped |= faults
    few = few_clips(written + len(present), str(out), read_manifest(out))
    return ShardReport(out, written, len(present), len(writer.shards), skipped, by_name, notes, found.told(), few)


def _cut(source: _Source, writer: ShardWriter, present: set[str], settings: Facts, codec: Codec | None) -> None:
    """Writes those clips of a video that are not present, and what became of it into the writer's `sources`."""
    shape = {name: settings[name] for name in ("size", "pictures", "fps")}
    (height, width), pictures, fps = shape.values()
    words = re.sub(r"[^A-Za-z0-9]+", "_", source.name)[:40]
    state = writer.sources[source.name] = source.state | {"clips": None, "fault": None, "note": None}
    clips, notes = 0, list[str]()
    try:
        steered = None if source.actions is None else actions_of_frames(source.actions, probe(source.path)[0])
        starts = latent_starts(pictures, codec, settings.get("action_frames", 3)) if source.actions else []
        for clip in read_clips(source.path, (height, width), pictures, fps, settings["stride"], notes.append):
            key = f"{words}-{source.digest}-{clips:05d}"
            if key not in present:
                facts = {"source": source.name, "start": round(clip.start, 3), **shape}
                actions = None if steered is None else actions_of_latents(steered[list(clip.frames)], starts)
                writer.add(key, clip_members(to_float(clip.video), fps, source.caption, facts, codec, actions))
            clips += 1
        if not clips:
            state["fault"] = f"no scene lasts for a clip of {pictures} pictures at {fps:g} fps ({pictures / fps:.1f} s)"
    except VideoError as error:
        state["fault"] = f"{_without_name(error, source.path)}; the {clips} clips before that are kept"
    state["clips"] = clips
    if notes:
        state["note"] = "; ".join(notes)


def _gather(
    folder: Path, found: VideoFolder, settings: Facts, known: Facts, caption_from_name: bool, progress: Progress
) -> tuple[list[_Source], dict[str, str], tuple[str, ...]]:
    """The usable videos; why others are not; and those that their file name captions."""
    sources: list[_Source] = []
    skipped = dict(found.closed)
    by_name: list[str] = []
    for path in progress.track(found.videos, description="looking at the videos"):
        name = name_in_folder(path, folder)
        try:
            caption = caption_of(path)
            words = " ".join(re.findall(r"[^\W_]+", Path(name).stem)) if caption_from_name else ""
            if not caption and not words:
                told = f"no caption: write one to {path.stem}.txt beside it, or add --caption-from-name"
                raise VideoError(told)
            sources.append(_describe(path, name, caption or words, settings, known.get(name, {})))
            by_name += [] if caption else [name]
        except (VideoError, OSError) as error:
            skipped[name] = _without_name(error, path)
    return sources, skipped, tuple(by_name)


def _describe(path: Path, name: str, caption: str, settings: Facts, known: Facts) -> _Source:
    stat = path.stat()
    state: Facts = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if all(known.get(key) == value for key, value in state.items()):
        state |= {"seconds": known["seconds"], "sha256": known["sha256"]}
    else:
        state |= {"seconds": round(probe(path, longest_step(settings["fps"]))[1], 3), "sha256": sha256(path)}
    actions = actions_beside(path)
    steered = [] if actions is None else [sha256(actions)]
    told = json.dumps([settings, name, state["sha256"], caption, *steered], sort_keys=True)
    state["digest"] = hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
    return _Source(path, name, caption, state["digest"], state, actions)


def _without_name(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path.name}: ")  # the report names the video itself


def _digest_of(key: str) -> str:
    return key.rpartition("-")[0].rpartition("-")[2]


def _is_done(source: _Source, states: Facts, counts: Counter[str]) -> bool:
    """Whether all clips of this very source are there. Takes note of a new date, which changes nothing else."""
    state = states.get(source.name, {})
    if state.get("digest") != source.digest or state["clips"] != counts[source.digest]:
        return False
    state |= source.state
    return True
