"""Runs stages one after another, each as a command of `adastate` in a process of its own.

Every stage leaves a mark in <run>/stages/. In a second call, what the same command completed is skipped, what was begun
goes on from its last checkpoint, and what comes after a stage that has changed begins anew. `adastate train`, `adastate
study` and `make bench-stages` run their stages here.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console

from adastate.launch import process_group
from adastate.launch.tensorboard_reader import first_and_last_means, read_curves
from adastate.runtime import atomic, run_paths, signals
from adastate.runtime.plain_json import load_json


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        argv: its command line, after the word `adastate`.
        result: says in a few words what came of it.
        makes: a folder of samples that cannot be gone on with once an earlier stage has changed.
        folder: the run folder with its mark, where it is another one than that of the stages around it.
        feeds: whether later stages use what it makes, and therefore begin anew after it.
    """

    name: str
    argv: list[str]
    result: Callable[[], str] = field(default=lambda: "")
    makes: Path | None = None
    folder: Path | None = None
    feeds: bool = True


@dataclass(frozen=True)
class StageMark:
    """What is known of a stage, as `<run>/stages/NAME.json` holds it.

    Attributes:
        argv: its command, with paths relative to the run folder and without secrets.
        done: whether it has been run to its end.
        since: seconds since the epoch at which its first attempt began.
        seconds: of all its attempts together.
        losses: of each loss curve the means over its first and its last tenth.
        skipped: whether an earlier call had done it already; the file does not say that.
    """

    argv: list[str]
    done: bool = False
    since: float = 0.0
    seconds: float = 0.0
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    result: str = ""
    skipped: bool = False


@dataclass(frozen=True)
class StageRunner:
    """Runs the stages of a run folder.

    Attributes:
        command: who is said to have failed, a word behind `adastate`.
        root: a folder around the run folder that may be moved with it; the marks name neither of them.
    """

    run: Path
    console: Console
    command: str = "train"
    root: Path | None = None

    def run_stages(
        self, stages: Sequence[Stage], after: Callable[[Stage, StageMark], object] = lambda *_: None
    ) -> list[StageMark]:
        """Runs all that is not done, in order; `after` is called with each stage and its mark.

        Raises:
            SystemExit: a stage failed or was asked to stop. The same call goes on from there.
        """
        marks, restart = list[StageMark](), False
        for stage in stages:
            mark = self.run_stage(stage, restart)
            restart = restart or (stage.feeds and not mark.skipped)
            marks.append(mark)
            after(stage, mark)
        return marks

    def is_done(self, stage: Stage) -> bool:
        """Whether its mark says so, for the same command."""
        known = self._known(stage)
        return known is not None and known.done

    def run_stage(self, stage: Stage, restart: bool = False) -> StageMark:
        """Runs a stage unless it is done; `restart` disregards what is there, because an earlier stage has changed."""
        run, mark = self._folder(stage), self._mark(stage)
        known = None if restart else self._known(stage)
        if known is not None and known.done:
            self.console.print(f"[green]done before[/] {stage.name}")
            return replace(known, skipped=True)
        argv = list(stage.argv)
        if (run / stage.name / "checkpoints").is_dir():
            argv.append("--overwrite" if known is None else "--ckpt_path=auto")
        elif known is None and mark.is_file() and stage.makes is not None and (stage.makes / "index.json").is_file():
            shutil.rmtree(stage.makes)  # what this stage made of other things must not be mixed with what it makes now
        self.console.rule(f"[bold]{stage.name}", align="left")
        self.console.print(f"[dim]adastate {shlex.join(argv)}", highlight=False)
        earlier = known or StageMark(argv=[], since=time.time())
        told = StageMark(self._words(stage), since=earlier.since, seconds=earlier.seconds)
        self._write(stage, told)
        began = time.monotonic()
        code = process_group.run_command(argv)
        told = replace(told, seconds=round(earlier.seconds + time.monotonic() - began, 1))
        self._write(stage, told)
        if signals.stopped(code):
            self.console.print(f"{stage.name} was asked to stop, and has; run the same command again to resume")
            raise SystemExit(signals.AGAIN)
        if code not in (0, signals.ENDED):
            raise SystemExit(
                f"adastate {self.command}: the stage {stage.name!r} failed (exit {code}), see above; what was done "
                "before is kept, so mend that and run the same command again to resume"
            )
        found = read_curves(run / stage.name, since=told.since) if argv[0] == "fit" else {}
        losses = {tag: first_and_last_means(values) for tag, values in found.items()}
        told = replace(told, done=True, losses=losses, result=stage.result())
        self._write(stage, told)
        if code == signals.ENDED:
            self.console.print(f"asked to stop at the end of {stage.name}; run the same command again for the rest")
            raise SystemExit(signals.AGAIN)
        return told

    def _folder(self, stage: Stage) -> Path:
        return stage.folder or self.run

    def _mark(self, stage: Stage) -> Path:
        return self._folder(stage) / "stages" / f"{stage.name.replace(' ', '-')}.json"

    def _words(self, stage: Stage) -> list[str]:
        return run_paths.stored_words(stage.argv, self._folder(stage), self.root)

    def _known(self, stage: Stage) -> StageMark | None:
        """The mark of the same command, if an earlier call has left one."""
        path = self._mark(stage)
        if not path.is_file():
            return None
        try:
            mark = StageMark(**load_json(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): without it the stage is made again, so delete it"
            ) from error
        return mark if mark.argv in (self._words(stage), stage.argv) else None

    def _write(self, stage: Stage, mark: StageMark) -> None:
        content = asdict(mark)
        del content["skipped"]
        atomic.write_json(self._mark(stage), content, durable=True)
