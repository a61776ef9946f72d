"""Command lines of config files and overrides, read into one configuration."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from adastate.config.compose import compose
from adastate.config.conf_files import FOLDERS, as_file, conf_path
from adastate.config.file_order import check_order
from adastate.config.key_places import key_place
from adastate.config.schema import LIGHTNING, VARIABLES, Config, ConfigError
from adastate.runtime.foreign_words import answer
from adastate.runtime.spelling import likeliest_option, likeliest_word

CHECKPOINTS = ("auto", "last", "best")
"""Of the run folder, by what they are."""


OF_OTHERS = ("--model", "--data", "--text")
"""Blocks whose names are options of other tools, where they stand alone."""

SWITCHES = ("--overwrite", "--print_config")
"""Flags of `adastate fit` that stand alone."""


def read_command(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """Composes the `--config` files and variable overrides of a command line; the other arguments come back.

    `--system longlive` is the stream of conf/systems/longlive.yaml for the size's chunk, below any override.
    """
    files, overrides, rest, system = [], [], [], ""
    words = iter(argv)
    for word in words:
        if word in ("--config", "-c"):
            file = next(words, "")
            files.append(Path("" if file.startswith("--") else file))
        elif word.startswith("--config="):
            files.append(Path(word.partition("=")[2]))
        elif word.partition("=")[0] == "--system":
            system = word.partition("=")[2] if "=" in word else _value_of(word, words)
            if not system:
                raise ConfigError(f"--system needs a name: give one of {', '.join(_systems())}, or leave it out")
        elif is_variable(word) or _names_a_class(word):
            overrides.append(f"{word.partition('=')[0]}={_value_of(word, words)}".removeprefix("--"))
        else:
            rest.append(word)
    if Path() in files:
        raise ConfigError("--config needs a file: give one of conf/, or your own")
    check_order(files)
    if system:
        overrides = [*stream_of_system(system, compose(files, overrides)), *overrides]
    found = compose(files, overrides)
    return dataclasses.replace(
        found, lightning=_from_home(found.lightning), variables=_from_home(found.variables)
    ), rest


def _value_of(word: str, words: Iterator[str]) -> str:
    """What an override sets: what stands after its =, or else the word that follows it."""
    key, equals, value = word.partition("=")
    if equals and not value.strip():
        raise ConfigError(f"{word} is empty: give {key}=VALUE, or {key}=null for nothing")
    if equals:
        return value
    value = next(words, "--")
    if value.startswith("--"):
        raise ConfigError(f"{word} has no value: give {word}=VALUE")
    return value


def check_flags(words: Sequence[str]) -> None:
    """Refuses flags of `adastate fit` that lack what they are about, checkpoints that are not there, and words that
    belong to no flag.

    Raises:
        ConfigError: for the first of them.
    """
    for before, word in pairwise(("", *words, "")):
        flag, equals, value = before.partition("=")
        given = value if equals else word if not word.startswith("--") else ""
        if flag in FOLDERS:
            raise ConfigError(as_file(flag, given, "adastate fit"))
        if flag == "--allow_change" and not given:
            raise ConfigError("--allow_change needs keys: give those that may change, separated by commas")
        if flag == "--overwrite" and equals:
            raise ConfigError(f"{flag} takes no value: leave out {equals}{value}")
        if flag.partition(".")[0] in ("--optimizer", "--lr_scheduler"):
            raise ConfigError(f"{flag}: a stage makes its own; change it by --model.init_args.optimizer.KEY")
        if flag == "--ckpt_path" and not given:
            raise ConfigError("--ckpt_path needs a checkpoint: give auto, last, best, or the folder of one")
        if flag == "--ckpt_path" and given not in (*CHECKPOINTS, "null", "None") and not Path(given).exists():
            near = likeliest_word(given, CHECKPOINTS)
            remedy = f"did you mean {near!r}?" if near else "give auto, last, best, or the folder of one"
            raise ConfigError(f"no checkpoint at {given}; {remedy}")
        takes = before.startswith("--") and not equals and before not in SWITCHES
        if word.startswith("-") and word[1:2] != "-" and "=" in word and not takes:
            raise ConfigError(f"{word!r} has one dash: keys are overridden with two, -{word}")
        if word and not word.startswith("-") and not takes:
            file = word if word.endswith((".yaml", ".yml")) else stage_file(word)
            remedy = f"--config {file}" if file else f"--KEY={word}, and put text with spaces in quotes"
            raise ConfigError(f"{word!r} does not belong to an option: give {remedy}")


def stage_file(word: str) -> str:
    """The file of conf/stages/ or conf/sizes/ that has this name; empty if none has."""
    files = (f"conf/{folder}/{word}.yaml" for folder in ("stages", "sizes"))
    return next((file for file in files if "/" not in word and conf_path(file).is_file()), "")


def _names_a_class(word: str) -> bool:
    """Whether it is --model.class_path or the like, which decides what the other arguments mean."""
    head, *path = word.partition("=")[0].removeprefix("--").split(".")
    return word.startswith("--") and head in ("model", "data") and path[-1:] == ["class_path"]


def _from_home(node: Any) -> Any:
    """`node` with texts such as ~/videos as paths below the home folder, which nothing that is no path begins with."""
    if isinstance(node, dict):
        return {key: _from_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_from_home(value) for value in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~/") else node


def _systems() -> list[str]:
    from adastate.config.systems import system_names  # which composes files here

    return system_names()


def stream_of_system(name: str, config: Config) -> list[str]:
    """The overrides that make the stream of a config another system's."""
    from adastate.config.systems import read_system  # which composes its file here

    stream = config.variables.get("stream") or {}
    if "chunk_frames" not in stream:
        raise ConfigError(f"--system {name} is made for the size's chunk: give --config conf/sizes/... before it")
    system = read_system(name, stream["chunk_frames"])
    found = [f"stream.{key}={json.dumps(value)}" for key, value in dataclasses.asdict(system.spec).items()]
    return found + ([f"size.rope_max_frames={system.rope_max_frames}"] if system.rope_max_frames else [])


def is_variable(argument: str) -> bool:
    """Whether a command-line argument ("--stream.past_frames=6") sets a variable of ours.

    Only a field of these two: commands have flags of the same name, `--teacher causal` say.
    """
    name, _, field = argument.removeprefix("--").partition("=")[0].partition(".")
    return argument.startswith("--") and name in VARIABLES and (bool(field) or name not in ("teacher", "critic"))


def unknown_option(words: Sequence[str], known: Sequence[str], stages: bool = False) -> str:
    """A sentence about the first of `words` that is neither an option nor an override of a stage; empty if none is."""
    heads = [f"--{name}" for name in (*LIGHTNING, *VARIABLES)]
    for before, word in pairwise(("", *words)):
        head = re.split(r"[.=]", word)[0]
        if not word.startswith("-"):
            if before.startswith("--") and "=" not in before:
                continue  # its value
        elif head in heads and (head not in OF_OTHERS or "." in word or not likeliest_option(head, known)):
            continue
        if not word.startswith("-"):
            return f"there is no option {word!r}: values follow their options, and text with spaces needs quotes"
        if remedy := answer(head, known):
            return f"there is no option {head!r}; {remedy}"
        near = likeliest_option(head, known) or likeliest_option(head, heads)
        if stages and not near and (place := key_place(head.lstrip("-"))):
            if place == "ckpt_path":
                return f"there is no option {head!r}: the same command again resumes what is not done; leave it out"
            near = f"--{place}"
        return f"there is no option {word.partition('=')[0]!r}" + (
            f"; did you mean {near!r}?" if near else "; --help lists them"
        )
    return ""
