"""ComfyUI's side of the contract with V1 nodes (execution.py and nodes.py of 0.3.64): how a workflow of its HTTP
API is checked and run, and stand-ins for the modules that nodes import from it."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

WIDGETS = {"STRING": str, "INT": int, "FLOAT": (int, float), "BOOLEAN": bool}


class Refused(ValueError):
    """What the server answers with 400."""


class Interrupted(Exception):
    """What the interrupt button raises."""


@dataclass
class Video:
    images: Tensor
    frame_rate: Fraction
    audio: Any = None


@dataclass
class Comfy:
    """What nodes did: progress as (value, total, preview), and whether the user has interrupted."""

    temp: Path
    progress: list[tuple[int, int, Any]] = field(default_factory=list)
    interrupt_after: int = 10**9

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                self.total = total or self.total
                comfy.progress.append((min(value, self.total), self.total, preview))

        def check() -> None:
            if len(comfy.progress) >= comfy.interrupt_after:
                raise Interrupted

        class VideoFromComponents:
            def __init__(self, components: Video) -> None:
                self.components = components

            def get_components(self) -> Video:
                return self.components

        def save_path(prefix: str, folder: str, width: int = 0, height: int = 0) -> tuple[str, str, int, str, str]:
            return folder, prefix, 1, "", prefix

        spaces: dict[str, dict[str, Any]] = {
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.model_management": {"throw_exception_if_processing_interrupted": check},
            "comfy_api": {},
            "comfy_api.latest": {
                "InputImpl": type("InputImpl", (), {"VideoFromComponents": VideoFromComponents}),
                "Types": type("Types", (), {"VideoComponents": Video}),
            },
            "folder_paths": {
                "get_temp_directory": lambda: str(self.temp),
                "get_save_image_path": save_path,
            },
        }
        for name, content in spaces.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)


class SaveVideo:
    """ComfyUI's own node, as far as a workflow is concerned."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "save", True, "video"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        words = ("STRING", {})
        return {
            "required": {"video": ("VIDEO",), "filename_prefix": words, "format": (["auto"],), "codec": (["auto"],)}
        }

    def save(self, video: Any, filename_prefix: str, format: str, codec: str) -> dict[str, Any]:
        return {"ui": {"images": [video.get_components()]}}


def prompt_of(page: dict[str, Any], classes: dict[str, Any]) -> dict[str, Any]:
    """What the page sends for a workflow in its own form: nodes whose widgets stand in the order of their inputs, and
    links [number, from, output, to, input, type]; a seed has a second widget, what becomes of it after a run."""
    links = {link[0]: link for link in page["links"]}
    made = {}
    for node in page["nodes"]:
        told = classes[node["type"]].INPUT_TYPES()
        inputs: dict[str, Any] = {}
        values = iter(node["widgets_values"])
        for name, spec in {**told.get("required", {}), **told.get("optional", {})}.items():
            if isinstance(spec[0], list) or spec[0] in WIDGETS:
                inputs[name] = next(values)
                if len(spec) > 1 and spec[1].get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert not list(values), f"{node['type']} has no widget for them"
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is not None:
                _, source, output, target, at, kind = links.pop(socket["link"])
                (there,) = (n for n in page["nodes"] if n["id"] == source)
                assert (target, at, kind) == (node["id"], slot, socket["type"])
                assert there["outputs"][output]["type"] == kind and classes[there["type"]].RETURN_TYPES[output] == kind
                inputs[socket["name"]] = [str(source), output]
        made[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    assert not links, "no node has them"
    return made


def check(workflow: dict[str, Any], classes: dict[str, Any]) -> None:
    """Raises Refused as the server does, before anything is run."""
    for number, node in workflow.items():
        cls = classes[node["class_type"]]
        told = cls.INPUT_TYPES()
        for name, spec in {**told.get("required", {}), **told.get("optional", {})}.items():
            if name not in node["inputs"]:
                if name in told.get("required", {}):
                    raise Refused(f"{number}: Required input is missing: {name}")
                continue
            value, kind = node["inputs"][name], spec[0]
            limits = spec[1] if len(spec) > 1 else {}
            if isinstance(value, list):
                source = classes[workflow[value[0]]["class_type"]]
                if source.RETURN_TYPES[value[1]] != kind:
                    raise Refused(f"{number}: Return type mismatch: {name}, {source.RETURN_TYPES[value[1]]} != {kind}")
            elif isinstance(kind, list):
                if value not in kind:
                    raise Refused(f"{number}: Value not in list: {name}: {value!r}")
            elif kind not in WIDGETS or not isinstance(value, WIDGETS[kind]):
                raise Refused(f"{number}: {name} takes a link of type {kind}")
            elif not limits.get("min", value) <= value <= limits.get("max", value):
                raise Refused(f"{number}: Value out of bounds: {name}")
        if hasattr(cls, "VALIDATE_INPUTS"):
            wanted = inspect.signature(cls.VALIDATE_INPUTS).parameters
            answer = cls.VALIDATE_INPUTS(**{k: v for k, v in node["inputs"].items() if k in wanted})
            if answer is not True:
                raise Refused(f"{number}: Custom validation failed for node: {answer}")


def run(workflow: dict[str, Any], classes: dict[str, Any]) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """(outputs of every node, what the output nodes show), in the order of the links."""
    check(workflow, classes)
    made: dict[str, tuple[Any, ...]] = {}
    shown: dict[str, Any] = {}

    def result(number: str) -> tuple[Any, ...]:
        if number not in made:
            node = workflow[number]
            cls = classes[node["class_type"]]
            linked = {k: result(v[0])[v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
            found = getattr(cls(), cls.FUNCTION)(**linked)
            if isinstance(found, dict):
                shown[number] = found["ui"]
                found = found.get("result", ())
            assert isinstance(found, tuple) and len(found) == len(cls.RETURN_TYPES), (
                number,
                "one value for each output",
            )
            made[number] = found
        return made[number]

    outputs = [n for n, node in workflow.items() if getattr(classes[node["class_type"]], "OUTPUT_NODE", False)]
    if not outputs:
        raise Refused("Prompt has no outputs")
    for number in outputs:
        result(number)
    return made, shown
