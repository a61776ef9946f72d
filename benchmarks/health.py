"""Healthy and unhealthy distillations at the tiny size, and the pictures of docs/results/health.md.

    python benchmarks/health.py train --run runs/tiny --only healthy     # minutes per run, on one core
    python benchmarks/health.py draw                                     # event files and videos -> pictures, a table

Every run starts from `--run`'s init.safetensors, except `no-init`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
STAGE = ("base", "sizes/tiny", "stages/distill", "stages/distill_tiny")

RUNS: dict[str, tuple[str, list[str]]] = {
    "healthy": ("the recipe as it is", []),
    "batch-1": ("one prompt an iteration, not 16", ["model.init_args.global_batch=1", "data.init_args.batch=1"]),
    "slow-critic": ("critic's rate 6e-6, not 6e-4", ["model.init_args.optimizer.critic_lr=6.0e-6"]),
    "no-init": ("student begins as the teacher", ["student.weights=builtin"]),
    "high-rate": ("student's rate 4e-3, not 1.2e-4", ["model.init_args.optimizer.student_lr=4.0e-3"]),
}
"""From the name to (the change, overrides)."""

COLOURS = dict(zip(RUNS, ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#666666"), strict=True))

CHARTS: dict[str, str] = {
    "student/score_gap": "score gap",
    "student/dmd_gradient": "DMD gradient: gap over |x - x0 of the teacher|",
    "critic/loss": "critic's loss",
    "student/gradient_norm": "student's gradient norm, before clipping",
    "rollout_1x/contrast": "contrast, last second of 1x",
    "rollout_6x/contrast": "contrast, last second of 6x",
    "rollout_1x/change": "change from picture to picture, 1x",
    "rollout_6x/saturation": "saturation, last second of 6x",
}
LEVELS = ("low", "middle", "high")
COLUMNS = 12
"""Number of pictures in a strip."""


def train_runs(run: Path, out: Path, names: list[str], iterations: int, every: int) -> None:
    """Trains the runs one after the other."""
    out.mkdir(parents=True, exist_ok=True)
    base = yaml.safe_load((ROOT / "conf/base.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]
    for callback in base:
        if callback["class_path"] == "callbacks.Rollouts":
            callback["init_args"] |= {"max_share": 1.0, "long_every": 1, "attention": False}
    watch = out / "watch.yaml"
    watch.write_text(yaml.safe_dump({"trainer": {"callbacks": base, "log_every_n_steps": 2}}), encoding="utf-8")
    files = [f"conf/{name}.yaml" for name in STAGE] + [str(watch)]
    for name in names:
        options = [
            f"run.dir={out / name}",
            f"run.iterations={iterations}",
            f"preview.every={every}",
            f"student.weights={run.resolve() / 'init.safetensors'}",
            *RUNS[name][1],
        ]
        words = (
            [w for file in files for w in ("--config", file)] + [f"--{option}" for option in options] + ["--overwrite"]
        )
        done = subprocess.run([sys.executable, "-m", "adastate.main", "fit", *words], cwd=ROOT)
        print(f"{name}: exit code {done.returncode}", flush=True)


def run_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run's event files: tag to (iteration, value)."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def smooth(points: list[tuple[int, float]], span: int = 5) -> tuple[list[int], list[float]]:
    """Running median, which a single spike does not affect."""
    steps, values = [s for s, _ in points], np.array([v for _, v in points])
    half = span // 2
    return steps, [float(np.median(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def draw_charts(found: dict[str, Any], charts: dict[str, str], path: Path, columns: int = 4) -> None:
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis, (tag, title) in zip(axes.flat, charts.items(), strict=False):
        for name, scalars in found.items():
            points = [p for p in scalars.get(tag, []) if np.isfinite(p[1])]
            if not points:
                continue
            steps, values = smooth(points) if len(points) > 20 else ([s for s, _ in points], [v for _, v in points])
            if len(points) > 20:
                axis.plot(*zip(*points, strict=True), color=COLOURS[name], alpha=0.25, linewidth=0.7)
            axis.plot(steps, values, color=COLOURS[name], label=name, linewidth=1.5)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
        if tag.endswith("gradient_norm"):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=85)


def preview_strip(folder: Path, horizon: int, row: int) -> list[np.ndarray]:
    """COLUMNS pictures, evenly spaced over the last rollout of `horizon` horizons of one prompt."""
    video = sorted((folder / "videos").glob(f"*-{horizon}x-{row}.mp4"))[-1]
    with av.open(str(video)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return [pictures[round(i * (len(pictures) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]


def draw_strips(folders: dict[str, Path], horizon: int, row: int, path: Path) -> None:
    """For the runs that have a preview after their first."""
    shown = [n for n, f in folders.items() if len([*f.glob(f"videos/*-{horizon}x-{row}.mp4")]) > (horizon == 1)]
    figure = Figure(figsize=(0.62 * COLUMNS + 1, 0.62 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), COLUMNS, squeeze=False)
    for name, line in zip(shown, axes, strict=True):
        for ax, picture in zip(line, preview_strip(folders[name], horizon, row), strict=True):
            ax.imshow(picture, interpolation="antialiased")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def health_figures(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each curve, the median of its last fifth; for previews, the last value."""
    rows: dict[str, dict[str, float]] = {}
    for name, scalars in found.items():
        rows[name] = {}
        for tag in [*CHARTS, *(f"critic/loss_{level}_noise" for level in LEVELS), "rollout_1x/saturation",
                    "rollout_6x/saturation", "rollout_6x/change", "rollout_6x/change_half_second",
                    "rollout_1x/sharpness", "rollout_6x/contrast_drift", "guard/skipped"]:  # fmt: skip
            values = [v for _, v in scalars.get(tag, [])]
            if values:
                late = values[-1:] if tag.startswith("rollout") else values[-max(1, len(values) // 5) :]
                rows[name][tag] = float(np.median(late))
                rows[name][f"{tag} at the start"] = float(np.median(values[: len(late)]))
    return rows


def draw_health(out: Path, images: Path) -> None:
    folders = {name: out / name / "distill" for name in RUNS if (out / name / "distill" / "videos").is_dir()}
    found = {name: run_scalars(folder) for name, folder in folders.items()}
    draw_charts(found, CHARTS, images / "curves.png")
    levels = {f"critic/loss_{level}_noise": f"critic's loss, {level} noise" for level in LEVELS}
    draw_charts(found, levels, images / "critic-levels.png", columns=3)
    for horizon in (1, 6):
        draw_strips(folders, horizon, 1, images / f"rollouts-{horizon}x.png")
    (out / "table.json").write_text(json.dumps(health_figures(found), indent=1), encoding="utf-8")
    print((out / "table.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "draw"))
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="a finished run, for its init.safetensors")
    parser.add_argument("--out", type=Path, default=Path("runs/health"))
    parser.add_argument("--only", nargs="*", choices=RUNS, default=[*RUNS])
    parser.add_argument("--iterations", type=int, default=72)
    parser.add_argument("--every", type=int, default=12, help="iterations between previews")
    parser.add_argument("--images", type=Path, default=ROOT / "docs/images/health")
    known = parser.parse_args()
    if known.what == "train":
        train_runs(known.run, known.out.resolve(), known.only, known.iterations, known.every)
    else:
        draw_health(known.out, known.images)


if __name__ == "__main__":
    main()
