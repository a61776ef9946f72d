"""Config files run no code: what they name is built only where the command line's types allow it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adastate.config.compose import compose
from adastate.config.schema import ConfigError

ROOT = Path(__file__).parents[1]
STAGE = ["conf/base.yaml", "conf/sizes/tiny.yaml", "conf/stages/init.yaml"]


def refused(tmp_path: Path, text: str) -> str:
    """What `adastate fit` says of a config with `text` laid over the initialisation; nothing may have run."""
    planted, mark = tmp_path / "planted.yaml", tmp_path / "mark"
    planted.write_text(text.replace("MARK", str(mark)))
    files = [word for file in (*STAGE, str(planted)) for word in ("--config", file)]
    command = [
        sys.executable,
        "-m",
        "adastate.main",
        "fit",
        *files,
        f"--run.dir={tmp_path / 'run'}",
        "--trainer.max_steps=0",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode != 0
    assert not mark.exists(), "code ran"
    return found.stdout + found.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {class_path: os.system, init_args: {command: 'touch MARK'}}", "os.system"),
        (
            "model: {init_args: {codec: {class_path: subprocess.Popen, init_args: {args: [touch, MARK]}}}}",
            "subprocess.Popen",
        ),
    ],
)
def test_a_class_of_another_kind_is_not_built(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_tags_of_python_are_no_yaml_here(tmp_path: Path) -> None:
    planted = tmp_path / "planted.yaml"
    planted.write_text(f"run: !!python/object/apply:os.system ['touch {tmp_path / 'mark'}']")
    with pytest.raises(ConfigError, match=r"planted\.yaml, line 1: this is not valid YAML"):
        compose([*map(Path, STAGE), planted])
    assert not (tmp_path / "mark").exists()
