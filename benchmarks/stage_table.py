"""`make bench-stages`: what every stage of the tiny size does for the next one, as a table.

Every initialisation gets the same number of steps, and the same short distillation after it; every objective of the
distillation begins from the same initialisation. Teacher and trajectories are those of BASE, a run that `make train`
has made. A job is a folder of OUT; what is done is not done again, what was begun goes on.

Each process has one thread, and `--jobs` of them run at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adastate.config.systems import read_system  # noqa: E402
from adastate.launch.tensorboard_reader import LOSSES, curves, ends  # noqa: E402

TEACHER_STEPS = 300
TEACHER_CLIPS = 2048
INITS = ("ode", "ar_diffusion", "causal_ode", "consistency", "ode_noisy_context", "diffusion_forcing")
OBJECTIVES = ("sid", "causvid", "rolling", "reward")
BEFORE = {"causal_ode": "ar_diffusion", "consistency": "ar_diffusion"}
CHUNKS_OF_ONE = tuple(
    f"--stream.{name}={getattr(read_system('rolling_forcing', 1).spec, name)}"
    for name in ("chunk_frames", "past_frames", "state_frames", "attention_frames")
)
"""What Rolling-Forcing's counts of latent frames are at the tiny size."""

FIGURES = ("heading", "residual", "displacement", "contrast")


@dataclass(frozen=True)
class Step:
    """A command of `adastate`, done when its mark says so."""

    job: str
    name: str
    argv: list[str]
    needs: tuple[tuple[str, str], ...] = ()


def steps(base: Path, out: Path, init_steps: int, iterations: int, rollouts: int) -> list[Step]:
    """All of them, in an order in which each comes after what it needs."""
    found: list[Step] = []

    def common(job: str) -> list[str]:
        size = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml"]
        return [*size, f"--run.dir={out / job}", "--preview.every=1000000", "--preview.long=0"]

    def add(job: str, name: str, argv: list[str], *needs: tuple[str, str]) -> None:
        found.append(Step(job, name, argv, needs))

    def init(job: str, *needs: tuple[str, str], extra: tuple[str, ...] = ()) -> None:
        recipe = [] if job in ("ode", "teacher") else ["--config", f"conf/recipes/init_{job}.yaml"]
        argv = ["fit", *common(job), "--config", "conf/stages/init.yaml", *recipe, *extra]
        add(job, "init", [*argv, f"--trainer.max_steps={init_steps}", "--trainer.log_every_n_steps=5"], *needs)
        # the config of any distillation tells how the student streams
        measure = ["evaluate", "--run", str(out / "none"), "--rollouts", str(rollouts), "--weights", initialised(job)]
        measure += ["--json", str(out / job / "initialised.json")]
        add(job, "evaluate init", measure, (job, "init"), ("none", "distill"))

    def initialised(job: str) -> str:
        return str(out / job / ("ar.safetensors" if job == "ar_diffusion" else "init.safetensors"))

    def distill(job: str, weights: str, *needs: tuple[str, str], extra: tuple[str, ...] = ()) -> None:
        files = ["conf/stages/distill.yaml", "conf/stages/distill_tiny.yaml"]
        if job in OBJECTIVES:
            files.append(f"conf/recipes/distill_{job}.yaml")
        if job == "rolling":
            files.insert(0, "conf/systems/rolling_forcing.yaml")
            extra = (*extra, *CHUNKS_OF_ONE)
        argv = ["fit", *common(job), *(word for file in files for word in ("--config", file)), *extra]
        argv += [f"--model.init_args.student.init_args.weights={weights}", f"--run.iterations={iterations}"]
        add(job, "distill", [*argv, "--trainer.log_every_n_steps=1"], *needs)
        measure = ["evaluate", "--run", str(out / job), "--rollouts", str(rollouts)]
        add(job, "evaluate", [*measure, "--json", str(out / job / "distilled.json")], (job, "distill"))

    world = ["shards", "--world", "plain", "--clips", "256", "--latents"]
    add("latents", "latents", [*world, "--out", str(out / "latents" / "shards")])
    distill("none", "builtin")
    for job in INITS:
        before = BEFORE.get(job)
        needs = [(before, "init")] if before else []
        if job == "causal_ode":
            argv = ["trajectories", *common(job), "--teacher", "causal", "--past", str(base / "shards")]
            add(job, "trajectories", [*argv, "--clips", "256", "--steps", "16"], *needs)
            needs = [(job, "trajectories")]
        init(job, *needs)
    for job in INITS:
        distill(job, initialised(job), (job, "init"))
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
    """The inputs that the jobs share, where their configs look for them."""
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


class Crew:
    """Runs steps side by side, each as soon as what it needs is done; a signal ends them so that they can go on.

    A step's mark tells its seconds on the clock and of a processor: the machine may have other work.
    """

    def __init__(self, out: Path, todo: list[Step], jobs: int) -> None:
        self.out, self.todo, self.jobs = out, todo, jobs
        self.children: list[subprocess.Popen[bytes]] = []
        self.lock, self.stopped, self.failed = threading.Condition(), False, list[str]()
        self.done = {(s.job, s.name) for s in todo if self.mark(s).get("done")}
        self.begun = set(self.done)

    def path(self, step: Step) -> Path:
        return self.out / step.job / "marks" / f"{step.name.replace(' ', '-')}.json"

    def mark(self, step: Step) -> dict[str, Any]:
        path = self.path(step)
        known = json.loads(path.read_text()) if path.is_file() else {}
        return known if known.get("argv") == step.argv else {}

    def run(self) -> None:
        before = {sign: signal.signal(sign, self.stop) for sign in (signal.SIGTERM, signal.SIGINT)}
        crew = [threading.Thread(target=self.work) for _ in range(self.jobs)]
        for thread in crew:
            thread.start()
        for thread in crew:
            while thread.is_alive():
                thread.join(0.5)  # a signal is heard between two waits
        for sign, handler in before.items():
            signal.signal(sign, handler)

    def stop(self, *_: object) -> None:
        self.stopped = True
        for child in self.children:
            child.send_signal(signal.SIGTERM)

    def work(self) -> None:
        while (step := self.next()) is not None:
            self.do(step)

    def next(self) -> Step | None:
        with self.lock:
            while not self.stopped and not self.failed:
                left = [s for s in self.todo if (s.job, s.name) not in self.begun]
                ready = [s for s in left if set(s.needs) <= self.done]
                if ready:
                    self.begun.add((ready[0].job, ready[0].name))
                    return ready[0]
                if not left:
                    return None
                self.lock.wait(1.0)
        return None

    def do(self, step: Step) -> None:
        before = self.mark(step)
        wall, cpu, began = before.get("wall_s", 0.0), before.get("cpu_s", 0.0), time.monotonic()
        argv = [*step.argv, "--ckpt_path=auto"] if step.argv[0] == "fit" and before else step.argv
        log = self.path(step).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        with log.open("ab") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "adastate.main", *argv], stdout=file, stderr=file, cwd=ROOT, env=environment
            )
            self.children.append(child)
            if self.stopped:
                child.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(child.pid, 0)
            code = child.returncode = os.waitstatus_to_exitcode(status)
        self.children.remove(child)
        wall, cpu = wall + time.monotonic() - began, cpu + usage.ru_utime + usage.ru_stime
        told = {"argv": step.argv, "done": code == 0, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
        self.path(step).write_text(json.dumps(told, indent=1))
        with self.lock:
            if code == 0:
                self.done.add((step.job, step.name))
            elif not self.stopped:
                self.failed.append(f"{step.job}/{step.name}: exit {code}, see {log}")
            print(
                f"{step.job}/{step.name}: {'done' if code == 0 else f'exit {code}'}, {cpu:.0f} s of a core", flush=True
            )
            self.lock.notify_all()


def lines(out: Path, todo: list[Step]) -> Iterator[str]:
    """The table, in Markdown, from what is there."""
    yield (
        "| stage | s of a core | loss, first tenth | last tenth | "
        + " | ".join(f"{part} {figure}" for part in ("1x", "6x") for figure in FIGURES)
        + " |"
    )
    yield "|" + "---|" * (4 + 2 * len(FIGURES))
    for job in dict.fromkeys(s.job for s in todo):
        for name, folder, json_file in (
            ("teacher", "teacher", None),
            ("init", "ar" if job == "ar_diffusion" else "init", "initialised.json"),
            ("distill", "distill", "distilled.json"),
        ):
            mark = out / job / "marks" / f"{name}.json"
            if not mark.is_file() or not json.loads(mark.read_text())["done"]:
                continue
            seconds = json.loads(mark.read_text()).get("cpu_s", float("nan"))
            found = curves(out / job / folder, LOSSES)
            losses = [ends(values) for tag, values in found.items() if tag != "critic/loss"]
            first, last = losses[0] if losses else (float("nan"), float("nan"))
            cells = [f"{job}, {name}", f"{seconds:.0f}", f"{first:.3f}", f"{last:.3f}"]
            yield "| " + " | ".join([*cells, *figures(out / job / json_file if json_file else None, name)]) + " |"


def figures(path: Path | None, name: str) -> list[str]:
    if path is None or not path.is_file():
        return [""] * (2 * len(FIGURES))
    rows = json.loads(path.read_text())["rows"]
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
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    base, out = args.base.absolute(), args.out.absolute()
    if not (base / "trajectories" / "index.json").is_file():
        raise SystemExit(f"{base} has no trajectories: make them with `make train RUN={args.base}`, or give --base")
    todo = steps(base, out, args.steps, args.iterations, args.rollouts)
    if args.only:
        todo = [s for s in todo if s.job in args.only]
    link(base, out, {s.job for s in todo})
    crew = Crew(out, todo, args.jobs)
    if not args.table:
        crew.run()
    table = "\n".join(lines(out, todo))
    (out / "table.md").write_text(table + "\n")
    print(table)
    if crew.failed:
        raise SystemExit("\n".join(crew.failed))
    if crew.stopped:
        raise SystemExit("stopped; run the same command again to go on")


if __name__ == "__main__":
    main()
