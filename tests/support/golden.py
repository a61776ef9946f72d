"""Whether two commits compute the same bytes on this machine: a change of names, files or structure must.

    python tests/support/golden.py compare main            # the commit `main` against this work tree
    python tests/support/golden.py compare OLD NEW         # two commits, or folders that `record` has written
    python tests/support/golden.py record FOLDER           # what this work tree computes

Each side runs by its own commands, in a checkout of its own: this file is part of the commit, so it changes along with
the keys and modules that it names. What is compared are tensors; names differ where `RENAMED` says so.

Recorded are, at the tiny size: trajectories, three steps of the codec, the teacher and of every initialisation; six
iterations of the distillation, plain, resumed after the third, on two DDP processes, and with ZeRO-2; forty chunks of
every system with a prompt switch halfway, and decoded states.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]

RENAMED: list[tuple[str, str]] = [(r"^init_ode_noisy\.pt$", "init_ode_noisy_context.pt")]
"""(pattern, replacement) by which an earlier commit's name of a file of records or a tensor becomes today's."""

BASE = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml"]
SHORT = ["--training.batch=8", "--preview.every=1000", "--trainer.max_steps=3"]
DISTILL = [
    "fit", *BASE, "--config", "conf/stages/distill.yaml", "--config", "conf/stages/distill_tiny.yaml",
    "--training.batch=8", "--preview.every=1000", "--run.save_every=3", "--model.init_args.global_batch=8",
    "--model.init_args.schedule.critic_first=1", "--student.weights=builtin",
]  # fmt: skip
INITS = {
    "ode": [],
    "ode_noisy_context": ["init_ode_noisy_context"],
    "ar_diffusion": ["init_ar_diffusion"],
    "diffusion_forcing": ["init_diffusion_forcing"],
    "causal_ode": ["init_causal_ode"],
    "consistency": ["init_consistency"],
}
CHUNKS = 40
PROMPTS = ["a slow flight north-east over a green meadow, a white ball bounces", "flying west over a blue ocean, fast"]
LATER = ["a dark lava seen from above, slow flight south", "a fast flight north over a yellow desert"]


# ---- recording


def record(out: Path) -> None:
    """Writes one file of named tensors for every part of what this work tree computes."""
    out.mkdir(parents=True, exist_ok=True)
    runs = out / "runs"
    run = runs / "base"
    adastate("shards", "--world", "plain", "--clips", "32", "--out", str(run / "shards"))
    teacher = ["--config", "conf/stages/teacher.yaml"]
    adastate("trajectories", *BASE, *teacher, "--clips", "16", "--steps", "16", f"--run.dir={run}")
    write(out / "trajectories.pt", dict(of_shards(run / "trajectories")))
    for stage in ("codec", "teacher"):
        words = ["--data.init_args.batch=4"] if stage == "codec" else ["--data.init_args.clips=16"]
        fit(run, stage, "--config", f"conf/stages/{stage}.yaml", *words)
        write(out / f"{stage}.pt", dict(of_weights(run / f"{stage}.safetensors")))
    for name, recipes in INITS.items():
        if name == "causal_ode":  # after ar_diffusion, whose network makes its paths
            adastate(
                *("trajectories", *BASE, *teacher, "--clips", "16", "--steps", "16", f"--run.dir={run}"),
                *("--teacher", "causal", "--past", str(run / "shards")),
            )
        stage = "ar" if name == "ar_diffusion" else "init"
        files = [word for recipe in recipes for word in ("--config", f"conf/recipes/{recipe}.yaml")]
        fit(run, stage, "--config", "conf/stages/init.yaml", *files)
        found = dict(of_checkpoint(newest(run / stage)))
        write(out / f"init_{name}.pt", found | dict(of_weights(run / f"{stage}.safetensors")))
        subprocess.run(["rm", "-rf", str(run / stage)], check=True)
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
    sides = {
        "plain": [],
        "ddp": ["--config", "conf/strategy/ddp.yaml", *two],
        "zero2": ["--config", "conf/strategy/zero2.yaml", *two],
    }
    for name, words in sides.items():
        adastate(*DISTILL, *words, "--run.iterations=6", f"--run.dir={runs / name}")
        write(out / f"distill_{name}.pt", dict(of_distillation(runs / name)))
    adastate(*DISTILL, "--run.iterations=3", f"--run.dir={runs / 'resumed'}")
    adastate(*DISTILL, "--run.iterations=6", "--ckpt_path=auto", f"--run.dir={runs / 'resumed'}")
    write(out / "distill_resumed.pt", dict(of_distillation(runs / "resumed")))
    streams(out)


def adastate(*words: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "adastate.main", *words], cwd=ROOT, env=env, text=True, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"adastate {' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def fit(run: Path, stage: str, *words: str) -> None:
    adastate("fit", *BASE, *words, *SHORT, f"--run.dir={run}", f"--run.stage={stage}")


def streams(out: Path) -> None:
    """Chunks and states of every system from the bundled weights, with a prompt switch halfway."""
    sys.path.insert(0, str(ROOT))
    from dataclasses import replace

    from adastate.config.compose import build, compose
    from adastate.config.systems import read_system, system_names
    from adastate.stream import PromptSwitch
    from adastate.training.student import Student

    torch.set_num_threads(1)
    os.chdir(ROOT)
    files = [Path("conf/base.yaml"), Path("conf/sizes/tiny.yaml"), Path("conf/stages/init.yaml")]
    node = compose(files).lightning["model"]
    student = build({**node, "init_args": {**node["init_args"], "weights": "builtin"}}, Student)
    student = student.eval().requires_grad_(False)
    for name in system_names():
        system = read_system(name, student.chunk_frames)
        for net in (student.net, student.ema.net):
            net.size = replace(net.size, rope_max_frames=max(net.size.rope_max_frames, system.rope_max_frames))
        frames = system.spec.frames_of(0) + (CHUNKS - 1) * system.spec.chunk_frames
        switches = {CHUNKS // 2: PromptSwitch(LATER)}
        found = {}
        for chunk in student.stream(PROMPTS, frames, seed=3, spec=system.spec, switches=switches):
            found[f"{chunk.index}.content"] = chunk.content
            if chunk.state is not None:
                found[f"{chunk.index}.state"] = chunk.state
                found[f"{chunk.index}.decoded"] = student.codec.decode(chunk.state)
        write(out / f"stream_{name}.pt", found)


def newest(stage: Path) -> Path:
    found = sorted(p for p in (stage / "checkpoints").iterdir() if p.name.isdigit())
    if not found:
        raise SystemExit(f"no checkpoint in {stage}")
    return found[-1] / "state.ckpt"


def of_distillation(run: Path) -> Iterator[tuple[str, Tensor]]:
    yield from of_checkpoint(newest(run / "distill"))
    yield from of_weights(run / "student.safetensors")


def of_checkpoint(state: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a checkpoint, of one file or of one a rank and network."""
    for file in sorted(state.glob("*.pt")) if state.is_dir() else [state]:
        yield from tensors(torch.load(file, map_location="cpu", weights_only=True), file.name)


def of_weights(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    yield from tensors(load_file(file), file.name)


def of_shards(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if member.name.endswith(".npy") and content is not None:
                    yield f"{file.name}/{member.name}", torch.from_numpy(np.load(io.BytesIO(content.read())))


def tensors(node: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield place, node.detach().clone()
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from tensors(value, f"{place}/{key}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from tensors(value, f"{place}/{i}")


def write(file: Path, found: dict[str, Tensor]) -> None:
    if not found:
        raise SystemExit(f"nothing to record in {file.name}")
    torch.save(found, file)
    print(f"{file.name}: {len(found)} tensors", flush=True)


# ---- comparing


def compare(before: Path, after: Path) -> list[str]:
    """What differs, a line each; nothing where all tensors have the same bytes."""
    wrong = []
    theirs = {renamed(p.name): p for p in before.glob("*.pt")}
    ours = {p.name: p for p in after.glob("*.pt")}
    for name in sorted(ours.keys() ^ theirs.keys()):
        wrong.append(f"{name}: only {'after' if name in ours else 'before'}")
    for name in sorted(ours.keys() & theirs.keys()):
        old = {renamed(k): v for k, v in torch.load(theirs[name], weights_only=True).items()}
        new = torch.load(ours[name], weights_only=True)
        for key in sorted(old.keys() ^ new.keys()):
            wrong.append(f"{name}: {key} only {'after' if key in new else 'before'}")
        for key in sorted(old.keys() & new.keys()):
            if bytes_of(old[key]) != bytes_of(new[key]):
                wrong.append(f"{name}: {key} {apart(old[key], new[key])}")
    return wrong


def renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def bytes_of(tensor: Tensor) -> tuple[Any, ...]:
    flat = tensor.contiguous().reshape(-1)
    return tuple(tensor.shape), tensor.dtype, flat.view(torch.uint8).numpy().tobytes()


def apart(old: Tensor, new: Tensor) -> str:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{tuple(old.shape)} {old.dtype} before, {tuple(new.shape)} {new.dtype} after"
    return f"differs by up to {float((old.double() - new.double()).abs().max()):.3g}"


def side(name: str | None, scratch: Path) -> Path:
    """A folder of records: one that is there, or what a commit (None: this work tree) records now."""
    if name is not None and Path(name).is_dir():
        return Path(name)
    tree, out = ROOT, scratch / (name or "work tree").replace("/", "-")
    if name is not None:
        tree = scratch / "trees" / out.name
        subprocess.run(["git", "clone", "-q", "--no-checkout", str(ROOT), str(tree)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", f"{name}^{{commit}}"], cwd=ROOT, check=True, text=True, capture_output=True
        )
        subprocess.run(["git", "checkout", "-q", "--detach", commit.stdout.strip()], cwd=tree, check=True)
    script = tree / "tests/support/golden.py"
    if not script.is_file():
        raise SystemExit(f"{name} is older than the golden script: it cannot say how it is run")
    subprocess.run([sys.executable, str(script), "record", str(out)], cwd=tree, check=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("folder", type=Path)
    pair = verbs.add_parser("compare")
    pair.add_argument("before")
    pair.add_argument("after", nargs="?")
    args = parser.parse_args()
    if args.verb == "record":
        record(args.folder.resolve())
        return
    with tempfile.TemporaryDirectory() as scratch:
        before, after = (side(name, Path(scratch)) for name in (args.before, args.after))
        wrong = compare(before, after)
        facts = {"parts": len(list(after.glob("*.pt"))), "differences": len(wrong)}
    print("\n".join([*wrong[:40], json.dumps(facts)]))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
