"""Files and strings of other projects -> cameras and keys. What each means was read in the project's own code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adastate.cameras import key_strings
from adastate.cameras.camera_track import INTRINSICS, POSES, CameraTrack
from adastate.runtime.plain_json import load_json
from adastate.stream.action_schedule import KEYS

SUFFIX = ".actions.npy"
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
"""Suffixes of files of arrays."""

NO_STRING = "give one that is there; strings of keys are read by --format hy-worldplay, minwm, sana-wm and wrbench"

PictureSize = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class CameraControl:
    """What a source says: `keys` [F, 8] uint8, columns of KEYS, and the camera where it tells one."""

    keys: NDArray[np.uint8]
    cameras: CameraTrack | None = None

    @classmethod
    def by(cls, cameras: CameraTrack) -> CameraControl:
        return cls(cameras.keys(), cameras)

    def save(self, out: Path) -> list[Path]:
        """Into a folder, or the keys alone into a file `x.actions.npy`; returns what was written."""
        if out.name.endswith(SUFFIX):
            out.parent.mkdir(parents=True, exist_ok=True)
            np.save(out, self.keys)
            return [out]
        written = [] if self.cameras is None else self.cameras.save(out)
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / f"camera{SUFFIX}", self.keys)
        return [*written, out / f"camera{SUFFIX}"]


def read_control(source: str, kind: str, size: PictureSize | None = None) -> CameraControl:
    """What a file, folder or string of one of FORMATS says.

    Args:
        size: width and height of the video; needed where intrinsics are given as parts of it.

    Raises:
        ValueError: in one sentence, what is amiss.
    """
    if kind not in FORMATS:
        raise ValueError(f"no format {kind!r} of cameras: there are {', '.join(FORMATS)}")
    return FORMATS[kind](source, size)


def read_rows(path: Path, columns: int) -> NDArray[np.float32]:
    """The actions `[F, columns]` of a file `x.actions.npy`; columns that it has not are zero.

    Raises:
        ValueError: it is no such file, or holds keys that are not among the first `columns`.
    """
    rows = _arrays(path).get("")
    if rows is None or rows.ndim != 2 or not len(rows) or not np.isin(rows, (0, 1)).all():
        raise ValueError(f"{path} holds no actions: one row of 0 and 1 a latent frame is needed, [F, A]")
    if rows[:, columns:].any():
        more = ", ".join(KEYS[i] for i in np.flatnonzero(rows.any(0)) if columns <= i < len(KEYS))
        raise ValueError(f"{path} holds {more or 'further columns'}; this network is steered by {columns} actions")
    found = np.zeros((len(rows), columns), np.float32)
    found[:, : rows.shape[1]] = rows[:, :columns]
    return found


# ---- one reader a project


def _folder(source: str, size: PictureSize | None) -> CameraControl:
    """LingBot's and MemoBench's folders, which are ours: camera-to-world in OpenCV's axes, intrinsics in pixels."""
    folder = Path(source)
    if not (folder / POSES).is_file():
        is_there = f"{folder} has no {POSES}" if folder.is_dir() else f"there is no folder {folder}"
        raise ValueError(f"{is_there}: give the folder that holds {POSES}, and {INTRINSICS} if there are any")
    beside = folder / INTRINSICS
    return CameraControl.by(CameraTrack.of(_one(folder / POSES), _one(beside) if beside.is_file() else None))


def _hy_worldplay(source: str, size: PictureSize | None) -> CameraControl:
    if not source.endswith(".json"):
        return _by_string(source, key_strings.hy_worldplay, ".json")
    told = _json(Path(source))
    try:
        latents = [told[key] for key in sorted(told, key=int)]
        poses = np.array([latent["extrinsic"] for latent in latents])
        matrices = np.array([latent["K"] for latent in latents])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f'{source} is not {{"0": {{"extrinsic": 4 x 4, "K": 3 x 3}}, "1": ...}}, an entry for each latent: give '
            "the file that HY-WorldPlay reads"
        ) from error
    return CameraControl.by(CameraTrack.of(poses, _pinhole(matrices)))


def _minwm(source: str, size: PictureSize | None) -> CameraControl:
    """Strings, or tensors `viewmats`, which are world-to-camera, and `Ks`, which are parts of width and height."""
    if Path(source).suffix not in ARRAYS:
        return _by_string(source, key_strings.minwm, ", ".join(ARRAYS))
    told = _arrays(Path(source))
    views = told.get("viewmats", told.get(""))
    if views is None:
        raise ValueError(f"{source} has no viewmats; it has {', '.join(told) or 'nothing'}")
    views = _last_axes(views, 3)
    if views.ndim != 3 or views.shape[1:] != (4, 4):
        raise ValueError(f"viewmats have shape {list(views.shape)}, and not [F, 4, 4]")
    intrinsics = None
    if "Ks" in told:
        if size is None:
            raise ValueError("minWM's intrinsics are parts of the width and height of the video: give --size 832x480")
        intrinsics = _pinhole(_last_axes(told["Ks"], 3)) * np.array([size[0], size[1], size[0], size[1]], np.float32)
    return CameraControl.by(CameraTrack.of(np.linalg.inv(views.astype(np.float64)), intrinsics))


def _matrix_game(source: str, size: PictureSize | None) -> CameraControl:
    path = Path(source)
    told: Mapping[str, Any] = _json(path) if path.suffix == ".json" else _arrays(path)
    if "keyboard_condition" not in told:
        raise ValueError(f"{source} has no keyboard_condition; it has {', '.join(told) or 'nothing'}")
    keyboard = _last_axes(np.asarray(told["keyboard_condition"], np.float32), 2)
    mouse = told.get("mouse_condition")
    turned = None if mouse is None else _last_axes(np.asarray(mouse, np.float32), 2)
    return CameraControl(key_strings.from_conditions(keyboard, turned))


def _sana_wm(source: str, size: PictureSize | None) -> CameraControl:
    if source.endswith(".npy"):
        return CameraControl.by(CameraTrack.of(_one(Path(source))))
    return _by_string(source, key_strings.sana_wm, ".npy")


def _wrbench(source: str, size: PictureSize | None) -> CameraControl:
    if source.endswith(".npy"):
        return CameraControl.by(CameraTrack.of(_one(Path(source))))
    return _by_string(source, key_strings.wrbench, ".npy")


def _vllm_omni(source: str, size: PictureSize | None) -> CameraControl:
    """A list of its targets, {"translation": [3], "rotation": [x, y, z, w]}, alone or within events, with y up."""
    told = _json(Path(source))
    poses = []
    for item in told if isinstance(told, list) else [told]:
        found = item
        for name in ("interaction", "event", "multi_modal_data", "camera"):
            found = found.get(name, found) if isinstance(found, dict) else {}
        if found.get("mode", "target") != "target":
            raise ValueError(f"{source} contains velocities, not positions: only targets can be read")
        data = found.get("data", found)
        try:
            poses.append(_target(data["translation"], data["rotation"]))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{source} holds a camera without translation [3] and rotation [x, y, z, w]") from error
    return CameraControl.by(CameraTrack.of(np.array(poses)))


FORMATS: dict[str, Callable[[str, PictureSize | None], CameraControl]] = {
    "lingbot": _folder,
    "memobench": _folder,
    "hy-worldplay": _hy_worldplay,
    "minwm": _minwm,
    "matrix-game": _matrix_game,
    "sana-wm": _sana_wm,
    "wrbench": _wrbench,
    "vllm-omni": _vllm_omni,
}
"""Reader by project."""


# ---- pieces


def _by_string(source: str, read: Callable[[str], NDArray[np.uint8]], files: str) -> CameraControl:
    """What a string of keys says; a file or folder of another kind stands in its place by mistake."""
    if os.path.exists(source) or re.search(r"/|\.[a-z]\w+$", source):
        raise ValueError(f"{source} is no string of keys, and no file that is read here: give one of {files}")
    return CameraControl(read(source))


def _target(translation: Any, rotation: Any) -> NDArray[np.float64]:
    """Camera-to-world in OpenCV's axes, from Unity's, where y points up: both senses of rotation turn with it."""
    x, y, z, w = np.array(rotation, np.float64) / np.linalg.norm(rotation)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    flip, pose = np.diag([1.0, -1.0, 1.0]), np.eye(4)
    pose[:3, :3], pose[:3, 3] = flip @ turn @ flip, flip @ np.array(translation, np.float64)
    return pose


def _pinhole(matrices: NDArray[Any]) -> NDArray[np.float32]:
    """fx, fy, cx, cy of K `[F, 3, 3]`."""
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise ValueError(f"intrinsics have shape {list(matrices.shape)}, and not [F, 3, 3]")
    return matrices[:, (0, 1, 0, 1), (0, 1, 2, 2)].astype(np.float32)


def _last_axes(array: NDArray[Any], axes: int) -> NDArray[Any]:
    """Without leading axes of one, a batch's."""
    while array.ndim > axes and len(array) == 1:
        array = array[0]
    return array


def _one(path: Path) -> NDArray[Any]:
    found = _arrays(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {', '.join(found)}, and not one array")
    return next(iter(found.values()))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a file by name, the only one of a .npy as ""; nothing in it is executed."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}: {NO_STRING}")
    if path.suffix not in ARRAYS:
        raise ValueError(f"{path} is no file of arrays: give one of {', '.join(ARRAYS)}")
    try:
        if path.suffix in (".npy", ".npz"):
            found = np.load(path, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        from adastate.weights.files import open_file  # not above: it imports torch

        return {name: entry.read().float().numpy() for name, entry in open_file(path)[0].items()}
    except (ValueError, OSError, EOFError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path} holds no arrays of numbers ({told}): save them again, with numbers alone") from error


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}: {NO_STRING}")
    try:
        return load_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
