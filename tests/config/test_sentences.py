"""Which exceptions are told as a sentence, and which need their traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from adastate.config.mistakes import sentence
from adastate.config.schema import ConfigError
from adastate.config.text import read_yaml


def within(module: str, raises: Callable[..., Any]) -> BaseException:
    """What `raises` ends with, as if it stood in `module`."""
    assert isinstance(raises, FunctionType)
    with pytest.raises(Exception) as caught:
        FunctionType(raises.__code__, {"__name__": module, "__builtins__": __builtins__})()
    return caught.value


def refuses() -> None:
    raise ValueError(
        "a width of 5 is odd: "
        "take an even one"
    )  # fmt: skip


def goes_wrong() -> None:
    dict(zip([1], [1, 2], strict=True))


def goes_wrong_while_it_refuses() -> None:
    try:
        raise ValueError("a width of 5 is odd")
    except ValueError:
        [].pop()


def test_what_our_code_refuses_is_a_sentence() -> None:
    assert sentence(within("adastate.models", refuses)) == "a width of 5 is odd: take an even one"
    assert sentence(within("datamodules.clips", refuses)) is not None


@pytest.mark.parametrize("raises", [goes_wrong, goes_wrong_while_it_refuses])
def test_a_bug_in_our_code_keeps_its_traceback(raises: Callable[[], None]) -> None:
    assert sentence(within("adastate.models", raises)) is None


def test_what_others_raise_keeps_its_traceback_unless_it_is_about_us() -> None:
    assert sentence(within("numpy.linalg", refuses)) is None
    wrapped = RuntimeError("many types were tried")
    wrapped.__cause__ = within("adastate.models", refuses)
    assert sentence(wrapped) == "a width of 5 is odd: take an even one"


def test_a_logger_whose_package_is_missing_is_told() -> None:
    """In the words of Lightning's requirement, wherever jsonargparse has wrapped them."""
    told = "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"
    wrapped = ValueError(f"Parser key trainer.logger:\n  - {told}\n  - Expected a <class 'bool'>")
    for error in (ModuleNotFoundError(told), wrapped):
        assert sentence(error) == "the configuration needs wandb: pip install wandb"


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        ("no/such/file", "no/such/file: No such file or directory; check its name"),
        ("README.md/x", "README.md/x: Not a directory; a file is where a folder has to be"),
        ("conf", "conf: Is a directory; it is a folder, but a file is required"),
        ("x" * 300, "File name too long; give a shorter name"),
    ],
)
def test_what_the_system_says_of_a_file_is_a_sentence_with_the_remedy(opened: str, told: str) -> None:
    with pytest.raises(OSError) as caught:
        Path(opened).read_text(encoding="utf-8")
    assert told in str(sentence(caught.value))


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    assert sentence(ConnectionResetError(104, "Connection reset by peer")) is None


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ETIMEDOUT, TimeoutError, "a file of the run, or a server that was asked; check that the disk is"),
        (errno.ESTALE, OSError, "a file of the run; check that the disk is still there"),
        (errno.EIO, OSError, "a file of the run; check that the disk is still there"),
        (errno.ENOSPC, OSError, "a file of the run; make room there"),
    ],
)
def test_a_disk_that_fails_in_an_open_file_is_a_sentence(number: int, kind: type[OSError], told: str) -> None:
    """Reads and writes do not tell the name of what they failed on."""
    error = OSError(number, "said of it")
    assert type(error) is kind and told in str(sentence(error))


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(*_: Any, **__: Any) -> str:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    file = tmp_path / "mine.yaml"
    file.touch()
    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read \(Connection timed out\)"):
        read_yaml(file, {}, {})
