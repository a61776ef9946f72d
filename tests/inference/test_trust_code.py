"""A run folder that names a class from elsewhere is refused by the commands that read it, but for --trust-code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from adastate.config.compose import compose
from adastate.config.schema import ConfigError
from adastate.config.trusted import check_trusted
from adastate.main import main
from adastate.weights import BUILTIN

MINE = """
from pathlib import Path

from adastate.encoders import TinyCodec

Path(__file__).with_name("it ran").touch()


class Mine(TinyCodec):
    pass
"""
STAGE = [Path(f"conf/{name}.yaml") for name in ("base", "sizes/tiny", "stages/distill", "stages/distill_tiny")]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled tiny student in a run folder whose codec is a class of the user's own."""
    monkeypatch.delenv("ADASTATE_TRUST_CODE", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_codec.py").write_text(MINE)
    run = tmp_path / "run"
    (run / "distill").mkdir(parents=True)
    config = compose(STAGE, [f"run.dir={run}"]).lightning
    config["model"]["init_args"]["student"]["init_args"]["codec"]["class_path"] = "my_codec.Mine"
    (run / "distill" / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(BUILTIN["tiny_student"], run / "student.safetensors")
    return run


@pytest.mark.parametrize("command", ["generate --prompt fog --run", "evaluate --run", "compare --run", "live --run"])
def test_it_is_refused_before_it_is_imported(command: str, run: Path) -> None:
    with pytest.raises(SystemExit, match=r"names my_codec\.Mine, which is code from outside .*; give --trust-code if"):
        main([*command.split(), str(run)])
    assert not run.with_name("it ran").exists()


def test_with_the_flag_it_is_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADASTATE_TRUST_CODE", "")  # so that what the command sets is taken back
    out = run.with_name("out")
    words = ["--prompt", "a slow flight north over a green meadow", "--seconds", "0.3", "--out", str(out)]
    main(["generate", "--run", str(run), *words, "--trust-code"])
    assert run.with_name("it ran").exists() and len(list(out.glob("*.mp4"))) == 1
    assert os.environ["ADASTATE_TRUST_CODE"] == "1", "the processes that it starts trust as much"


@pytest.mark.parametrize(
    ("path", "trusted"),
    [
        ("torch.nn.Linear", True),
        ("lightning.pytorch.callbacks.ModelCheckpoint", True),
        ("lightning.pytorch.loggers.tensorboard.TensorBoardLogger", True),
        ("adastate.distributed.ZeroStrategy", True),
        ("datamodules.clips.ShardData", True),
        ("torch.nn.functional.torch.load", False),
        ("lightning.pytorch.trainer.connectors.signal_connector.subprocess.Popen", False),
        ("lightning.pytorch.cli.os.popen", False),
        ("torch.hub.load", False),
        ("adastate.runtime.signals.subprocess.Popen", False),
    ],
)
def test_what_a_module_has_imported_is_not_its_own(path: str, trusted: bool, tmp_path: Path) -> None:
    node = {"trainer": {"callbacks": [{"class_path": path, "init_args": {"args": "ls"}}]}}
    if trusted:
        check_trusted(node, tmp_path)
    else:
        with pytest.raises(ConfigError, match="which is code from outside this project, Lightning and torch"):
            check_trusted(node, tmp_path)
