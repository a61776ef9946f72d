"""The command line: `adastate fit`, and the commands that make and watch videos."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from adastate.runtime import atomic, run_paths, secrets, signals, threads
from adastate.runtime.spelling import meant

if TYPE_CHECKING:
    from adastate.config.schema import Config

COMMANDS = {  # name: (module with main(argv), one line of help)
    "fit": ("", "train a stage: adastate fit --config conf/... [--model.x=...] [--stream.y=...]"),
    "train": ("adastate.launch.pipeline", "the whole pipeline, from data to evaluated rollouts"),
    "generate": ("adastate.inference.generate", "checkpoint + prompts + seconds -> mp4, streaming"),
    "live": ("adastate.live.serve", "a page to type a prompt and watch, steer, go back; and a server for clients"),
    "evaluate": ("adastate.evaluation.evaluate", "measure rollouts against their prompts"),
    "compare": (
        "adastate.evaluation.compare",
        "the same weights, prompts and noise under several systems, side by side",
    ),
    "study": ("adastate.study.cli", "the paper's study in miniature: arms x seeds, measured, and a report"),
    "trajectories": ("adastate.inference.write_trajectories", "write the teacher's ODE paths as shards"),
    "plan": ("adastate.plan.cli", "what a stage takes, before it runs: memory, steps, FLOP, what fits"),
    "weights": (
        "adastate.hub.cli",
        "look into checkpoints of any origin, import and export them; push to the Hub, pull from it",
    ),
    "parity": ("adastate.parity.cli", "replay recorded runs of the reference implementations, compare every tensor"),
    "shards": ("datamodules.tools.make_shards", "turn a folder of videos (or a built-in world) into shards"),
}

TRUST = "--trust-code"
"""Of every command that reads a run folder, see adastate/config/trusted.py."""


def fit(argv: list[str]) -> None:
    """Merges the config files, then hands the result to the Lightning CLI with the remaining arguments."""
    from adastate.config.command_line import read_command
    from adastate.config.schema import ConfigError
    from adastate.config.together import check_together
    from adastate.config.validate import check_words

    composed, rest = read_command(argv)
    config = composed.lightning
    if {"-h", "--help"} & set(rest):
        from adastate.config.variables_page import variables_page

        print(variables_page(composed), flush=True)
    else:
        check_words(composed, rest)
        check_together(composed, rest)
        given = {word.partition("=")[0].removeprefix("--") for word in rest}
        if not all(config.get(part) or part in given for part in ("model", "data")):
            raise ConfigError(
                "there is no stage to train: give --config conf/base.yaml, one of conf/sizes/ and one of conf/stages/"
            )
    trainer = config.get("trainer") or {}
    root = trainer.get("default_root_dir")
    if root:
        _require_writable(Path(root))
        _hold(Path(root))
    told = composed.variables.get("run") or {}
    threads.check_threads(told.get("threads"))
    # up to here nothing has imported torch: what the text alone decides is told at once
    from adastate.config.classes import class_at
    from callbacks.checkpointing.ckpt_path import resolve
    from callbacks.protocols import SavesCheckpoints, StopsOnSignals

    nodes = trainer.get("callbacks") or []
    callbacks = [class_at(node["class_path"]) for node in nodes]
    if not any(issubclass(c, StopsOnSignals) for c in callbacks):
        signals.unlisten()  # nothing else handles them
    saving = [node for node, c in zip(nodes, callbacks, strict=True) if issubclass(c, SavesCheckpoints)]
    rest = resolve(rest, Path(root) if root else None, (saving[0].get("init_args") or {}) if saving else None)
    # what these say every time is known here: encoders are frozen, shards are streamed
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
    for known in (
        "LeafSpec",
        "eval mode at the start",
        "does not have many workers",
        "IterableDataset",
        "args parameter",
        "exists and is not empty",
    ):
        warnings.filterwarnings("ignore", f".*{known}.*")
    from adastate.models import attention

    threads.use_threads(told.get("threads"))
    print(f"[adastate] {attention.use(told.get('attention', 'sdpa'))}")
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "config.yaml"
        merged.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        leader = _lightning(["fit", "--config", str(merged), *rest], composed)
    if leader and signals.heard():
        print(f"[adastate] {signals.heard()} came when the run was ending; it is done")
        raise SystemExit(signals.ENDED)


def _lightning(argv: list[str], composed: Config) -> bool:
    """Fits with what was `composed`; whether this is the process that speaks for all."""
    from argparse import ArgumentError

    import lightning.pytorch as pl
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from adastate.config.environment import restored
    from adastate.config.mistakes import parser_sentence
    from adastate.config.schema import ConfigError

    class SaveConfig(SaveConfigCallback):
        """The resolved config lies in the run folder itself, where `generate` finds it; but for what the environment
        has a part in, which is resolved again, and without secrets."""

        def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            path = Path(trainer.default_root_dir) / "config.yaml"
            with atomic.replacing(path) as scratch:
                self.parser.save(self.config, scratch, skip_unset=False, overwrite=True, multifile=False)
                dumped = restored(yaml.safe_load(scratch.read_text(encoding="utf-8")), composed.unresolved)
                config = run_paths.stored(dumped, run_paths.run_of(path))
                scratch.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    quiet: dict[str, Any] = {"exit_on_error": False}  # its own answer to a mistake is every type that it tried
    try:
        cli = LightningCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            auto_configure_optimizers=False,
            parser_kwargs={**quiet, "fit": dict(quiet)},
            args=argv,
        )
    except ArgumentError as error:
        raise ConfigError(parser_sentence(str(error))) from error
    return bool(cli.trainer.is_global_zero)


def _hold(folder: Path) -> None:
    """Keeps other runs out of the folder from now on; `callbacks.Checkpoints` lets it go, or this process's end."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from adastate.runtime import folder_lock

    left = rank_zero_only(folder_lock.acquire)(folder)
    if left:
        print(f"[adastate] {left} left {folder} without an end; this run takes it over")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(
            f"adastate: the run folder {folder} cannot be written ({error.strerror}); set RUN=another/folder"
        ) from error


def main(argv: list[str] | None = None) -> None:
    of_the_process = argv is None
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("--version", "-V"):
        from adastate import __version__

        print(f"adastate {__version__}")
        return
    if not argv or argv[0] not in COMMANDS:
        lines = [f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items()]
        asked = not argv or argv[0] in ("-h", "--help", "help")
        wrong = "" if asked else f"adastate: no command {argv[0]!r}; {meant(argv[0], COMMANDS)}\n"
        print(f"{wrong}adastate COMMAND ...\n\n" + "\n".join(lines) + "\n\nadastate COMMAND --help tells more.")
        raise SystemExit(2 if wrong else 0)
    if TRUST in argv:
        os.environ["ADASTATE_TRUST_CODE"] = "1"
        argv = [word for word in argv if word != TRUST]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threads.prepare()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for classes of the user's own
    before = signals.listen() if argv[0] in ("fit", "train", "study") else {}
    try:
        # importing takes seconds in which a signal may come
        run = fit if argv[0] == "fit" else importlib.import_module(COMMANDS[argv[0]][0]).main
        with secrets.guarded():
            run(argv[1:])
        if of_the_process and before:
            signals.ignore()
        else:
            signals.restore(before)
    except Exception as error:
        from adastate.config.mistakes import sentence

        told = sentence(error)
        if told is None:
            raise
        raise SystemExit(secrets.printable(secrets.redacted(f"adastate: {told}"))) from error


if __name__ == "__main__":
    main()
