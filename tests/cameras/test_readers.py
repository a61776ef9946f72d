"""Cameras and keys of other projects mean here what they mean there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adastate.cameras import CameraTrack, read_control, read_rows
from adastate.main import main
from adastate.stream.action_schedule import KEYS


def turned(axis: str, degrees: float) -> NDArray[np.float64]:
    """A pose turned to the right (y) or up (x), in OpenCV's axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]] if axis == "y" else [[1, 0, 0], [0, c, -s], [0, s, c]]
    return pose


def moved(right: float, down: float, ahead: float) -> NDArray[np.float64]:
    pose = np.eye(4)
    pose[:3, 3] = right, down, ahead
    return pose


STEPS = {
    "w": moved(0, 0, 0.1), "s": moved(0, 0, -0.1), "a": moved(-0.1, 0, 0), "d": moved(0.1, 0, 0),
    "i": turned("x", 3), "k": turned("x", -3), "j": turned("y", -3), "l": turned("y", 3),
}  # fmt: skip
"""What each key does to a camera."""


def flown(word: str) -> NDArray[np.float64]:
    """Poses of one key after the other, from some place in the world."""
    poses = [moved(3, 1, 2) @ turned("y", 40)]
    for key in word:
        poses.append(poses[-1] @ STEPS[key])
    return np.array(poses)


def held(keys: NDArray[np.uint8]) -> str:
    return " ".join("".join(key for key, on in zip(KEYS, row, strict=True) if on) or "-" for row in keys)


WAY = "wsadikjl"
TOLD = f"{' '.join(WAY)} l"
"""The last row holds."""


def test_poses_tell_their_keys_and_begin_at_the_identity() -> None:
    track = CameraTrack.of(flown(WAY))
    assert held(track.keys()) == TOLD and np.allclose(track.poses[0], np.eye(4), atol=1e-6)
    assert track.poses.dtype == np.float32
    diagonal = CameraTrack.of(np.array([np.eye(4), moved(0.1, 0, 0.1) @ turned("y", 2)]))
    assert held(diagonal.keys()) == "wdl wdl"
    assert held(CameraTrack.of(np.array([np.eye(4), moved(0, -1, 0), moved(0, -1, 0)])).keys()) == "- - -"


def test_a_folder_of_lingbot_is_ours(tmp_path: Path) -> None:
    source = tmp_path / "lingbot"
    source.mkdir()
    np.save(source / "poses.npy", flown(WAY).astype(np.float32))
    np.save(source / "intrinsics.npy", np.array([500, 510, 416, 240], np.float32))
    main(["cameras", str(source), str(tmp_path / "out"), "--format", "lingbot"])
    assert np.load(tmp_path / "out/intrinsics.npy").shape == (9, 4)
    assert held(np.load(tmp_path / "out/camera.actions.npy")) == TOLD
    again = read_control(str(tmp_path / "out"), "memobench")
    assert again.cameras is not None and np.allclose(
        again.cameras.poses, np.load(tmp_path / "out/poses.npy"), atol=1e-6
    )


def test_hy_worldplay_s_latents_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    camera = [[970.0, 0, 960], [0, 960, 540], [0, 0, 1]]
    poses = flown(WAY + "wwww")
    order = sorted(range(len(poses)), key=str)  # "10" before "2"
    told = {str(i): {"extrinsic": poses[i].tolist(), "K": camera} for i in order}
    (tmp_path / "pose.json").write_text(json.dumps(told))
    found = read_control(str(tmp_path / "pose.json"), "hy-worldplay")
    assert held(found.keys) == f"{' '.join(WAY)} w w w w w" and found.cameras is not None
    assert found.cameras.intrinsics is not None and found.cameras.intrinsics[0].tolist() == [970, 960, 960, 540]
    assert held(read_control("w-3, right-0.5, up-2, left-1.9", "hy-worldplay").keys) == "w w w i i j"


def test_minwm_s_views_are_world_to_camera_and_its_intrinsics_parts_of_the_picture(tmp_path: Path) -> None:
    views = np.linalg.inv(flown(WAY))[None]
    camera = np.repeat(np.array([[[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1.0]]]), 9, 0)[None]
    torch.save({"viewmats": torch.tensor(views), "Ks": torch.tensor(camera)}, tmp_path / "x.pt")
    found = read_control(str(tmp_path / "x.pt"), "minwm", (832, 480))
    assert held(found.keys) == TOLD, "a is left, as in its code and not its comments"
    assert found.cameras is not None and found.cameras.intrinsics is not None
    assert np.allclose(found.cameras.intrinsics[3], [416, 432, 416, 240])
    with pytest.raises(ValueError, match="give --size 832x480"):
        read_control(str(tmp_path / "x.pt"), "minwm")
    assert held(read_control("a*2,w,jw*2", "minwm").keys) == "a a w wj wj"


def test_matrix_game_s_conditions(tmp_path: Path) -> None:
    keyboard = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    mouse = [[0, 0], [0, 0], [0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]]
    told = {"keyboard_condition": keyboard, "mouse_condition": mouse}
    (tmp_path / "x.json").write_text(json.dumps(told))
    np.savez(tmp_path / "x.npz", **{name: np.array(rows, np.float32)[None] for name, rows in told.items()})
    for file in ("x.json", "x.npz"):
        assert held(read_control(str(tmp_path / file), "matrix-game").keys) == "w s ai dk l j"


def test_sana_s_string_is_read_as_diffusers_rolls_it_out(tmp_path: Path) -> None:
    cam_utils = pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils", reason="diffusers is not installed")
    text = "w-2,jw-2,a-1,s-1,d-1,i-1,l-2,k-1,none-1"
    own = read_control(text, "sana-wm").keys
    assert held(own) == "w w wj wj a s d i l l k -"
    poses = cam_utils.action_string_to_c2w(text)
    np.save(tmp_path / "c2w.npy", poses)
    found = read_control(str(tmp_path / "c2w.npy"), "sana-wm")
    assert held(found.keys) == f"{held(own)} -" and len(found.keys) == len(poses)


def test_wrbench_s_grammar_and_its_sidecar(tmp_path: Path) -> None:
    assert held(read_control("yaw:left:60@2,static@1,yaw:right:60@2,pitch:up:5@1", "wrbench").keys) == "j j - l l i"
    np.save(tmp_path / "a.mp4.target_c2w.npy", flown("jjll"))
    assert held(read_control(str(tmp_path / "a.mp4.target_c2w.npy"), "wrbench").keys) == "j j l l l"


def test_vllm_omni_s_axes_have_y_up(tmp_path: Path) -> None:
    """Up, ahead and to the right, then turned to the right and up about Unity's axes."""

    def about(axis: tuple[int, int, int], degrees: float) -> list[float]:
        half = np.radians(degrees) / 2
        return [*(np.array(axis) * np.sin(half)).tolist(), float(np.cos(half))]

    data: list[dict[str, Any]] = [
        {"translation": [0, 0, 0], "rotation": about((0, 1, 0), 0)},
        {"translation": [0, 2, 1], "rotation": about((0, 1, 0), 0)},
        {"translation": [0, 2, 1], "rotation": about((0, 1, 0), 10)},
        {"translation": [0, 2, 1], "rotation": about((0, 1, 0), 10)},
    ]
    events = [{"interaction": {"event": {"multi_modal_data": {"camera": {"mode": "target", "data": d}}}}} for d in data]
    (tmp_path / "x.json").write_text(json.dumps([*data[:2], *events[2:]]))
    found = read_control(str(tmp_path / "x.json"), "vllm-omni")
    assert found.cameras is not None
    assert found.cameras.poses[1, :3, 3].tolist() == pytest.approx([0, -2, 1]), "up is -y here"
    assert np.allclose(found.cameras.poses[2, :3, 2], [np.sin(np.radians(10)), 0, np.cos(np.radians(10))], atol=1e-6)
    assert held(found.keys) == "- l - -", "ahead is less than half of that move"
    (tmp_path / "x.json").write_text(json.dumps([{"translation": [0, 0, 0], "rotation": about((1, 0, 0), -10)}]))
    up = read_control(str(tmp_path / "x.json"), "vllm-omni").cameras
    assert up is not None and np.allclose(up.poses[0], np.eye(4))


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("w3", "hy-worldplay", "'w3' is not part of a key string such as"),
        ("q-3", "sana-wm", "asks for 'q'"),
        ("w-0.5", "hy-worldplay", "holds no key for a whole frame"),
        ("roll:left:60@4", "wrbench", "a movement that no key makes"),
        ("nowhere.json", "matrix-game", "there is no file nowhere.json"),
        ("nowhere", "lingbot", "there is no folder nowhere: give the folder that holds poses.npy"),
    ],
)
def test_what_is_amiss_is_told(source: str, kind: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_control(source, kind)


@pytest.mark.parametrize(
    ("poses", "sentence"),
    [
        (np.zeros((3, 4, 3)), r"shape \[3, 4, 3\], and not \[F, 4, 4\]"),
        (2 * np.eye(4)[None], "not a rotation"),
        (np.diag([1.0, -1, 1, 1])[None], "not a rotation"),
        (moved(1, 2, 3).T[None], "transposed"),
    ],
)
def test_matrices_of_another_layout_are_told(poses: NDArray[np.float64], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CameraTrack.of(poses)


def test_keys_alone_go_where_a_stream_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fly.actions.npy"
    main(["cameras", "w-2,jw-1", str(out), "--format", "sana-wm"])
    assert "3 rows; keys that are held: w, j" in capsys.readouterr().out
    assert read_rows(out, 8).sum() == 4 and read_rows(out, 6).shape == (3, 6)
    with pytest.raises(ValueError, match=r"holds j; this network is steered by 4 actions"):
        read_rows(out, 4)
    np.save(out, np.full((2, 8), 0.5))
    with pytest.raises(ValueError, match="holds no actions"):
        read_rows(out, 8)
    with pytest.raises(SystemExit, match="write width and height, 832x480"):
        main(["cameras", "w*2", str(out), "--format", "minwm", "--size", "big"])
