"""`adastate fit`: trains a stage.

Config files are merged in the given order. Values in the blocks at the top are written once and used by every part.
Overrides change them: --stream.past_frames=6, --trainer.max_steps=100, --model.horizon_weight=4.
docs/reference/configuration.md explains each key.
"""

from __future__ import annotations

import enum
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from adastate.config import trusted
from adastate.config.command_line import check_flags, read_command
from adastate.config.schema import ConfigError
from adastate.config.systems import system_names
from adastate.config.together import check_together
from adastate.config.validate import check_words
from adastate.config.variables_page import trainer_page, variables_page
from adastate.runtime import atomic, folder_lock, run_paths, signals, threads
from adastate.runtime.arguments import Arguments

if TYPE_CHECKING:
    from adastate.config.schema import Config


def main(argv: list[str]) -> None:
    """Merges the config files, then hands the result to the Lightning CLI with the remaining arguments."""
    composed, rest = read_command(argv)
    config = composed.lightning
    if {"-h", "--help"} & set(rest):
        print(f"{parser().format_help()}\n{variables_page(composed)}\n{trainer_page(composed)}", flush=True)
        return
    if not any(word.partition("=")[0].endswith(".help") for word in rest):
        check_flags(rest)
        check_words(composed, rest)
        threads.check_threads((composed.variables.get("run") or {}).get("threads"))
        check_together(composed, rest)
    given = {word.partition("=")[0].removeprefix("--") for word in rest}
    if not all(config.get(part) or part in given for part in ("model", "data")):
        raise ConfigError(
            "there is no stage to train: give --config conf/base.yaml, one of conf/sizes/ and one of conf/stages/"
        )
    trainer = config.get("trainer") or {}
    root = trainer.get("default_root_dir")
    told = composed.variables.get("run") or {}
    if root:
        _require_writable(Path(root))
        _hold(Path(root))
    # up to here nothing has imported torch: what the text alone decides is told at once
    from adastate.config.classes import class_at
    from callbacks.checkpointing.ckpt_path import resolve_ckpt_path
    from callbacks.protocols import SavesCheckpoints, StopsOnSignals

    nodes = trainer.get("callbacks") or []
    callbacks = [class_at(node["class_path"]) for node in nodes]
    if not any(issubclass(c, StopsOnSignals) for c in callbacks):
        signals.unlisten()  # nothing else handles them
    saving = [node for node, c in zip(nodes, callbacks, strict=True) if issubclass(c, SavesCheckpoints)]
    rest = resolve_ckpt_path(rest, Path(root) if root else None, (saving[0].get("init_args") or {}) if saving else None)
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
    import torch

    from adastate.models import attention
    from adastate.models.compute_dtype import AUTO, fast_dtype

    threads.use_threads(told.get("threads"))
    print(f"[adastate] {attention.use(told.get('attention', 'auto'))}")
    left_to_device = (composed.variables.get("precision") or {}).get("compute_dtype") == AUTO
    if left_to_device and not torch.cuda.is_available() and fast_dtype("cpu") is torch.float32:
        print("[adastate] passes compute in float32: this processor has no instructions for bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "config.yaml"
        merged.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        try:
            leader = _lightning(["fit", "--config", str(merged), *rest], composed)
        except BaseException:
            if root:  # a mistake found while the parts are made is an end, too
                folder_lock.release(Path(root))
            raise
    if leader and signals.heard():
        print(f"[adastate] {signals.heard()} was received while the run was ending; the run is complete")
        raise SystemExit(signals.ENDED)


def _lightning(argv: list[str], composed: Config) -> bool:
    """Fits with what was `composed`; whether this is the process that speaks for all."""
    from argparse import ArgumentError

    import lightning.pytorch as pl
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    from adastate.config.environment import with_texts_again
    from adastate.config.mistakes import parser_sentence
    from adastate.distributed.network_reader import NetworkReader
    from adastate.models import unread

    class Cli(LightningCLI):
        """Lightning's, whose networks are read when it is known where they go."""

        def instantiate_classes(self) -> None:
            with unread.reading_later():
                super().instantiate_classes()

        def before_fit(self) -> None:
            if isinstance(self.trainer.strategy.launcher, _MultiProcessingLauncher):
                unread.bring_all(self.model, "cpu")  # what goes to other processes goes whole

    class SaveConfig(SaveConfigCallback):
        """The resolved config lies in the run folder itself, where `generate` finds it; but for what the environment
        has a part in, which is resolved again, and without secrets."""

        def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            path = Path(trainer.default_root_dir) / "config.yaml"
            with atomic.replacing(path, durable=True) as scratch:
                self.parser.save(self.config, scratch, skip_unset=False, overwrite=True, multifile=False)
                dumped = with_texts_again(yaml.safe_load(scratch.read_text(encoding="utf-8")), composed.unresolved)
                config = run_paths.stored_paths(dumped, run_paths.run_of(path))
                scratch.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    # defaults of Lightning's own classes are such words: the interval of its Timer
    yaml.SafeDumper.add_multi_representer(enum.Enum, lambda dumper, word: dumper.represent_data(word.value))
    quiet: dict[str, Any] = {"exit_on_error": False}  # its own answer to a mistake is every type that it tried
    try:
        cli = Cli(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [NetworkReader()]},
            parser_kwargs={**quiet, "fit": dict(quiet)},
            args=argv,
        )
    except ArgumentError as error:
        raise ConfigError(parser_sentence(str(error))) from error
    return bool(cli.trainer.is_global_zero)


def _hold(folder: Path) -> None:
    """Keeps other runs out of the folder from now on; `callbacks.Checkpoints` lets it go, or this process's end."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

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


def parser() -> Arguments:
    """What `adastate fit` takes beside overrides, for help and completion: Lightning reads the words themselves."""
    found = Arguments(
        "adastate fit",
        usage="adastate fit --config conf/base.yaml --config conf/sizes/tiny.yaml --config conf/stages/distill.yaml "
        "[--x.y=...]",
        description=__doc__,
    )
    add = found.add_argument
    add(
        "--config",
        "-c",
        type=Path,
        action="append",
        help="configuration file; can be repeated, later files override earlier ones",
    )
    add("--system", help=f"name in conf/systems/ of the stream to train: {', '.join(system_names())}")
    add("--ckpt_path", help="checkpoint to resume from: auto, last or best of the run folder, or a path")
    add("--allow_change", nargs="+", metavar="KEY", help="keys that may differ from those of the checkpoint")
    add("--overwrite", action="store_true", help="start from the beginning although the run folder has checkpoints")
    add("--print_config", action="store_true", help="print the composed configuration, and train nothing")
    trusted.add_flag(found)
    return found
