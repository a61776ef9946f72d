"""VBench 0.1.5 itself reads what `--layout vbench` writes: its lists of videos, its frames, VBench-Long's clips.

    pip install --no-deps --target .venv/vbench vbench==0.1.5 decord==0.6.0

puts it where this test looks (`.ci/run` does so); ADASTATE_VBENCH names another folder. With its dependencies it would
ask for older versions than this project has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adastate.main import main

ROOT = Path(__file__).parents[2]
PACKAGES = Path(os.environ.get("ADASTATE_VBENCH", ROOT / ".venv/vbench"))
SLASH = "a coast at dawn, 16/9"
"""No list of VBench has such a prompt: no file can be called so."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PACKAGES / "vbench").is_dir(), reason=f"there is no vbench in {PACKAGES}"),
]


def test_vbench_finds_every_video_under_its_prompt(tmp_path: Path) -> None:
    listed = json.loads((PACKAGES / "vbench/VBench_full_info.json").read_text())
    prompts = [
        next(p["prompt_en"] for p in listed if p["prompt_en"].startswith(start))
        for start in ("A corgi's head", "a person")
    ]
    dimensions = sorted({d for p in listed if p["prompt_en"] in prompts for d in p["dimension"]})
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, SLASH]) + "\n")
    out = tmp_path / "videos"
    words = ["--layout", "vbench", "--prompts", str(tmp_path / "prompts.txt"), "--seconds", "2", "--samples", "2"]
    main(["generate", *words, "--size", "tiny", "--device", "cpu", "--out", str(out)])
    info = out.with_name("videos.info")
    command = [sys.executable, str(ROOT / "tests/support/vbench_worker.py"), str(PACKAGES), str(out)]
    done = subprocess.run([*command, str(info / "prompts.json"), *dimensions], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((info / "found.json").read_text())
    names = {prompt: [f"{prompt}-{i}.mp4" for i in range(2)] for prompt in prompts}
    assert found["standard"] == names, "the list that the metrics are computed over"
    (cut,) = found["unknown"]
    assert cut.startswith("a coast at dawn, 16-9~"), "only what a file system forbids has another name"
    assert found["custom"] == {
        **{name: prompt for prompt, of in names.items() for name in of},
        **{f"{cut}-{i}.mp4": SLASH for i in range(2)},
    }, "with --prompt_file each has its own prompt to the letter"
    ((pictures, *shape),) = found["shapes"]
    assert pictures >= 16 and shape == [3, 256, 256], "as generate writes them, enlarged"
    assert found["clip_prompts"] == sorted(prompts) and min(found["clips"].values()) >= 4, (
        "two videos of two seconds each"
    )
