"""The stages that `adastate train` chains, as command lines: what is made of what.

`default` is the short way: trajectories of the bidirectional teacher, ODE regression, distillation. For flights the
initialised student is bundled, so it starts with the distillation. `full` has every kind of stage: the teacher is
fine-tuned, an autoregressive network made from it writes its own trajectories, the student learns these, is distilled,
and tuned on long rollouts.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import yaml

from adastate.config.conf_files import conf_path
from adastate.config.described import described
from adastate.launch.stage_runner import Stage
from adastate.runtime import atomic
from adastate.weights.builtin import BUILTIN

CLIP_PICTURES = 21
"""Of a training clip at the tiny size: one horizon."""

FPS: int = described("datamodules.worlds.flyover.FPS")  # which brings torch with it

REAL_FPS = 12
"""Of real video: a clip of 21 pictures is then 1.75 s long, in which things move, and short scenes still give some."""

SMALL_FOLDER = 2**26
"""Bytes of video up to which clips begin at every picture. More footage has clips enough, one after another."""

FLIGHTS = 24_000
"""Clips that a teacher of the flight world learns from: 12,000 flights and their mirror images."""

FLIGHT_INIT = "flight_init"
"""Of the bundled weights: an initialised student of flights, from which the distillation starts at once."""

FLOWN = {
    0.0: "straight", 0.75: "left", 1.875: "right+climb", 4.5: "straight+faster", 6.0: "look left", 7.5: "straight",
    9.0: "left+sink", 11.25: "look back", 13.5: "right",
}  # fmt: skip
"""How the rollouts that are shown of flights are steered, by the second."""

INITS = ("causal_ode", "consistency", "ode", "ode_noisy_context", "ar_diffusion", "diffusion_forcing")
"""Of the preset `full`, the first by default."""

FEW = {  # steps of the preset `full` at the tiny size: each stage stays below five minutes on two cores
    "teacher": ["--trainer.max_steps=400", "--model.init_args.optimizer.lr=3e-4", "--data.init_args.clips=2048"],
    "ar": ["--trainer.max_steps=500"],
    "init": ["--trainer.max_steps=500"],
    "consistency": ["--trainer.max_steps=250"],
    "distill": ["--run.iterations=100"],
    "long": ["--run.iterations=30"],
}


def stages(args: argparse.Namespace) -> list[Stage]:
    """The steps for the chosen preset, data and teacher, in order."""
    return Line(args).full() if args.preset == "full" else Line(args).default()


class Line:
    """Builds the steps one after another; `base` is what all later ones are told."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.run = args, Path(args.run)
        self.world, self.flight = args.data == "world", args.size == "flight"
        self.small = self.flight or args.size == "tiny"
        size = ["--config", "conf/base.yaml", "--config", f"conf/sizes/{args.size}.yaml"]
        system = ["--system", args.system] if args.system else []
        self.base = [*size, *system, f"--run.dir={self.run}"]
        told = ["--prompts", str(self.run / "prompts.txt")]
        self.prompts = [] if self.world else told
        self.steps: list[Stage] = []

    def default(self) -> list[Stage]:
        if self.flight and self.args.teacher == "builtin" and shipped(FLIGHT_INIT):
            self._distill("distill", f"--student.weights={FLIGHT_INIT}")
            self._watch()
            return self.steps
        self._data()
        if not self.world or self.args.teacher == "scratch":
            self._teacher()
        elif self.args.teacher != "builtin":
            self._scored_by(str(self.args.teacher))
        self._trajectories()
        self._fit("init")
        self._distill("distill")
        self._watch()
        return self.steps

    def full(self) -> list[Stage]:
        self._data()
        tune = self.world and self.args.teacher != "scratch"
        self._teacher(*([f"--model.init_args.weights={self._pretrained()}"] if tune else []), few=tune)
        self._trajectories()
        init = self.args.init
        if init in ("ar_diffusion", "causal_ode", "consistency"):
            self._fit("ar", "--config", "conf/recipes/init_ar_diffusion.yaml", few=True)
        if init == "causal_ode":
            # after real clips: the built-in ones are video, which the codec encodes on the way
            self._trajectories("causal", "--teacher", "causal", "--past", str(self.run / "shards"))
        weights = self.run / "init.safetensors"
        if init == "ar_diffusion":
            weights = self.run / "ar.safetensors"
        else:
            recipe = [] if init == "ode" else ["--config", f"conf/recipes/init_{init}.yaml"]
            self._fit("init", *recipe, few="consistency" if init == "consistency" else True)
        begin = "--student.weights"
        self._distill("distill", f"{begin}={weights}", few=True)
        long = self.run / "long.safetensors"
        recipe = ["--config", "conf/recipes/distill_long.yaml", "--run.stage=long", f"--model.init_args.out={long}"]
        self._distill("long", *recipe, f"{begin}={self.run}/student.safetensors", few=True)
        self._watch(long)
        return self.steps

    def _fit(self, name: str, *extra: str, few: bool | str = False) -> None:
        """`few`: take FEW steps at the tiny size, those of the stage or of what is named."""
        stage = "init" if name == "ar" else name
        less = FEW[few if isinstance(few, str) else name] if few and self.small else []
        argv = ["fit", *self.base, "--config", f"conf/stages/{stage}.yaml", *extra, *less, *self.args.rest]
        self.steps.append(Stage(name, argv))

    def _data(self) -> None:
        run, data = self.run, self.args.data
        shards = run / "shards"
        if self.world:
            argv = ["shards", "--world", self.args.world, "--clips", "256", "--out", str(shards)]
            self.steps.append(Stage("shards", argv, lambda: samples_in_words(shards)))
            return
        videos = run / "clips" if data == "clips" else Path(data)
        if data == "clips":
            self.steps.append(Stage("clips", ["shards", "--fetch-clips", str(videos)], lambda: f"in {videos}"))
        from datamodules.tools.video_folder import look_into

        cut = ["shards", "--videos", str(videos), "--out", str(shards), "--caption-from-name", "--fps", str(REAL_FPS)]
        if data == "clips" or sum(p.stat().st_size for p in look_into(videos).videos) <= SMALL_FOLDER:
            cut += ["--stride", "1"]
        self.steps.append(Stage("shards", cut, lambda: self._told(shards)))
        self.base += [f"--preview.prompts={run / 'prompts.txt'}", f"--codec.init_args.fps={REAL_FPS}"]
        self._fit("codec", "--config", "conf/data/codec_shards.yaml")
        self.base += [f"--codec.init_args.weights={run}/codec.safetensors"]

    def _told(self, shards: Path, most: int | None = None) -> str:
        """Writes the prompts of the later stages; says how many clips and captions there are."""
        return f"{samples_in_words(shards)}, {_captions(shards, self.run / 'prompts.txt', most)} captions"

    def _teacher(self, *extra: str, few: bool = False) -> None:
        data = [] if self.world else ["--config", "conf/data/teacher_shards.yaml"]
        if self.flight and not few:
            latents = self.run / "latents"
            argv = ["shards", "--world", "flight", "--clips", str(FLIGHTS), "--latents", "--out", str(latents)]
            argv += ["--workers", str(os.cpu_count() or 1)]
            self.steps.append(Stage("latents", argv, lambda: samples_in_words(latents)))
            data = ["--config", "conf/recipes/teacher_latents.yaml", f"--data.init_args.shards={latents}"]
        self._fit("teacher", *data, *extra, few=few)
        self._scored_by(f"{self.run}/teacher.safetensors")

    def _scored_by(self, teacher: str) -> None:
        """From here on it is the teacher, and what the critic starts from."""
        self.base += [f"--teacher.weights={teacher}", f"--critic.weights={teacher}"]

    def _pretrained(self) -> str:
        """The teacher that the size names, unless another is told."""
        if self.args.teacher != "builtin":
            return str(self.args.teacher)
        return str(
            yaml.safe_load(conf_path(f"conf/sizes/{self.args.size}.yaml").read_text(encoding="utf-8"))["teacher"][
                "weights"
            ]
        )

    def _trajectories(self, kind: str = "", *extra: str) -> None:
        name = f"{kind} trajectories".strip()
        out = self.run / name.replace(" ", "_")
        argv = ["trajectories", *self.base, "--config", "conf/stages/teacher.yaml", "--clips", str(self.args.clips)]
        argv += ["--steps", "16", *([] if "--past" in extra else self.prompts), *extra]
        self.steps.append(Stage(name, argv, lambda: samples_in_words(out), makes=out))

    def _distill(self, name: str, *extra: str, few: bool = False) -> None:
        words = ["fit", *self.base, "--config", "conf/stages/distill.yaml"]
        words += ["--config", "conf/stages/distill_tiny.yaml"] if self.small else []
        words += ["--config", "conf/stages/distill_flight.yaml"] if self.flight else []
        words += [] if self.world else [f"--data.file={self.run}/prompts.txt"]
        less = FEW[name] if few and self.small else []
        self.steps.append(Stage(name, [*words, *extra, *less, *self.args.rest]))

    def _watch(self, weights: Path | None = None) -> None:
        """Rollouts and their evaluation, of the distilled student or of other weights."""
        run = self.run
        measured = ["--weights", str(weights)] if weights else []
        once = CLIP_PICTURES / (FPS if self.world else REAL_FPS)
        for name, length in {"rollouts 1x": once, "rollouts 6x": 6 * once}.items():
            folder = run / "rollouts" / name.split()[1]
            line = ["generate", "--run", str(run), *measured, "--seconds", f"{length:.3f}", "--states", "--strip"]
            if self.flight:
                cues = [f"{at:g}s: {keys}" for at, keys in FLOWN.items() if at < length - 0.5]
                line += ["--animated", *(word for cue in cues for word in ("--actions", cue))]
            line += ["--out", str(folder), *([] if self.world else [*self.prompts, "--most", "6"])]
            shown_prompts = previewed(self.args.size) if self.world else []
            line += [word for prompt in shown_prompts for word in ("--prompt", prompt)]
            self.steps.append(Stage(name, line, lambda folder=folder: _speed(folder)))  # type: ignore[misc]
        argv = ["evaluate", "--run", str(run), *measured, *self.prompts]
        self.steps.append(Stage("evaluate", argv, lambda: _evaluated(run)))


def previewed(size: str) -> list[str]:
    """The prompts that the previews of a size show, too."""
    files = (
        yaml.safe_load(conf_path(name).read_text(encoding="utf-8"))
        for name in (f"conf/sizes/{size}.yaml", "conf/base.yaml")
    )
    return list(next(file["preview"]["prompts"] for file in files if "prompts" in file.get("preview", {})))


def shipped(name: str) -> bool:
    """Whether weights of that name are bundled."""
    return name in BUILTIN and BUILTIN[name].is_file()


def samples_in_words(folder: Path) -> str:
    """How many samples a folder of shards holds, in words."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return f"{sum(s['samples'] for s in index['shards'])} clips in {folder}"


def _captions(shards: Path, out: Path, most: int | None = None) -> int:
    """Writes the different captions of the shards, at most so many, one a line: the prompts of the later stages."""
    from datamodules.shards.index import find_shards, read_shard
    from datamodules.shards.safe_decode import read_words

    captions = {
        " ".join(read_words(sample.read("txt")).split())
        for path in find_shards(str(shards))
        for sample in read_shard(path)
    }
    lines = sorted(captions)[:most]
    atomic.write_text(out, "\n".join(lines) + "\n")
    return len(lines)


def _speed(folder: Path) -> str:
    timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    return f"{timing['pictures']} pictures each, {timing['pictures_s_with_decoding']} pictures/s"


def _evaluated(run: Path) -> str:
    rows = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["rows"]
    parts, dynamics = [], "change_in_half_a_second"
    for name, row in rows.items():
        if name.startswith("student"):
            shares = [f"{name.replace('_', ' ')} {row[name]:.0%}" for name in ("heading", "turn_sign") if name in row]
            what = shares[0] if shares else f"change {row[dynamics]:.3f}"
            parts.append(f"{name.removeprefix('student, ')}: {what}")
    if "real clips, 1x" in rows and "heading" not in rows["real clips, 1x"]:
        parts.append(f"real clips: change {rows['real clips, 1x'][dynamics]:.3f}")
    return "; ".join(parts)
