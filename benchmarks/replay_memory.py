"""Memory of one student update by the length of its rollout: plain, with activation checkpointing, with replay.

    python benchmarks/replay_memory.py                      # runs/replay.json and docs/images/replay-memory.png

Measured is the peak of torch's allocator above its value before, from the rollout to the end of the backward pass:
graph, gradients, caches, scores. On a CPU, in float32, from the allocator's own events as recorded by torch.profiler.
Parameters, their gradients and the optimiser's state are allocated before and do not count.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

from adastate.encoders import TinyCodec, TinyText
from adastate.models.video_network import Size
from adastate.stream import StreamSpec
from adastate.training.critic import Critic
from adastate.training.distill import Distill, UpdateSchedule
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from datamodules.prompts import PromptData

ROOT = Path(__file__).parents[1]
SIZES: dict[str, tuple[Size, tuple[int, int], int]] = {
    "tiny": (Size(), (8, 8), 4),
    "wider": (Size(width=256, layers=8, heads=8, ffn=1024), (16, 16), 1),
}
"""From the name to (network, latent grid, batch)."""

WAYS: dict[str, dict[str, bool]] = {
    "plain": {},
    "activation checkpointing": {"checkpointing": True},
    "replay": {"replay": True},
    "replay and checkpointing": {"checkpointing": True, "replay": True},
    "the scores alone": {"replay": True, "scores": True},
}
"""`scores` measures only the part that is the same in all variants: teacher and critic on the whole clip, without a
graph."""


def peak(call: Callable[[], Any]) -> int:
    """Maximum bytes that the CPU's allocator held above its value before, while `call` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    assert seen.profiler is not None
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure_replay(size: Size, grid: tuple[int, int], batch: int, chunks: int, way: str) -> int:
    """Bytes of the update that needs the most memory, for rollouts of `chunks` chunks."""
    flags = WAYS[way]
    checkpointing, replay = flags.get("checkpointing", False), flags.get("replay", False)
    torch.manual_seed(0)
    spec = StreamSpec(chunk_frames=1, past_frames=3, state_frames=1, denoising_steps=(1000, 500))
    text = TinyText(size.text_tokens, size.text_width)
    student = Student(size, TinyCodec(), text, spec, grid, chunks, checkpointing=checkpointing)
    teacher, critic = Teacher(size, latent_size=grid, average=None), Critic(size)
    schedule = UpdateSchedule(student_every=1, critic_updates=0)
    module = Distill(teacher, student, critic, DMD(), 2, batch, schedule, replay=replay)
    found: list[int] = []
    name = "student_loss" if flags.get("scores") else "_replayed" if replay else "_learn"
    learn = getattr(module, name)

    def watched(*args: Any) -> Any:
        for p in student.net.parameters():
            p.grad = torch.zeros_like(p)
        kept: list[Any] = []
        found.append(peak(lambda: kept.append(learn(*args))))
        return kept[0]

    setattr(module, name, watched)
    quiet: dict[str, Any] = dict.fromkeys(("checkpointing", "progress_bar", "model_summary"), False)
    options = {f"enable_{part}": on for part, on in quiet.items()}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=-1, logger=False, **options)
    trainer.fit(module, datamodule=PromptData(batch=batch))
    return max(found)


def draw_memory(found: dict[str, dict[str, dict[str, int]]], path: Path) -> None:
    figure = Figure(figsize=(4.2 * len(found), 3.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)
    for axis, (name, ways) in zip(axes.flat, found.items(), strict=True):
        for way, by_chunks in ways.items():
            chunks = [int(n) for n in by_chunks]
            style = ":" if WAYS[way].get("scores") else "-"
            axis.plot(chunks, [b / 2**20 for b in by_chunks.values()], style, marker="o", markersize=3, label=way)
        size, grid, batch = SIZES[name]
        title = f"{size.layers} layers of {size.width}, latents {grid[0]} x {grid[1]}, batch {batch}"
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="chunks of the rollout", ylabel="peak of one student update, MiB", ylim=(0, None))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    axes.flat[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="*", default=[1, 2, 4, 7, 14, 21])
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=[*SIZES])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--json", type=Path, default=Path("runs/replay.json"), help="existing results in it are kept")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/images/replay-memory.png")
    known = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, int]]] = (
        json.loads(known.json.read_text(encoding="utf-8")) if known.json.is_file() else {}
    )
    for name in known.sizes:
        for way in known.ways:
            found.setdefault(name, {})[way] = {str(n): measure_replay(*SIZES[name], n, way) for n in known.chunks}
            told = "  ".join(f"{n}: {b / 2**20:.1f}" for n, b in found[name][way].items())
            print(f"{name:<8}{way:<26}MiB by chunks  {told}", flush=True)
    known.json.parent.mkdir(parents=True, exist_ok=True)
    known.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    draw_memory(found, known.png)


if __name__ == "__main__":
    main()
