"""Words of a command line for the trainer's callbacks and loggers, which are classes: `--trainer.callbacks+=Timer`."""

from __future__ import annotations

from adastate.config.classes import ABSENT, derives, described_class
from adastate.config.described import described
from adastate.config.schema import ConfigError
from adastate.config.text import read_value
from adastate.runtime.spelling import likeliest_word

KINDS = {
    "trainer.callbacks": ("callback", "lightning.pytorch.Callback", ("callbacks", "lightning.pytorch.callbacks")),
    "trainer.logger": ("logger", "lightning.pytorch.loggers.Logger", ("lightning.pytorch.loggers",)),
}
"""Of a key: what its classes are, what they derive from, and where those are that go by their names alone."""


def check_trainer_class(word: str, key: str, given: str) -> None:
    """Refuses `given` where it names no class of the kind that `key` takes, or would drop the callbacks of a stage.

    Args:
        word: as it was typed.
        key: "trainer.callbacks", or with a + at its end where the class is added.

    Raises:
        ConfigError: with the class that may be meant, or how to add one.
    """
    name, adds = key.rstrip("+"), key.endswith("+")
    if name not in KINDS:
        return
    value = read_value(given, word)
    if isinstance(value, dict) and name == "trainer.callbacks" and not adds:
        raise ConfigError(f"{word}: a stage has a list of callbacks: --{name}+={given} adds one")
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str) or (adds and not isinstance(part, dict)):
            path = _class_path(word, name, str(part))
            if name == "trainer.callbacks" and part is value and not adds:
                raise ConfigError(
                    f"{word} would stand in the place of all callbacks of the stage, which save its checkpoints, too: "
                    f"--{name}+={path} adds it"
                )


def _class_path(word: str, name: str, given: str) -> str:
    """The path of the class that is given by its path, or by its name alone."""
    what, base, packages = KINDS[name]
    known = {part: f"{package}.{part}" for package in packages for part in described(f"{package}.__all__")}
    path = given if "." in given else known.get(given, "")
    if not path or not _is_there(path):
        near = likeliest_word(given.rpartition(".")[2], known)
        hint = f"did you mean {known[near]}? " if near else ""
        key = f"--{name}+=" if what == "callback" else f"--{name}="
        raise ConfigError(f"{word}: there is no {what} {given}; {hint}{key} takes the path of a class, package.Class")
    if not derives(path, base):
        raise ConfigError(f"{word}: {path} cannot be a {what}: it is no {base.rpartition('.')[2]}")
    return path


def _is_there(path: str) -> bool:
    try:
        described_class(path)
    except ABSENT:
        return False
    return True
