"""YAML that means harm is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adastate.config.run_folder import run_config
from adastate.config.schema import ConfigError
from adastate.config.text import read_value, read_yaml
from adastate.runtime import plain_yaml

LEVELS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
BOMBS = {
    "aliases": (f"a0: &a0 [x]\n{LEVELS}", "aliases stand for more than"),
    "merged": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)),
        "aliases stand for more than",
    ),
    "itself": ("a: &a [*a]", "stands for what it is a part of"),
    "nested": ("[" * 3_000, "nested too deep"),
    "digits": (f"a: {'1' * 5000}", "a number of 5000 characters"),
    "to the base of 60": (f"a: 1{':1' * 50_000}", "a number of 100001 characters"),
    "long": ("a: " + "x" * (plain_yaml.MOST_BYTES + 1), "at most"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    text, told = BOMBS[kind]
    with pytest.raises(yaml.YAMLError, match=told):
        plain_yaml.load_yaml(text)
    (tmp_path / "distill").mkdir()
    for file in (tmp_path / "a.yaml", tmp_path / "distill" / "config.yaml"):
        file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_yaml(tmp_path / "a.yaml", {}, {})
    with pytest.raises(ConfigError, match=r"config\.yaml .*train the stage again"):
        run_config(tmp_path, "distill")


def test_a_bomb_on_the_command_line_is_refused() -> None:
    nested = "&a [x]"
    for _ in range(9):
        nested = f"[{nested}]"
    with pytest.raises(ConfigError, match="part of"):
        read_value("[&a [*a]]", "--stream")
    assert read_value(nested, "--stream")


def test_honest_aliases_and_merges_are_read() -> None:
    assert plain_yaml.load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}
    assert plain_yaml.load_yaml("") is None
