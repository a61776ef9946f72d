"""Run folders: what is loaded of them computes as in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from adastate.config.schema import ConfigError
from adastate.runtime import run_paths
from adastate.training.load_run import load_student, load_teacher
from adastate.weights import save_weights
from tests.support.tiny import GRID, SIZE, random_net


def written(folder: Path, trainer: dict[str, Any], compute_dtype: str | None = None) -> Path:
    """A run folder of untrained networks."""
    folder.mkdir(exist_ok=True)
    for name in ("student", "teacher"):
        save_weights(random_net(), folder / f"{name}.safetensors")
    codec = {"class_path": "adastate.encoders.TinyCodec", "init_args": {"weights": None, "channels": SIZE.channels}}
    width = {"tokens": SIZE.text_tokens, "width": SIZE.text_width}
    shared = {"size": asdict(SIZE), "compute_dtype": compute_dtype}
    student = {
        **shared, "codec": codec, "text": {"class_path": "adastate.encoders.TinyText", "init_args": width},
        "stream": {"chunk_frames": 3, "denoising_steps": [1000, 500]}, "latent_size": list(GRID),
        "rollout_frames": 6, "weights": "gone",
    }  # fmt: skip
    teacher = {**shared, "weights": str(folder / "teacher.safetensors"), "average": None}
    parts = {
        "student": ("adastate.training.student.Student", student),
        "teacher": ("adastate.training.teacher.Teacher", teacher),
    }
    model = {name: {"class_path": path, "init_args": node} for name, (path, node) in parts.items()}
    (folder / "distill").mkdir()
    config = {"trainer": trainer, "model": {"init_args": model}}
    (folder / "distill" / "config.yaml").write_text(json.dumps(config, default=list))
    return folder


@pytest.mark.parametrize(
    ("precision", "compute", "held"),
    [("bf16-mixed", None, torch.bfloat16), ("bf16-mixed", "bfloat16", torch.float32), ("32-true", None, torch.float32),
     (None, None, torch.float32), (32, None, torch.float32)],
)  # fmt: skip
def test_networks_of_a_run_in_bfloat16_are_held_in_it(
    precision: Any, compute: str | None, held: torch.dtype, tmp_path: Path
) -> None:
    run = written(tmp_path, {"precision": precision}, compute)
    student, teacher = load_student(run), load_teacher(run)
    assert {p.dtype for net in (student.net, teacher.net) for p in net.parameters()} == {held}
    assert {p.dtype for p in student.codec.parameters()} <= {torch.float32}
    (chunk, _) = student.stream(["a red ball"], 6)
    assert chunk.content.dtype == torch.float32 and chunk.content.isfinite().all()
    assert teacher.sample(["a red ball"], 3, steps=2).isfinite().all()


def test_a_frozen_student_is_there_once(tmp_path: Path) -> None:
    student = load_student(written(tmp_path, {}))
    for mine, averaged in zip(student.net.parameters(), student.ema.net.parameters(), strict=True):
        assert mine.data_ptr() == averaged.data_ptr()


def test_bfloat16_gives_the_same_stream_within_rounding(tmp_path: Path) -> None:
    made = []
    for precision in ("32-true", "bf16-mixed"):
        (tmp_path / precision).mkdir()
        student = load_student(written(tmp_path / precision, {"precision": precision}))
        made.append(torch.cat([c.content for c in student.stream(["a red ball"], 12)], 1))
    assert 0 < (made[1] - made[0]).norm() / made[0].norm() < 2e-2


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_a_run_folder_can_be_moved(tmp_path: Path, stored: bool, copied: bool) -> None:
    """With paths relative to it as they are stored, and with older ones, which name the place where it lay."""
    run = written(tmp_path / "old", {"default_root_dir": str(tmp_path / "old" / "distill")})
    if stored:
        path = run / "distill" / "config.yaml"
        path.write_text(yaml.safe_dump(run_paths.stored_paths(yaml.safe_load(path.read_text()), run)))
        assert str(run) not in path.read_text()
    moved = tmp_path / "else where" / "new"
    moved.parent.mkdir()
    shutil.copytree(run, moved)
    save_weights(random_net(seed=8), run / "teacher.safetensors")  # a copy does not take what lies at its first place
    if not copied:
        shutil.rmtree(run)
    teacher = load_teacher(moved)
    for name, weight in random_net().state_dict().items():
        assert torch.equal(teacher.net.state_dict()[name], weight), name
    (chunk,) = load_student(moved).stream(["a red ball"], 3)
    assert chunk.content.isfinite().all()


def test_a_folder_of_something_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder: it has no distill"):
        load_student(tmp_path)


@pytest.mark.parametrize(
    ("codec", "refused"),
    [
        ({"class_path": "planted.Codec"}, "planted.Codec"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "os.system"),
        ({"class_path": "torch.hub.load"}, "torch.hub.load"),
        ({"class_path": "torch.load"}, "torch.load"),
        ({"class_path": "adastate.launch.process_group.subprocess.Popen"}, "adastate.launch.process_group.subprocess"),
        ({"class_path": "adastate.encoders.TinyCodec", "init_args": {"a": {"class_path": "planted.A"}}}, "planted.A"),
        ({"class_path": 3}, "3"),
        ("planted.Codec", "planted.Codec"),
        ("subprocess.Popen", "subprocess.Popen"),
    ],
)  # fmt: skip
def test_a_class_from_elsewhere_is_refused_before_it_is_imported(
    codec: Any, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADASTATE_TRUST_CODE", raising=False)
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    run = written(tmp_path / "run", {})
    path = run / "distill" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["student"]["init_args"]["codec"] = codec
    path.write_text(yaml.safe_dump(config))
    for load in (load_student, load_teacher):
        with pytest.raises(ConfigError, match=f"names {refused}.* give --trust-code if you know it"):
            load(run)
    assert not (tmp_path / "it ran").exists()
    if codec == {"class_path": "planted.Codec"}:
        monkeypatch.setenv("ADASTATE_TRUST_CODE", "1")
        with pytest.raises((ConfigError, SystemExit)):  # it is no codec, which is found out by importing it
            load_student(run)
        assert (tmp_path / "it ran").exists()
