"""Cameras and keys of other projects, read into ours: poses, intrinsics and actions as NumPy files."""

from adastate.cameras.camera_track import CameraTrack
from adastate.cameras.readers import FORMATS, CameraControl, read_control, read_rows

__all__ = ["FORMATS", "CameraControl", "CameraTrack", "read_control", "read_rows"]
