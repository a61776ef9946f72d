"""The node pack keeps ComfyUI's contract: its form, the types on its links, IMAGE and VIDEO, progress, interruption."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import adastate
from comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from comfyui.nodes import AdaStateLoad, AdaStatePrompts
from tests.support.comfy_rules import Comfy, Interrupted, Refused, SaveVideo, check, prompt_of, run

ROOT = Path(__file__).parents[2]
CLASSES = {**NODE_CLASS_MAPPINGS, "SaveVideo": SaveVideo}
OWN = ("ADASTATE_MODEL", "ADASTATE_PROMPTS", "ADASTATE_STEPS")


@pytest.fixture
def workflow() -> dict[str, Any]:
    """The example, for a second of video."""
    found = json.loads((ROOT / "comfyui/flyover_api.json").read_text())
    found["3"]["inputs"]["seconds"] = 1.0
    found["2"]["inputs"]["text"] = found["2"]["inputs"]["text"].replace("2s", "0.5s")
    found["1"]["inputs"]["device"] = "cpu"
    return dict(found)


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    found = Comfy(tmp_path)
    found.install(monkeypatch)
    return found


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_a_node_has_the_form_that_comfyui_reads(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    told = node.INPUT_TYPES()
    assert set(told) <= {"required", "optional", "hidden"}
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) and isinstance(node.RETURN_TYPES, tuple)
    parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
    assert set(told["required"]) | set(told.get("optional", {})) == set(parameters) - {"self"}
    assert all(parameters[n].default is not inspect.Parameter.empty for n in told.get("optional", {}))
    for spec in [*told["required"].values(), *told.get("optional", {}).values()]:
        assert isinstance(spec[0], list) or spec[0] in ("STRING", "INT", "FLOAT", "BOOLEAN", "IMAGE", *OWN)
        json.dumps(spec)  # the page gets it so
    assert node.CATEGORY == "adastate" and node.DESCRIPTION
    assert NODE_DISPLAY_NAME_MAPPINGS.keys() == NODE_CLASS_MAPPINGS.keys()


def test_the_example_workflow(workflow: dict[str, Any], comfy: Comfy) -> None:
    made, shown = run(workflow, CLASSES)
    frames, _, steps, fps = made["3"]
    assert frames.dtype == torch.float32 and frames.shape[1:] == (32, 32, 3) and fps == 8.0
    assert frames.min() >= 0 and 0.5 < frames.max() <= 1
    (video,) = shown["5"]["images"]
    assert torch.equal(video.images, frames) and video.frame_rate == 8
    states, strip = made["4"]
    assert states.shape[1:] == (32, 32, 3) and states.dtype == torch.float32 and strip.shape[0] == 1
    (picture,) = shown["4"]["images"]
    assert Image.open(comfy.temp / picture["filename"]).width == strip.shape[2]
    assert picture["type"] == "temp" and picture["subfolder"] == ""
    assert [value for value, _, _ in comfy.progress] == list(range(1, len(steps) + 1))
    assert {total for _, total, _ in comfy.progress} == {len(steps)}
    kind, newest, side = comfy.progress[-1][2]
    assert kind == "JPEG" and newest.size == (64, 32) and side == 512, "the video, and its state to the right"
    assert steps[-1].prompt != steps[0].prompt, "the schedule has a second prompt"
    ours = adastate.load(device="cpu").stream(workflow["2"]["inputs"]["text"].splitlines(), seconds=1.0, seed=0)
    assert torch.equal(torch.cat([s.video for s in ours]).float() / 255, frames)


def test_the_example_of_the_page_is_the_one_of_the_http_api() -> None:
    """The page lists what lies in example_workflows/ as templates, and opens its own form alone."""
    (page,) = (json.loads(path.read_text()) for path in (ROOT / "comfyui/example_workflows").glob("*.json"))
    assert {"version", "nodes", "links", "last_node_id", "last_link_id"} <= page.keys()
    api = json.loads((ROOT / "comfyui/flyover_api.json").read_text())
    assert prompt_of(page, CLASSES) == {
        **api, "3": {**api["3"], "inputs": {**api["3"]["inputs"], "actions": ""}}
    }  # fmt: skip
    check(prompt_of(page, CLASSES), CLASSES)
    corners = [(*node["pos"], *node["size"]) for node in page["nodes"]]
    for x, y, w, h in corners:
        others = [c for c in corners if c != (x, y, w, h)]
        assert not [c for c in others if x < c[0] + c[2] and c[0] < x + w and y < c[1] + c[3] and c[1] < y + h]


def test_a_picture_to_begin_with_is_an_image_of_comfyui(workflow: dict[str, Any], comfy: Comfy) -> None:
    class Red:
        RETURN_TYPES, FUNCTION = ("IMAGE",), "make"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def make(self) -> tuple[torch.Tensor]:
            return (torch.tensor([1.0, 0.0, 0.0]).expand(2, 48, 48, 3),)

    workflow["6"] = {"class_type": "Red", "inputs": {}}
    workflow["3"]["inputs"]["image"] = ["6", 0]
    frames = run(workflow, {**CLASSES, "Red": Red})[0]["3"][0]
    assert frames[0, ..., 0].mean() > 0.7 and frames[0, ..., 1:].mean() < 0.3
    assert {total for _, total, _ in comfy.progress} == {len(comfy.progress)}


def test_it_can_be_interrupted_between_two_chunks(workflow: dict[str, Any], comfy: Comfy) -> None:
    comfy.interrupt_after = 2
    with pytest.raises(Interrupted):
        run(workflow, CLASSES)
    assert len(comfy.progress) == 2


@pytest.mark.parametrize(
    ("node", "name", "value", "sentence"),
    [
        ("2", "text", "0s: a\n4s: b\n3s: c", "the times of the prompts must rise"),
        ("2", "text", "0s: a\n4s twist: b", "asks for 'twist'"),
        ("2", "text", " \n", "a stream needs a prompt: write one"),
        ("1", "system", "longlift", "Value not in list"),
        ("3", "seconds", 0.0, "Value out of bounds"),
        ("3", "prompts", ["1", 0], "Return type mismatch"),
        ("4", "steps", ["3", 0], "Return type mismatch"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    workflow: dict[str, Any], node: str, name: str, value: Any, sentence: str
) -> None:
    check(workflow, CLASSES)
    wrong = copy.deepcopy(workflow)
    wrong[node]["inputs"][name] = value
    with pytest.raises(Refused, match=sentence):
        check(wrong, CLASSES)


def test_schedules_can_be_put_together() -> None:
    first = AdaStatePrompts().schedule("0s: a")[0]
    assert AdaStatePrompts.VALIDATE_INPUTS("4s cut: b\n8s: c") is True, "the rest of one"
    assert AdaStatePrompts().schedule("4s cut: b\n8s: c", first) == (("0s: a", "4s cut: b", "8s: c"),)
    assert AdaStatePrompts().schedule("just one") == (("just one",),)
    with pytest.raises(ValueError, match="write a time before each"):
        AdaStatePrompts().schedule("one\ntwo")


def test_a_system_without_a_state_says_so(workflow: dict[str, Any], comfy: Comfy) -> None:
    workflow["1"]["inputs"]["system"] = "self_forcing"
    with pytest.raises(ValueError, match="the system self_forcing keeps no hidden state"):
        run(workflow, CLASSES)


def test_weights_that_are_written_anew_are_loaded_anew(tmp_path: Path) -> None:
    told = {"size": "tiny", "system": "", "device": "cpu"}
    assert AdaStateLoad.IS_CHANGED("", **told) == AdaStateLoad.IS_CHANGED("owner/name", **told) == 0.0
    file = tmp_path / "student.safetensors"
    file.write_bytes(b"1")
    before = AdaStateLoad.IS_CHANGED(str(tmp_path), **told)
    os.utime(file, (before + 5, before + 5))
    assert AdaStateLoad.IS_CHANGED(str(tmp_path), **told) == before + 5 == AdaStateLoad.IS_CHANGED(str(file), **told)


def test_without_adastate_the_pack_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "adastate"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("pack", ROOT / "comfyui/__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pack", module)
    with pytest.raises(ImportError, match="need adastate in ComfyUI's own Python"):
        spec.loader.exec_module(module)


def test_the_registry_finds_what_it_reads() -> None:
    told = tomllib.loads((ROOT / "comfyui/pyproject.toml").read_text())
    assert told["project"]["version"] == adastate.__version__
    assert told["project"]["name"] == "comfyui-adastate" and told["tool"]["comfy"]["DisplayName"] == "AdaState"
