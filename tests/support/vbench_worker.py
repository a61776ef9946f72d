"""VBench's own readers over a folder of videos, in a process of its own; prints what they found as JSON.

    python vbench_worker.py PACKAGES VIDEOS PROMPT_FILE DIMENSION...

PACKAGES holds vbench and decord as pip puts them there without their dependencies. What else their modules import at
their heads is replaced by names that do nothing: the readers need none of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

ABSENT = ("torchvision", "cv2", "scenedetect", "moviepy", "easydict", "scipy", "clip", "dreamsim", "timm", "pyiqa")


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of packages that are not there."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module: Any = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        pass


def main(packages: str, videos: str, prompt_file: str, *dimensions: str) -> None:
    sys.meta_path.insert(0, _Nothing())
    sys.path.insert(0, packages)
    import vbench
    from vbench.utils import get_prompt_from_filename, load_dimension_info, load_video

    out, folder = tempfile.mkdtemp(), Path(videos)
    full = Path(vbench.__file__).with_name("VBench_full_info.json")
    prompts = {p["prompt_en"] for p in json.loads(full.read_text())}
    wanted = {get_prompt_from_filename(p.name) for p in folder.iterdir()}
    few = Path(out) / "few.json"
    few.write_text(json.dumps([p for p in json.loads(full.read_text()) if p["prompt_en"] in wanted]))
    bench = vbench.VBench("cpu", str(few), out)
    standard = bench.build_full_info_json(videos, "standard", list(dimensions))
    told = json.loads(Path(prompt_file).read_text())
    custom = bench.build_full_info_json(videos, "custom", ["motion_smoothness"], told, mode="custom_input")
    video_list = [path for dimension in dimensions for path in load_dimension_info(standard, dimension, "en")[0]]
    found = {
        "unknown": sorted(wanted - prompts),
        "standard": {
            e["prompt_en"]: [Path(v).name for v in e["video_list"]] for e in json.loads(Path(standard).read_text())
        },
        "custom": {Path(e["video_list"][0]).name: e["prompt_en"] for e in json.loads(Path(custom).read_text())},
        "shapes": sorted({tuple(load_video(path).shape) for path in video_list}),
        **_long(folder, few, out, dimensions),
    }
    Path(prompt_file).with_name("found.json").write_text(json.dumps(found))


def _long(folder: Path, full: Path, out: str, dimensions: tuple[str, ...]) -> dict[str, Any]:
    """VBench-Long: the clips that it cuts out of the videos, and the prompts that it knows them by."""
    from vbench2_beta_long import VBenchLong, utils

    utils.get_video_properties = lambda path: {"fps": 8, "width": 32, "height": 32}
    utils.write_video = lambda path, frames, fps: Path(path).write_bytes(bytes(len(frames)))
    listed = os.listdir
    # it takes the ending of whatever the system lists first, which may be its own folder of clips
    os.listdir = lambda path=".": sorted(listed(path))  # type: ignore[assignment]
    known = json.loads(full.read_text())
    lengths = dict.fromkeys((d for prompt in known for d in prompt["dimension"]), 1)
    for name in sorted(p.name for p in folder.iterdir()):
        length = utils.get_duration_from_json(str(folder / name), known, lengths)
        if length is not None:  # its prompt is in the list
            utils.split_video_into_clips(str(folder / name), str(folder / "split_clip"), length)
    long = VBenchLong("cpu", str(full), out)
    made = long.build_full_info_json(
        str(folder), "long", list(dimensions), mode="long_vbench_standard", num_of_samples_per_prompt=2
    )
    entries = json.loads(Path(made).read_text())
    return {
        "clips": {e["prompt_en"]: len(e["video_list"]) for e in entries},
        "clip_prompts": sorted({utils.get_prompt_from_filename(v) for e in entries for v in e["video_list"]}),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
