"""A camera's way, in the axes that all readers turn to: OpenCV's, x to the right, y down, z ahead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adastate.stream.action_schedule import KEYS

Array = NDArray[np.float32]
POSES, INTRINSICS = "poses.npy", "intrinsics.npy"
TURN = 0.05
"""Degrees of a step from which on it counts as a turn."""


@dataclass(frozen=True)
class CameraTrack:
    """Where a camera stands in every frame.

    Attributes:
        poses: camera-to-world `[F, 4, 4]` float32; the first one is the identity.
        intrinsics: `[F, 4]` float32, fx, fy, cx, cy in pixels; None where nothing is said.
    """

    poses: Array
    intrinsics: Array | None = None

    @classmethod
    def of(cls, camera_to_world: NDArray[Any], intrinsics: NDArray[Any] | None = None) -> CameraTrack:
        """From poses in any world: the first camera becomes its origin.

        Raises:
            ValueError: no such matrices, or another number of intrinsics.
        """
        poses = np.asarray(camera_to_world, np.float64)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
            raise ValueError(f"camera poses have shape {list(poses.shape)}, and not [F, 4, 4]")
        turns, last = poses[:, :3, :3], np.array([0.0, 0.0, 0.0, 1.0])
        straight = np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-3)
        if not np.isfinite(poses).all() or not straight or not (np.linalg.det(turns) > 0).all():
            raise ValueError(
                "camera poses contain a matrix that is not a rotation: do they have another layout than the given one?"
            )
        if not np.allclose(poses[:, 3], last, atol=1e-4):
            raise ValueError("the last row of a camera pose is not 0 0 0 1: are the matrices transposed?")
        if intrinsics is not None:
            intrinsics = np.asarray(intrinsics, np.float32)
            if intrinsics.shape == (4,):
                intrinsics = np.repeat(intrinsics[None], len(poses), 0)
            if intrinsics.shape != (len(poses), 4):
                raise ValueError(f"intrinsics have shape {list(intrinsics.shape)} for {len(poses)} poses, not [F, 4]")
        return cls((np.linalg.inv(poses[0]) @ poses).astype(np.float32), intrinsics)

    def keys(self) -> NDArray[np.uint8]:
        """Keys `[F, 8]` of KEYS that make these steps: row i leads from pose i to the next, the last row holds.

        A move counts along an axis within 60 degrees of it. Moves up and down, and rolls, have no key.
        """
        poses = self.poses.astype(np.float64)
        found = np.zeros((len(poses), len(KEYS)), np.uint8)
        if len(poses) == 1:
            return found
        steps = np.linalg.inv(poses[:-1]) @ poses[1:]
        moves, turns = steps[:, :3, 3], steps[:, :3, :3]
        lengths = np.linalg.norm(moves, axis=1)
        far = lengths > max(1e-6, 1e-3 * lengths.max())
        right, ahead = (moves[:, axis] / np.where(far, lengths, np.inf) for axis in (0, 2))
        yaw = np.degrees(np.arctan2(turns[:, 0, 2], turns[:, 2, 2]))
        pitch = np.degrees(np.arcsin(np.clip(-turns[:, 1, 2], -1, 1)))
        held = {
            "w": ahead > 0.5, "s": ahead < -0.5, "d": right > 0.5, "a": right < -0.5,
            "l": yaw > TURN, "j": yaw < -TURN, "i": pitch > TURN, "k": pitch < -TURN,
        }  # fmt: skip
        for column, key in enumerate(KEYS):
            found[:-1, column] = held[key]
        found[-1] = found[-2]
        return found

    def save(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / POSES, self.poses)
        if self.intrinsics is None:
            return [folder / POSES]
        np.save(folder / INTRINSICS, self.intrinsics)
        return [folder / POSES, folder / INTRINSICS]
