"""Classes of the user's own, from the working directory, in place of the project's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adastate.config.classes import constructor_parameters
from adastate.config.command_line import read_command
from adastate.config.schema import ConfigError
from adastate.config.validate import check_words
from adastate.main import main
from tests.test_commands import CONFIG

MODULE = """
from typing import Any

from adastate.training.teacher import Teacher


class Louder(Teacher):
    def __init__(self, loudness: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Alone:
    def __init__(self, loudness: float = 1.0) -> None: ...
"""
STAGE = [*CONFIG, "--config", "conf/stages/teacher.yaml"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that only this test knows."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def test_a_class_that_derives_keeps_the_arguments_and_has_its_own(own: str) -> None:
    plain, _ = read_command(STAGE)
    config, rest = read_command([*STAGE, f"--model.class_path={own}.Louder", "--model.init_args.loudness=2"])
    assert config.lightning["model"]["init_args"] == plain.lightning["model"]["init_args"]
    check_words(config, rest)


def test_another_class_loses_them(own: str) -> None:
    config, _ = read_command([*STAGE, "--model.class_path", f"{own}.Alone"])
    assert config.lightning["model"] == {"class_path": f"{own}.Alone"}


def test_a_later_file_may_name_it_too(own: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"model: {{class_path: {own}.Louder, init_args: {{loudness: 3}}}}\n")
    config, _ = read_command([*STAGE, "--config", str(tmp_path / "own.yaml")])
    assert config.lightning["model"]["init_args"]["loudness"] == 3
    assert config.lightning["model"]["init_args"]["text"]["class_path"] == "adastate.encoders.TinyText"


def test_misspelt_arguments_are_told_with_those_of_both_classes(own: str) -> None:
    for word, near in (("loudnes", "loudness"), ("warmupp", "warmup")):
        config, rest = read_command([*STAGE, f"--model.class_path={own}.Louder", f"--model.init_args.{word}=2"])
        with pytest.raises(ConfigError, match=f"has no '{word}'; did you mean '{near}'"):
            check_words(config, rest)


def test_a_class_that_is_not_there(own: str) -> None:
    with pytest.raises(ConfigError, match=r"--model\.class_path=.*: there is no class .*Quieter"):
        read_command([*STAGE, f"--model.class_path={own}.Quieter"])
    with pytest.raises(SystemExit, match=r"trainer\.callbacks: there is no class nowhere\.Callback"):
        main(["fit", *STAGE, "--config", str(_callbacks(Path(sys.path[-1])))])


def _callbacks(folder: Path) -> Path:
    path = folder / "callbacks.yaml"
    path.write_text("trainer: {callbacks: [{class_path: nowhere.Callback}]}\n", encoding="utf-8")
    return path


def test_parameters_end_where_no_others_are_taken() -> None:
    class Base:
        def __init__(self, a: int, b: int = 0) -> None: ...

    class Open(Base):
        def __init__(self, c: int, **kwargs: int) -> None: ...

    class Closed(Open):
        def __init__(self, d: int) -> None: ...

    assert constructor_parameters(Open) == ["c", "a", "b"] and constructor_parameters(Closed) == ["d"]
