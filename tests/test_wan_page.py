"""The commands that docs/guide/wan.md gives for a training by hand, each run as it stands at a very small size: a file
of the configuration is laid over that of Wan, and the folder of weights has random ones."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.weights import save_weights
from tests.support.tiny import randomise
from tests.support.wan_parts import write_parts

ROOT = Path(__file__).parents[1]
SMALL = """
size: {width: 48, layers: 2, heads: 2, ffn: 64, channels: 16, text_width: 16, text_tokens: 16, time_embedding_dim: 32}
latent_size: [4, 4]
rollout: {frames: 6, video_frames: 21, long_frames: 6, stream_frames: 12, rolling_frames: 9}
training:
  init: {steps: 2}
preview: {every: 0}
run: {iterations: 2}
trainer: {accelerator: cpu, devices: 1}
"""
SIZE = Size(
    width=48, layers=2, heads=2, ffn=64, channels=16, text_width=16, text_tokens=16, time_embedding_dim=32
)  # fmt: skip
LESS = {"--clips": "2", "--devices": "1", "--seconds": "1"}
MORE = {
    "trajectories": ["--steps", "4"],
    "stages/distill.yaml": ["--model.init_args.global_batch=1", "--model.init_args.schedule.critic_first=0"],
    "evaluate": ["--rollouts", "1", "--horizon", "1"],
}
"""Words beside those of the page, after a command, or after a command with such a file."""


def commands() -> list[list[str]]:
    """The words of the first block under "Running", with its variables put in."""
    page = (ROOT / "docs/guide/wan.md").read_text()
    block = re.search(r"## Running\n.*?```bash\n(.*?)```", page, re.S)
    assert block is not None
    given: dict[str, str] = {}
    found = []
    for line in block[1].splitlines():
        if setting := re.match(r'([A-Z]+)="(.*?)"', line):
            given[setting[1]] = setting[2]
            continue
        for name, value in given.items():
            line = line.replace(f"${name}", value)
        found.append(shlex.split(line)[1:])
    return found


def small(words: list[str]) -> list[str]:
    """The same command with little to do."""
    found = [LESS.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    if "conf/sizes/wan_1_3b.yaml" in found:
        at = max(i for i, word in enumerate(found) if word == "--config") + 2
        found[at:at] = ["--config", "small.yaml"]
    for key, extra in MORE.items():
        if found[0] == key or any(word.endswith(key) for word in found if found[0] == "fit"):
            found += extra
    return found


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    weights = write_parts(tmp_path / "weights" / "Wan2.1-T2V-1.3B-Diffusers")
    net = DiT(SIZE)
    randomise(net)
    save_weights(net, weights / "transformer" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "prompts").mkdir()
    for name in ("vidprom_filtered_extended.txt", "six.txt"):
        (tmp_path / "prompts" / name).write_text("a ball bounces\na ball\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for words in commands():
        done = subprocess.run(
            [sys.executable, "-m", "adastate", *small(words)], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    run = tmp_path / "runs" / "wan"
    assert (run / "init.safetensors").is_file() and (run / "student.safetensors").is_file()
    assert len(list((run / "generated").glob("*.mp4"))) == 1 and (run / "evaluation.json").is_file()
