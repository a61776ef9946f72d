"""Decodes one sample to tensors; every fault has a cause and a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from datamodules.shards import safe_decode
from datamodules.shards.index import BadSample, Sample
from datamodules.shards.patience import Patience
from datamodules.shards.safe_decode import ChangedError, Refused

HOW_TO_MAKE = {
    "latent.npy": "`make shards VIDEOS=... LATENTS=1` writes latents",
    "mp4": "`make shards VIDEOS=...` writes video",
    "trajectory.npy": "the trajectories command writes them",
}


ACTIONS = "actions.npy"
"""Kind of the member with the actions that steered a clip."""


@dataclass(frozen=True)
class DecodedSample:
    """One decoded sample."""

    content: Tensor  # [F, C, H, W] or [J, F, C, H, W] as stored, or [T, 3, h, w] uint8
    prompt: str
    facts: dict[str, Any]
    actions: Tensor | None = None  # [F, A] uint8, one row per latent frame


def decode(
    sample: Sample,
    kind: str,
    frames: int | None = None,
    patience: Patience | None = None,
    actions: bool = True,
    pixels: int = safe_decode.MAX_PIXELS,
) -> DecodedSample:
    """Reads a sample and crops it to the first `frames` latent frames (video frames of an mp4).

    With `actions` its actions.npy, if any, is read too: one row per latent frame, also for an mp4. An mp4 whose frames
    have more than `pixels` pixels is refused before it is decoded.

    Raises:
        BadSample: no caption, no `kind`, out of reach, not decodable, too short, numbers that are not finite, or
            actions that are not 0/1 columns or do not match the frames.
    """
    require_usable(sample, kind)
    data = _fetch(sample, ["txt", "json", kind, *([ACTIONS] if actions else [])], patience)
    try:
        prompt = safe_decode.read_words(data["txt"])
        if not prompt:
            raise Refused("no caption", "has an empty .txt: write its caption there")
        facts = safe_decode.read_json(data["json"]) if "json" in data else {}
    except Refused as error:
        raise BadSample(error.cause, sample, str(error)) from error
    try:
        content = safe_decode.read_mp4(data[kind], pixels) if kind == "mp4" else safe_decode.read_npy(data[kind])
    except Refused as error:
        raise BadSample(error.cause, sample, f"cannot be decoded ({error}): recreate its shard") from error
    except Exception as error:  # no file may end a run, whatever its decoder raises
        told = f"{type(error).__name__}: {error}"
        raise BadSample("unreadable", sample, f"cannot be decoded ({told}): recreate its shard") from error
    axes = 5 if kind == "trajectory.npy" else 4
    if content.ndim != axes:
        raise BadSample(
            "unreadable", sample, f"has a {kind} of shape {tuple(content.shape)}, but {axes} axes are needed"
        )
    axis = axes - 4  # of the frames
    if frames is not None and content.shape[axis] < frames:
        has = content.shape[axis]
        raise BadSample(
            "too short", sample, f"has {has} frames of the {frames} needed: lower data.frames or cut longer clips"
        )
    if content.is_floating_point() and not safe_decode.all_finite(content):
        raise BadSample("not finite", sample, "contains numbers that are not finite: encode it again")
    steered = _actions(sample, data[ACTIONS], content.shape[axis], frames, kind) if ACTIONS in data else None
    # Cloned, because a crop would keep the whole clip in memory.
    content = content if frames is None else content.narrow(axis, 0, frames).clone()
    return DecodedSample(content, prompt, facts, steered)


def _actions(sample: Sample, data: bytes, has: int, frames: int | None, kind: str) -> Tensor:
    """Rows of actions for the first `frames` of the `has` frames of a sample; each row of a video covers several."""
    try:
        actions = safe_decode.read_actions(data)
    except Refused as error:
        raise BadSample(error.cause, sample, f"{error}: write 0/1 columns, one row per latent frame") from error
    rows = rows_of_actions(len(actions), has, has if frames is None else frames) if kind == "mp4" else frames or has
    if rows is None or (kind != "mp4" and len(actions) != has):
        told = f"has {len(actions)} rows of actions for {has} frames"
        cropped = f", of which {frames} are needed" if frames is not None else ""
        raise BadSample("bad actions", sample, f"{told}{cropped}: give one row per latent frame")
    return actions[:rows].clone()


def rows_of_actions(rows: int, frames: int, wanted: int) -> int | None:
    """Number of the `rows` for a video of `frames` frames that cover its first `wanted`; None if they do not divide.

    Every row covers the same number of frames, except that the first may cover a single frame, as in Wan's latents.
    """
    for first in (0, 1):
        if rows > first and frames > first and (frames - first) % (rows - first) == 0:
            each = (frames - first) // (rows - first)
            if (wanted - first) % each == 0:
                return first + (wanted - first) // each
    return None


def _fetch(sample: Sample, kinds: Sequence[str], patience: Patience | None) -> dict[str, bytes]:
    for kind in kinds:
        limit = safe_decode.MAX_CONTENT if "." in kind or kind == "mp4" else safe_decode.MAX_WORDS
        if kind in sample.members and sample.members[kind][1] > limit:
            raise BadSample("too large", sample, f"has a {kind} of {sample.members[kind][1]} bytes, at most {limit}")
    try:
        work = partial(sample.fetch, kinds)
        return patience(work, sample.shard) if patience else work()
    except FileNotFoundError as error:
        raise BadSample("vanished shard", sample, "is gone: its shard was deleted or truncated") from error
    except ChangedError as error:
        told = f"{error}, so the run's index does not fit it any more: restore it, or start a new run"
        raise BadSample("changed shard", sample, told) from error
    except OSError as error:
        raise BadSample("out of reach", sample, f"cannot be read ({error})") from error


def read_facts(sample: Sample) -> dict[str, Any]:
    """Contents of the .json; empty if there is none."""
    if "json" not in sample.members:
        return {}
    try:
        return safe_decode.read_json(_fetch(sample, ["json"], None)["json"])
    except Refused as error:
        raise BadSample(error.cause, sample, f"{error}: recreate its shard") from error


def require_usable(sample: Sample, kind: str) -> None:
    """Raises BadSample if the sample has a fault, or lacks a caption or a member of this kind."""
    if sample.fault is not None:
        raise BadSample(sample.fault.cause, sample, sample.fault.detail)
    has = ", ".join(sample.members)
    if kind not in sample.members:
        name = {"latent.npy": "latents", "mp4": "video", "trajectory.npy": "trajectory"}[kind]
        raise BadSample(f"no {name}", sample, f"has no {kind}, only {has}: {HOW_TO_MAKE[kind]}")
    if "txt" not in sample.members:
        raise BadSample(
            "no caption", sample, f"has no .txt, only {has}: put captions beside the videos and run `make shards`"
        )
