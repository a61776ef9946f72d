"""A run folder as `make train` leaves one, with the bundled student in it, and a Hub on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from PIL import Image

from adastate.config.command_line import read_command
from adastate.models.video_network import Size
from adastate.runtime import run_paths
from adastate.weights import load_network, save_weights
from tests.support.hub_stand_in import TOKEN, StandIn, hub_stand_in


def made_run(folder: Path, *words: str) -> Path:
    """`words` are overrides of its distillation."""
    files = ("base", "sizes/tiny", "stages/distill", "stages/distill_tiny")
    config, _ = read_command(
        [w for f in files for w in ("--config", f"conf/{f}.yaml")] + [f"--run.dir={folder}", *words]
    )
    for name in ("distill", "rollouts/6x", "rollouts/1x", "shards", "stages", "distill/checkpoints"):
        (folder / name).mkdir(parents=True)
    saved = run_paths.stored_paths({"seed_everything": 0, **config.lightning}, folder)
    (folder / "distill/config.yaml").write_text(yaml.safe_dump(saved, sort_keys=False))
    stream = config.lightning["model"]["init_args"]["student"]["init_args"]["stream"]
    save_weights(load_network(Size(), "tiny_student"), folder / "student.safetensors", half=True, stream=stream)
    (folder / "distill/checkpoints/large").write_bytes(b"not for others")
    rows = {"student, 1x": {"heading": 1.0, "residual": 0.1}, "student, last second of 6x": {"heading": 0.84}}
    told = {"protocol": {"rollouts": 32, "horizon": 6, "seed": 4242}, "rows": rows}
    (folder / "evaluation.json").write_text(json.dumps(told))
    stage = {"stage": "shards", "seconds": 90.0, "losses": {}, "result": f"256 clips in {folder}/shards"}
    (folder / "stages.json").write_text(json.dumps([stage]))
    index = {"settings": {"kind": "world", "world": "plain", "seed": 0}, "shards": [{"name": "a.tar", "samples": 256}]}
    (folder / "shards/index.json").write_text(json.dumps(index))
    for length in ("6x", "1x"):
        Image.new("RGB", (8, 4), (200, 20, 20)).save(folder / f"rollouts/{length}/strip.png")
    return folder


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A run whose distillation had another configuration."""
    file = run / "distill/config.yaml"
    config = yaml.safe_load(file.read_text())
    edit(config)
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return run


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("hub") / "run")


@pytest.fixture
def run(kept_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept_run, tmp_path / "run"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """One that knows the token of this process, whose client keeps nothing outside of the test's folder."""
    constants = huggingface_hub.constants
    with hub_stand_in() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home/token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found
