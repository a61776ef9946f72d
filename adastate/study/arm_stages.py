"""The stages of a study as command lines: those that all runs share, and those of one run."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from adastate.launch.stage_runner import Stage
from adastate.launch.stages import samples_in_words
from adastate.runtime import atomic
from adastate.study.study_worlds import StudyWorld, study_world
from adastate.study.table import Beginning, Budget, Task

PROMPTS = 2048
"""Journeys whose captions are collected; 96 of them are different."""

SCRATCH = "scratch"

SHOWN = 4
"""Number of preview prompts."""


@dataclass(frozen=True)
class StudySetting:
    """A study's folder and the settings that all its runs share.

    Attributes:
        root: its folder.
        world: a name of STUDY_WORLDS.
        teacher, codec: safetensors files; "" for the bundled ones of this world; "scratch" trains them first, which
            also happens if none are bundled.
        seed: seed 0 is measured with prompts and noise of this seed; each further seed uses the next one.
    """

    root: Path
    world: str
    budget: Budget
    teacher: str = ""
    codec: str = ""
    seed: int = 4242

    @property
    def known(self) -> StudyWorld:
        return study_world(self.world)

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def teacher_weights(self) -> str:
        return self._weights(self.teacher, "teacher")

    @property
    def codec_weights(self) -> str:
        return self._weights(self.codec, "codec")

    @property
    def untrained(self) -> tuple[str, ...]:
        """Which of codec and teacher the study trains itself."""
        told = {"codec": self.codec, "teacher": self.teacher}
        return tuple(name for name, word in told.items() if word == SCRATCH or not (word or self.known.weights))

    def _weights(self, told: str, name: str) -> str:
        return str(self.base / f"{name}.safetensors") if name in self.untrained else told or self.known.weights

    @property
    def prompts(self) -> Path | None:
        """File with the training prompts; None for the plain world, which generates captions without limit."""
        return self.base / "prompts.txt" if self.world != "plain" else None

    def init(self, beginning: Beginning) -> Path:
        """Initial weights of a seed's distillations."""
        return beginning.folder(self.root) / "init.safetensors"

    def layers(self, *files: str) -> list[str]:
        """Command-line arguments that every training stage begins with."""
        words = [w for f in ("base.yaml", "sizes/tiny.yaml", *files) for w in ("--config", f"conf/{f}")]
        frames = self.known.horizon
        if frames == study_world("plain").horizon:
            return words
        told = {"frames": frames, "video_frames": 3 * frames, "rolling_frames": frames + 3}
        told |= {"long_frames": 4 * frames, "stream_frames": 4 * frames}
        return [*words, *(f"--rollout.{name}={value}" for name, value in told.items())]

    def window(self, chunk: int) -> list[str]:
        """Stream arguments of an initialisation: the window spans the whole horizon, and there is no anchor."""
        return [f"--stream.chunk_frames={chunk}", f"--stream.past_frames={self.known.horizon - chunk}"]

    @property
    def networks(self) -> list[str]:
        """Codec and teacher arguments of all later stages."""
        told = [f"--codec.init_args.weights={self.codec_weights}", f"--teacher.weights={self.teacher_weights}"]
        guidance = self.known.guidance
        return told if guidance is None else [*told, f"--teacher.guidance={guidance}"]


def write_prompts(setting: StudySetting) -> None:
    """Writes the training captions."""
    if setting.prompts is None or setting.prompts.is_file():
        return
    from datamodules.worlds import journey  # imports torch

    captions = sorted({journey.journey(1, i).caption for i in range(PROMPTS)})
    atomic.write_text(setting.prompts, "\n".join(captions) + "\n")


def shared(setting: StudySetting) -> list[Stage]:
    """Stages before all runs: training of codec and teacher if none are bundled, the teacher's gate, and measurement of
    the true flights."""
    base, budget, stages = setting.base, setting.budget, list[Stage]()
    if "codec" in setting.untrained:
        words = setting.layers("stages/codec.yaml", f"study/{setting.world}_codec.yaml")
        stages.append(_fit(base, "codec", words, [f"--trainer.max_steps={budget.codec_steps}"]))
    if "teacher" in setting.untrained:
        words = setting.layers("stages/teacher.yaml", f"study/{setting.world}_teacher.yaml")
        extra = [f"--codec.init_args.weights={setting.codec_weights}", *_watch(setting)]
        extra += [f"--data.clips={budget.teacher_clips}", f"--trainer.max_steps={budget.teacher_steps}"]
        stages.append(_fit(base, "teacher", words, extra))
    if setting.world != "plain":
        words = ["study", "gate", "--world", setting.world, "--json", str(base / "gate.json")]
        words += ["--teacher", setting.teacher_weights, "--codec", setting.codec_weights]
        stages.append(Stage("gate", [*words, "--clips", str(3 * budget.rollouts)], feeds=False))
    words = ["study", "real", "--out", str(setting.root / "real"), "--codec", setting.codec_weights]
    stages.append(Stage("measure", [*words, *_measured(setting, 0)], folder=setting.root / "real"))
    return stages


def initialisation(setting: StudySetting, beginning: Beginning) -> list[Stage]:
    """Initialisation of a seed, from its own teacher noise on.

    Causal ODE distillation (Causal-Forcing): trajectories of the teacher, a network that denoises chunk by chunk after
    a clean past, its trajectories, and the student that learns to jump to their ends.
    """
    here, budget = beginning.folder(setting.root), setting.budget
    extra = [*setting.networks, *_watch(setting), *setting.window(beginning.chunk_frames)]
    extra += [f"--run.seed={beginning.seed}"]
    ar = setting.layers("stages/init.yaml", "recipes/init_ar_diffusion.yaml")
    ode = setting.layers("stages/init.yaml", "recipes/init_causal_ode.yaml")
    return [
        _trajectories(setting, beginning),
        _fit(here, "ar", ar, [*extra, f"--trainer.max_steps={budget.ar_steps}"]),
        _trajectories(setting, beginning, "causal"),
        _fit(here, "init", ode, [*extra, f"--trainer.max_steps={budget.init_steps}"]),
    ]


def stages_of_run(setting: StudySetting, task: Task) -> list[Stage]:
    """The stages of one run: its distillation, unless it uses another arm's student, its measurement, and its
    experiments if it has any."""
    here, student = task.folder(setting.root), student_folder(setting, task)
    layers = ("stages/distill.yaml", "stages/distill_tiny.yaml", *task.arm.recipes, "study/distill.yaml")
    words = [*setting.layers(*layers), "--config", str(here / "arm.yaml"), f"--run.dir={here}", *setting.networks]
    words += [f"--run.world={setting.world}"]
    file = setting.prompts if "study/distill_causvid_clips.yaml" not in task.arm.recipes else None
    told = [f"--data.file={file}"] if file else []
    measure = ["study", "measure", "--run", str(student), *_measured(setting, task.seed)]
    if student != here or task.arm.taught:
        measure += ["--arm", task.arm.name, "--out", str(here)]
    distill = [Stage("distill", ["fit", *words, *_watch(setting), *told])] if student == here else []
    experiments = ["study", "intervene", "--run", str(here), "--world", setting.world]
    experiments += ["--pairs", str(setting.budget.rollouts // 4), "--hidden", "7", "9", "18", "--chunks", "16"]
    experiments += ["--seed", str(setting.seed + task.seed)]
    last = [Stage("intervene", experiments)] if task.arm.experiments and setting.world != "plain" else []
    return [*distill, Stage("measure", measure), *last]


def student_folder(setting: StudySetting, task: Task) -> Path:
    """The run folder of the student that a run streams with."""
    arm = task.arm.student or task.arm.name
    return setting.root / "arms" / arm / f"seed{task.seed}"


def arm_text(setting: StudySetting, task: Task) -> str:
    """What distinguishes a run, as a config file: `arm.yaml` in its folder.

    It contains the initialisation's digest, so that a run from another initialisation counts as changed.
    """
    weights = setting.init(task.beginning)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else "none"
    arm = task.arm
    content = {
        "run": {"seed": task.seed, "iterations": setting.budget.iterations},
        "stream": dict(arm.taught or arm.stream),
        "model": {"init_args": {**arm.model, "student": {"init_args": {"weights": str(weights)}}}},
    }
    if arm.rope_max_frames:
        content["size"] = {"rope_max_frames": arm.rope_max_frames}
    told = f"# {arm.name}, seed {task.seed}: {arm.about}; initialisation {digest}\n"
    return told + yaml.safe_dump(content, sort_keys=False, width=math.inf)  # a line each, see has_changed


def has_changed(setting: StudySetting, task: Task) -> bool:
    """Whether the table now defines a run differently than when it was started.

    The initialisation is compared by digest, since its path changes if the study is moved.
    """
    path = task.folder(setting.root) / "arm.yaml"
    texts = (path.read_text(encoding="utf-8"), arm_text(setting, task)) if path.is_file() else ("", "")
    then, now = ([line for line in text.splitlines() if " weights: " not in line] for text in texts)
    return then != now


def _fit(run_folder: Path, name: str, words: list[str], extra: list[str]) -> Stage:
    return Stage(name, ["fit", *words, f"--run.dir={run_folder}", *extra])


def _trajectories(setting: StudySetting, beginning: Beginning, kind: str = "") -> Stage:
    """Trajectories of the teacher, or of the causal network."""
    name = f"{kind} trajectories".strip()
    here = beginning.folder(setting.root)
    out = here / name.replace(" ", "_")
    words = ["trajectories", *setting.layers("stages/teacher.yaml"), f"--run.dir={here}", *setting.networks]
    words += ["--clips", str(setting.budget.trajectories), "--steps", "16", "--seed", str(beginning.seed)]
    words += [*setting.window(beginning.chunk_frames), "--teacher", kind] if kind else []
    words += ["--prompts", str(setting.prompts)] if setting.prompts else []
    return Stage(name, words, lambda: samples_in_words(out), out)


def _measured(setting: StudySetting, seed: int) -> list[str]:
    budget = setting.budget
    words = ["--world", setting.world, "--rollouts", str(budget.rollouts), "--seed", str(setting.seed + seed)]
    return [*words, "--horizons", *map(str, budget.horizons)]


def _watch(setting: StudySetting) -> list[str]:
    """Arguments for the previews' prompts: those of the world."""
    if setting.world == "plain":
        return []

    from datamodules.worlds import journey

    told = [j.caption for j in journey.even_journeys(32, 1)[:: 32 // SHOWN + 1]]
    return [f"--preview.prompts={json.dumps(told)}"]
