"""`make bench-stages`: how much every stage of the tiny size contributes to the next one, as a table.

Every initialisation gets the same number of steps, and the same short distillation after it; every objective of the
distillation starts from the same initialisation. Teacher and trajectories are those of BASE, a run made by
`make train`. A job is a folder of OUT; finished jobs are skipped, started ones resume.

`--jobs` processes run at a time, each with its share of the cores.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adastate.config.systems import read_system  # noqa: E402
from adastate.launch.stage_runner import Stage, StageRunner  # noqa: E402
from adastate.runtime import atomic  # noqa: E402
from adastate.study import runner  # noqa: E402

TEACHER_STEPS = 300
TEACHER_CLIPS = 2048
INITS = ("ode", "ar_diffusion", "causal_ode", "consistency", "ode_noisy_context", "diffusion_forcing")
OBJECTIVES = ("sid", "causvid", "rolling", "reward")
BEFORE = {"causal_ode": "ar_diffusion", "consistency": "ar_diffusion"}
CHUNKS_OF_ONE = tuple(
    f"--stream.{name}={getattr(read_system('rolling_forcing', 1).spec, name)}"
    for name in ("chunk_frames", "past_frames", "state_frames", "attention_frames")
)
"""Values of Rolling-Forcing's latent frame counts at the tiny size."""

FIGURES = ("heading", "residual", "displacement", "contrast")
MEASURED = {"init": "initialised.json", "ar": "initialised.json", "distill": "distilled.json"}
"""File with the results of `evaluate` for a stage's weights."""


@dataclass(frozen=True, eq=False)
class JobStage:
    """A stage of a job, and the stages that it needs, each by job and name."""

    job: str
    stage: Stage
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.job, self.stage.name

    def __str__(self) -> str:
        return "/".join(self.key)

    def is_done(self, out: Path) -> bool:
        return StageRunner(out / self.job, Console()).is_done(self.stage)


def steps(base: Path, out: Path, init_steps: int, iterations: int, rollouts: int) -> list[JobStage]:
    """All stages, ordered so that each comes after those that it needs."""
    found: list[JobStage] = []

    def common(job: str) -> list[str]:
        size = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml"]
        return [*size, f"--run.dir={out / job}", "--preview.every=1000000", "--preview.long=0"]

    def add(job: str, name: str, argv: list[str], *needs: tuple[str, str]) -> None:
        found.append(JobStage(job, Stage(name, argv), needs))

    def folder(job: str) -> str:
        return "ar" if job == "ar_diffusion" else "init"

    def init(job: str, *needs: tuple[str, str], extra: tuple[str, ...] = ()) -> None:
        recipe = [] if job in ("ode", "teacher") else ["--config", f"conf/recipes/init_{job}.yaml"]
        argv = ["fit", *common(job), "--config", "conf/stages/init.yaml", *recipe, *extra]
        add(job, folder(job), [*argv, f"--trainer.max_steps={init_steps}", "--trainer.log_every_n_steps=5"], *needs)
        # the config of any distillation defines how the student streams
        measure = ["evaluate", "--run", str(out / "none"), "--rollouts", str(rollouts), "--weights", initialised(job)]
        measure += ["--json", str(out / job / "initialised.json")]
        add(job, "evaluate init", measure, (job, folder(job)), ("none", "distill"))

    def initialised(job: str) -> str:
        return str(out / job / f"{folder(job)}.safetensors")

    def distill(job: str, weights: str, *needs: tuple[str, str], extra: tuple[str, ...] = ()) -> None:
        files = ["conf/stages/distill.yaml", "conf/stages/distill_tiny.yaml"]
        if job in OBJECTIVES:
            files.append(f"conf/recipes/distill_{job}.yaml")
        if job == "rolling":
            files.insert(0, "conf/systems/rolling_forcing.yaml")
            extra = (*extra, *CHUNKS_OF_ONE)
        argv = ["fit", *common(job), *(word for file in files for word in ("--config", file)), *extra]
        argv += [f"--student.weights={weights}", f"--run.iterations={iterations}"]
        add(job, "distill", [*argv, "--trainer.log_every_n_steps=1"], *needs)
        measure = ["evaluate", "--run", str(out / job), "--rollouts", str(rollouts)]
        add(job, "evaluate", [*measure, "--json", str(out / job / "distilled.json")], (job, "distill"))

    world = ["shards", "--world", "plain", "--clips", "256", "--latents"]
    add("latents", "latents", [*world, "--out", str(out / "latents" / "shards")])
    distill("none", "builtin")
    for job in INITS:
        before = BEFORE.get(job)
        needs = [(before, folder(before))] if before else []
        if job == "causal_ode":
            argv = ["trajectories", *common(job), "--teacher", "causal", "--past", str(base / "shards")]
            add(job, "trajectories", [*argv, "--clips", "256", "--steps", "16"], *needs)
            needs = [(job, "trajectories")]
        init(job, *needs)
    for job in INITS:
        distill(job, initialised(job), (job, folder(job)))
    for job in OBJECTIVES:
        distill(job, initialised("ode"), ("ode", "init"), ("latents", "latents"))
    argv = ["fit", *common("teacher"), "--config", "conf/stages/teacher.yaml", f"--trainer.max_steps={TEACHER_STEPS}"]
    add("teacher", "teacher", [*argv, f"--data.clips={TEACHER_CLIPS}", "--trainer.log_every_n_steps=5"])
    mine = (f"--teacher.weights={out}/teacher/teacher.safetensors",)
    argv = ["trajectories", *common("teacher"), *mine, "--config", "conf/stages/teacher.yaml"]
    add("teacher", "trajectories", [*argv, "--clips", "512", "--steps", "16"], ("teacher", "teacher"))
    init("teacher", ("teacher", "trajectories"), extra=mine)
    distill("teacher", initialised("teacher"), ("teacher", "init"), extra=mine)
    return found


def link(base: Path, out: Path, names: set[str]) -> None:
    """Links the inputs that the jobs share to where their configs look for them."""
    for job in names:
        (out / job).mkdir(parents=True, exist_ok=True)
        inputs = {"trajectories": base / "trajectories", "shards": out / "latents" / "shards"}
        if job in ("teacher", "latents"):
            inputs = {}
        if job in BEFORE:
            inputs["ar.safetensors"] = out / BEFORE[job] / "ar.safetensors"
        for name, target in inputs.items():
            if not (out / job / name).is_symlink():
                (out / job / name).symlink_to(target.resolve() if target.exists() else target.absolute())


def do(step: JobStage, out: Path) -> None:
    """Runs one step in this process; `cpu/<step>.json` of its job records the core-seconds of all its attempts."""
    took = out / step.job / "cpu" / f"{step.stage.name}.json"
    known = json.loads(took.read_text(encoding="utf-8")) if took.is_file() else {}
    before = known["seconds"] if known.get("argv") == step.stage.argv else 0.0
    try:
        StageRunner(out / step.job, Console(), f"stages, {step}").run_stage(step.stage)
    finally:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        atomic.write_json(took, {"argv": step.stage.argv, "seconds": before + used.ru_utime + used.ru_stime})


def table_lines(out: Path, todo: list[JobStage]) -> Iterator[str]:
    """The table, in Markdown, from the results so far."""
    yield (
        "| stage | s of a core | loss, first tenth | last tenth | "
        + " | ".join(f"{part} {figure}" for part in ("1x", "6x") for figure in FIGURES)
        + " |"
    )
    yield "|" + "---|" * (4 + 2 * len(FIGURES))
    for step in (s for s in todo if s.stage.argv[0] == "fit" and s.is_done(out)):
        job, name = out / step.job, step.stage.name
        seconds = json.loads((job / "cpu" / f"{name}.json").read_text(encoding="utf-8"))["seconds"]
        losses = json.loads((job / "stages" / f"{name}.json").read_text(encoding="utf-8"))["losses"]
        first, last = next((v for tag, v in losses.items() if tag != "critic/loss"), (math.nan, math.nan))
        cells = [f"{step.job}, {name}", f"{seconds:.0f}", f"{first:.3f}", f"{last:.3f}"]
        yield "| " + " | ".join([*cells, *figures(job / MEASURED.get(name, ""))]) + " |"


def figures(path: Path) -> list[str]:
    if not path.is_file():
        return [""] * (2 * len(FIGURES))
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    student = [row for title, row in rows.items() if title.startswith("student")]
    return [f"{row[f]:.0%}" if f == "heading" else f"{row[f]:.3f}" for row in student for f in FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("runs/tiny"), help="a finished run of `make train`")
    parser.add_argument("--out", type=Path, default=Path("runs/stages"))
    parser.add_argument("--steps", type=int, default=300, help="of every initialisation")
    parser.add_argument("--iterations", type=int, default=60, help="of every distillation")
    parser.add_argument("--rollouts", type=int, default=16, help="of every evaluation")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each")
    parser.add_argument("--only", nargs="*", help="jobs to do; default: all")
    parser.add_argument("--step", nargs=2, metavar=("JOB", "NAME"), help="do this one step, in this process")
    parser.add_argument("--table", action="store_true", help="only print the results so far")
    args = parser.parse_args()
    base, out = args.base.absolute(), args.out.absolute()
    if not (base / "trajectories" / "index.json").is_file():
        raise SystemExit(f"{base} has no trajectories: make them with `make train RUN={args.base}`, or give --base")
    todo = steps(base, out, args.steps, args.iterations, args.rollouts)
    if args.step:
        return do(next(step for step in todo if step.key == tuple(args.step)), out)
    if args.only:
        todo = [s for s in todo if s.job in args.only]
    link(base, out, {s.job for s in todo})
    failed = list[JobStage]()
    if not args.table:
        done = {step.key: step for step in todo}
        failed = runner.run_all(
            [step for step in todo if not step.is_done(out)],
            lambda step: [sys.executable, __file__, *sys.argv[1:], "--step", *step.key],
            lambda step: out / step.job / f"{step.stage.name}.log",
            args.jobs,
            lambda text: print(text, flush=True),
            lambda step: all(done[key].is_done(out) for key in step.needs if key in done),
        )
    table = "\n".join(table_lines(out, todo))
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if failed:
        raise SystemExit(f"failed: {', '.join(map(str, failed))}; stages that need them were skipped")


if __name__ == "__main__":
    main()
