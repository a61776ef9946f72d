"""Systems by name or file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adastate.config.schema import ConfigError
from adastate.config.systems import read_system, system_names


@pytest.mark.parametrize("name", system_names())
@pytest.mark.parametrize("chunk", [1, 3])
def test_every_system_streams_with_chunks_of_the_network(name: str, chunk: int) -> None:
    system = read_system(name, chunk)
    assert system.name == name and system.spec.chunk_frames == chunk
    assert len(system.description) > 100 and "#" not in system.description[:1]


def test_counts_of_frames_are_those_of_the_chunk() -> None:
    assert read_system("longlive", 3).spec.past_frames == 6
    assert read_system("longlive", 1).spec.past_frames == 2
    assert read_system("rolling_sink", 1).rope_max_frames == 8192
    assert read_system("longlive", 1).rope_max_frames == 0


def test_systems_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "longlive" in system_names()
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\n# Two lines.\nstream: {past_frames: 6}\n# no more\n")
    system = read_system(file, 3)
    assert (system.name, system.description, system.spec.past_frames) == ("mine", "Mine. Two lines.", 6)


def test_mistakes_are_answered_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match="no system 'long-live'; did you mean 'longlive'"):
        read_system("long-live", 3)
    with pytest.raises(ConfigError, match="known are adastate, "):
        read_system("zzzzzzzzzzzzzzz", 3)
    with pytest.raises(ConfigError, match="no config file"):
        read_system(file, 3)
    for text, sentence in (
        ("size: {rope_max_frames: 8}\n", "no stream block"),
        ("stream:\n  past_frame: 6\n", "line 2: stream has no 'past_frame'; did you mean 'past_frames'"),
        ("stream: {anchor: none, state_frames: 3}\n", "mine.yaml, line 1: anchor is 'none' with state_frames 3"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            read_system(file, 3)


def test_what_is_not_as_published_is_marked_and_explained() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/systems.md").read_text()
    words = {word for row in re.findall(r"^\| (`.*?) \|", page, re.M) for word in re.findall(r"`(\w+)`", row)}
    marked = {name for name in system_names() if "[D]" in read_system(name, 3).description}
    assert marked == words & {*system_names()}
    assert {"self_forcing", "causal_forcing", "causal_forcing_pp", "causvid"} <= marked
