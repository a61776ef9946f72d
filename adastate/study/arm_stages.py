"""The stages of a study as command lines: what all runs share, and what a run is."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from adastate.launch.stages import Stage, count
from adastate.runtime import atomic, run_paths
from adastate.study.table import Budget, Task

PROMPTS = 2048
"""Journeys whose captions are gathered; there are 96 different ones."""

SCRATCH = "scratch"
SHIPPED = {"plain": "builtin", "journey": "journey", "fog": "fog"}
"""Names of the codec and teacher of each world."""

GUIDANCE = {"plain": [], "journey": ["--teacher.guidance=0.5"], "fog": ["--teacher.guidance=0.5"]}
"""With 1.5 the teacher of the journeys flies at 0.73 of the told speed, with 1 at 0.81, with 0.5 at 0.89
(docs/reference/pretrained.md)."""

HORIZON = 7
"""Latent frames of a training horizon at the tiny size."""

SHOWN = 4
"""Prompts of the previews."""


@dataclass(frozen=True)
class StudySetting:
    """Where a study lies and what all its runs share.

    Attributes:
        root: its folder.
        world: `journey`, `fog` or `plain`.
        teacher, codec: safetensors files; "" for those that ship for this world, "scratch" to train them first.
        seed: of the prompts and the noise with which runs are measured.
    """

    root: Path
    world: str
    budget: Budget
    teacher: str = ""
    codec: str = ""
    seed: int = 4242

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def teacher_weights(self) -> str:
        return self._weights(self.teacher, "teacher")

    @property
    def codec_weights(self) -> str:
        return self._weights(self.codec, "codec")

    def _weights(self, told: str, name: str) -> str:
        if told == SCRATCH:
            return str(self.base / f"{name}.safetensors")
        return told or SHIPPED[self.world]

    @property
    def prompts(self) -> Path | None:
        """File with the prompts to train on; the plain world has captions without end."""
        return self.base / "prompts.txt" if self.world != "plain" else None

    @property
    def init(self) -> Path:
        """Weights from which all distillations begin."""
        return self.base / "init.safetensors"

    def layers(self, *files: str) -> list[str]:
        """Command-line words that every training stage begins with."""
        return [w for f in ("base.yaml", "sizes/tiny.yaml", *files) for w in ("--config", f"conf/{f}")]

    @property
    def window(self) -> list[str]:
        """Words about the stream of the initialisation: everything of a horizon is in view, and there is no anchor."""
        return [f"--stream.past_frames={HORIZON - 1}"]

    @property
    def networks(self) -> list[str]:
        """Words about codec and teacher that all later stages are told."""
        told = [f"--codec.init_args.weights={self.codec_weights}", f"--teacher.weights={self.teacher_weights}"]
        return [*told, *GUIDANCE[self.world]]


def write_prompts(setting: StudySetting) -> None:
    """The captions to train on."""
    if setting.prompts is None or setting.prompts.is_file():
        return
    from datamodules.worlds import journey  # which brings torch with it

    captions = sorted({journey.journey(1, i).caption for i in range(PROMPTS)})
    atomic.write_text(setting.prompts, "\n".join(captions) + "\n")


def shared(setting: StudySetting) -> list[tuple[Path, Stage]]:
    """What comes before the runs, each stage with the run folder that holds its mark.

    The initialisation is causal ODE distillation (Causal-Forcing): a network that denoises chunk by chunk after a clean
    past, its paths, and the student that learns to jump to their ends.
    """
    base, budget, stages = setting.base, setting.budget, list[tuple[Path, Stage]]()
    watch = _watch(setting)
    if setting.codec == SCRATCH:
        words = setting.layers("stages/codec.yaml", f"study/{setting.world}_codec.yaml")
        stages.append(_fit(base, "codec", words, [f"--trainer.max_steps={budget.codec_steps}"]))
    if setting.teacher == SCRATCH:
        words = setting.layers("stages/teacher.yaml", f"study/{setting.world}_teacher.yaml")
        extra = [f"--codec.init_args.weights={setting.codec_weights}", *watch]
        extra += [f"--data.clips={budget.teacher_clips}", f"--trainer.max_steps={budget.teacher_steps}"]
        stages.append(_fit(base, "teacher", words, extra))
    stages.append(_trajectories(setting))
    extra = [*setting.networks, *watch, *setting.window]
    words = setting.layers("stages/init.yaml", "recipes/init_ar_diffusion.yaml")
    stages.append(_fit(base, "ar", words, [*extra, f"--trainer.max_steps={budget.ar_steps}"]))
    stages.append(_trajectories(setting, "causal"))
    words = setting.layers("stages/init.yaml", "recipes/init_causal_ode.yaml")
    stages.append(_fit(base, "init", words, [*extra, f"--trainer.max_steps={budget.init_steps}"]))
    words = ["study", "real", "--out", str(setting.root / "real"), "--codec", setting.codec_weights]
    stages.append((setting.root / "real", Stage("measure", [*words, *_measured(setting)])))
    return stages


def run(setting: StudySetting, task: Task) -> list[Stage]:
    """The stages of one run: its distillation and its measurement."""
    here = task.folder(setting.root)
    layers = ("stages/distill.yaml", "stages/distill_tiny.yaml", "study/distill.yaml")
    words = [*setting.layers(*layers), "--config", str(here / "arm.yaml"), f"--run.dir={here}", *setting.networks]
    told = [f"--data.file={setting.prompts}"] if setting.prompts else []
    measure = ["study", "measure", "--run", str(here), *_measured(setting)]
    return [Stage("distill", ["fit", *words, *_watch(setting), *told]), Stage("measure", measure)]


def arm_text(setting: StudySetting, task: Task) -> str:
    """What sets a run apart, as a config file: `arm.yaml` in its folder.

    The digest of the initialisation stands in it, so that a run from another one is seen to have changed.
    """
    weights = setting.init
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else "none"
    content = {
        "run": {"seed": task.seed, "iterations": setting.budget.iterations},
        "stream": dict(task.arm.stream),
        "model": {"init_args": {**task.arm.model, "student": {"init_args": {"weights": str(weights)}}}},
    }
    told = f"# {task.arm.name}, seed {task.seed}: {task.arm.about}; initialisation {digest}\n"
    return told + yaml.safe_dump(content, sort_keys=False, width=math.inf)  # a line each, see has_changed


def has_changed(setting: StudySetting, task: Task) -> bool:
    """Whether a run was begun as another one than the table has now.

    The initialisation is known by its digest: a study that was moved has it elsewhere.
    """
    path = task.folder(setting.root) / "arm.yaml"
    texts = (path.read_text(encoding="utf-8"), arm_text(setting, task)) if path.is_file() else ("", "")
    then, now = ([line for line in text.splitlines() if " weights: " not in line] for text in texts)
    return then != now


def is_done(stage: Stage, run_folder: Path, root: Path | None = None) -> bool:
    """Whether a stage's mark says so, for the same command; `root` is the study's folder."""
    mark = run_folder / "stages" / f"{stage.name.replace(' ', '-')}.json"
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
    return bool(known.get("done")) and known.get("argv") in (
        run_paths.stored_words(stage.argv, run_folder, root),
        stage.argv,
    )


def _fit(run_folder: Path, name: str, words: list[str], extra: list[str]) -> tuple[Path, Stage]:
    return run_folder, Stage(name, ["fit", *words, f"--run.dir={run_folder}", *extra])


def _trajectories(setting: StudySetting, kind: str = "") -> tuple[Path, Stage]:
    """Paths of the teacher, or of the causal network."""
    name = f"{kind} trajectories".strip()
    out = setting.base / name.replace(" ", "_")
    words = ["trajectories", *setting.layers("stages/teacher.yaml"), f"--run.dir={setting.base}", *setting.networks]
    words += ["--clips", str(setting.budget.trajectories), "--steps", "16"]
    words += [*setting.window, "--teacher", kind] if kind else []
    words += ["--prompts", str(setting.prompts)] if setting.prompts else []
    return setting.base, Stage(name, words, lambda: count(out), out)


def _measured(setting: StudySetting) -> list[str]:
    budget = setting.budget
    words = ["--world", setting.world, "--rollouts", str(budget.rollouts), "--seed", str(setting.seed)]
    return [*words, "--horizons", *map(str, budget.horizons)]


def _watch(setting: StudySetting) -> list[str]:
    """Prompts of the previews: those of the world."""
    if setting.world == "plain":
        return []
    from datamodules.worlds import journey

    told = [j.caption for j in journey.even_journeys(32, 1)[:: 32 // SHOWN + 1]]
    return [f"--preview.prompts={json.dumps(told)}"]
