"""What sources tell of classes is what the classes tell themselves."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from pathlib import Path

import lightning.pytorch as pl
import pytest

from adastate.config.classes import class_at, constructor_hints, constructor_parameters, derives, described_class
from adastate.config.described import Unreadable, described

CONF = "\n".join(file.read_text(encoding="utf-8") for file in Path("conf").rglob("*.yaml"))
NAMED = re.findall(r"class_path: *([\w.]+)", CONF)
PATHS = sorted({*NAMED, "lightning.pytorch.Trainer", "lightning.pytorch.callbacks.ModelCheckpoint"})
OF_A_USER = """
import argparse
from typing import Optional, Union

from unheard_of import Something
from adastate.training.teacher import Teacher

if True:
    class Base:
        def __init__(self, low: "Optional[int]" = None, *rest: int) -> None: ...

class Mine(Base):
    def __init__(self, number: int, thing: Something, kind: Union[str, int] = "a", **kwargs) -> None:
        super().__init__(**kwargs)

class Louder(Teacher): ...

class Stranger(Something): ...
"""


def in_words(hint: object) -> str:
    """A type, with classes by their names alone: those that were described are not those that were imported."""
    if inspect.isclass(hint) and not typing.get_args(hint):
        return hint.__name__
    parts, kind = [in_words(part) for part in typing.get_args(hint)], typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):  # whose order is that of whichever was made first in the process
        return f"any of {sorted(parts)}"
    return f"{kind}[{', '.join(parts)}]"


@pytest.mark.parametrize("path", PATHS)
def test_arguments_and_their_types_are_those_of_the_class(path: str) -> None:
    real, read = class_at(path), described_class(path)
    assert read is not real, "it was imported"
    assert constructor_parameters(read) == constructor_parameters(real)
    expected = constructor_hints(real)
    for name, hint in constructor_hints(read).items():
        if name in constructor_parameters(real) and "Tensor" not in str(hint):
            assert in_words(hint) == in_words(expected[name]), name


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"sources_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OF_A_USER, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def test_a_class_of_a_user_s_own_is_read_without_what_it_imports(own: str) -> None:
    read = described_class(f"{own}.Mine")
    assert constructor_parameters(read) == ["number", "thing", "kind", "low"]
    hints = constructor_hints(read)
    assert (hints["number"], hints["kind"], hints["thing"]) == (int, str | int, "Something")
    assert own not in sys.modules and derives(f"{own}.Louder", "adastate.training.teacher.Teacher")
    assert not derives(f"{own}.Mine", "adastate.training.teacher.Teacher")


def test_what_a_source_does_not_tell_is_imported(own: str) -> None:
    with pytest.raises(Unreadable):
        described(f"{own}.Stranger")
    with pytest.raises(ImportError, match="unheard_of"):
        described_class(f"{own}.Stranger")
    with pytest.raises(AttributeError, match=r"adastate\.training\.distill has no Distil"):
        described("adastate.training.distill.Distil")
    with pytest.raises(ImportError, match=r"no module adastate\.training\.distil"):
        described("adastate.training.distil.Distill")


def test_bases_reach_into_other_packages() -> None:
    read = described_class("adastate.training.distill.Distill")
    assert pl.LightningModule.__name__ in {part.__name__ for part in read.__mro__}
