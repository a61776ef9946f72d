"""Four nodes: load, prompt schedule, stream, state.

Their form is ComfyUI's first one (INPUT_TYPES, RETURN_TYPES, FUNCTION), which every version reads. What is ComfyUI's
own is imported when a node runs, so that this file can be read without it.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import adastate
from adastate.config import systems
from adastate.config.conf_files import conf_path
from adastate.inference import prompt_schedule
from adastate.live.step import Step

MODEL, PROMPTS, STEPS = "ADASTATE_MODEL", "ADASTATE_PROMPTS", "ADASTATE_STEPS"
"""Types of our own that links have."""

FROM_RUN, AS_TRAINED, AUTO = "(of the run)", "(as trained)", "auto"
PROMPT = "flying east over a pale snow, slow, a red ball bounces"
PREVIEW = 512
"""Longest side of the picture that is shown while a stream grows."""


class AdaStateLoad:
    """A model: the bundled one, a run folder, a repository of the Hub, or weights with a size."""

    CATEGORY, FUNCTION = "adastate", "load"
    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)
    DESCRIPTION = (
        "Empty: the bundled tiny student. Otherwise a run folder, owner/name on the Hub, or weights with a size."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sizes = sorted(path.stem for path in conf_path("conf/sizes").glob("*.yaml"))
        return {
            "required": {
                "source": ("STRING", {"default": "", "tooltip": cls.DESCRIPTION}),
                "size": ([FROM_RUN, *sizes], {"tooltip": "size of weights that lie outside a run folder"}),
                "system": (
                    [AS_TRAINED, *systems.system_names()],
                    {"tooltip": "system whose stream is used with these weights"},
                ),
                "device": ([AUTO, "cpu", "cuda"],),
            }
        }

    @classmethod
    def IS_CHANGED(cls, source: str, **_: Any) -> float:
        """When what lies there was last written: weights that are trained anew are loaded anew."""
        path = Path(source.strip())
        if not source.strip() or not path.exists():
            return 0.0
        files = [path] if path.is_file() else [p for p in path.glob("*.safetensors")]
        return max((file.stat().st_mtime for file in files), default=0.0)

    def load(self, source: str, size: str, system: str, device: str) -> tuple[adastate.Model]:
        model = adastate.load(
            source.strip() or None,
            None if size == FROM_RUN else size,
            None if system == AS_TRAINED else system,
            None if device == AUTO else device,
        )
        return (model,)


class AdaStatePrompts:
    """One prompt, or a schedule of them."""

    CATEGORY, FUNCTION = "adastate", "schedule"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    DESCRIPTION = "One prompt per line: '0s: ...', '4s recache: ...', '8s cut reset: ...'. A single line needs no time."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        text = ("STRING", {"default": f"0s: {PROMPT}", "multiline": True, "tooltip": cls.DESCRIPTION})
        return {"required": {"text": text}, "optional": {"before": (PROMPTS,)}}

    @classmethod
    def VALIDATE_INPUTS(cls, text: str) -> bool | str:
        """What is wrong with the lines, before anything runs."""
        lines = _lines(text)
        if not lines:
            return "a stream needs a prompt: write one"
        later = [line for line in lines if (at := prompt_schedule.MARKER.fullmatch(line)) and float(at[1])]
        try:
            prompt_schedule.parse_prompts(lines if later != lines else ["0s: before it", *lines])
        except ValueError as error:
            return str(error)
        return True

    def schedule(self, text: str, before: tuple[str, ...] = ()) -> tuple[tuple[str, ...]]:
        prompts = (*before, *_lines(text))
        if prompt_schedule.parse_prompts(prompts) is None and len(prompts) > 1:
            raise ValueError("several prompts are a schedule: write a time before each, '0s: ...' and '4s: ...'")
        return (prompts,)


class AdaStateStream:
    """Video, chunk by chunk, with a picture of the newest chunk and its state while it grows."""

    CATEGORY, FUNCTION = "adastate", "stream"
    RETURN_TYPES = ("IMAGE", "VIDEO", STEPS, "FLOAT")
    RETURN_NAMES = ("frames", "video", "steps", "fps")
    DESCRIPTION = "Streams video chunk by chunk; `steps` has the hidden state of each chunk."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL,),
                "prompts": (PROMPTS,),
                "seconds": ("FLOAT", {"default": 6.0, "min": 0.1, "max": 3600.0, "step": 0.1}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "an image that the video starts with"}),
                "actions": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "'0s: straight', '2s: left+climb'"},
                ),
            },
        }

    def stream(
        self,
        model: adastate.Model,
        prompts: tuple[str, ...],
        seconds: float,
        seed: int,
        image: Tensor | None = None,
        actions: str = "",
    ) -> tuple[Tensor, Any, list[Step], float]:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
        from comfy_api.latest import InputImpl, Types

        given = None if image is None else _picture(image)
        bar, total = ProgressBar(1), model.chunks(seconds, image=given is not None)
        steps = []
        for step in model.stream(prompts, seconds, seed, given, _lines(actions) or None):
            throw_exception_if_processing_interrupted()
            steps.append(step)
            bar.update_absolute(len(steps), total, ("JPEG", _newest(step), PREVIEW))
        frames = torch.cat([_floats(step.video) for step in steps])
        parts = Types.VideoComponents(images=frames, frame_rate=Fraction(model.fps))
        return frames, InputImpl.VideoFromComponents(parts), steps, float(model.fps)


class AdaStateState:
    """The decoded hidden states of a stream, which are never part of the video, and a strip of both."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "adastate", "states", True
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE"), ("states", "strip")
    DESCRIPTION = "Shows the stream, time to the right, with the hidden state of each chunk below it."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": (MODEL,), "steps": (STEPS,)}}

    def states(self, model: adastate.Model, steps: list[Step]) -> dict[str, Any]:
        import folder_paths

        found = [step.state for step in steps if step.state is not None]
        if not found:
            raise ValueError(
                f"the system {model.system or 'of these weights'} keeps no hidden state: there is none to show"
            )
        strip = model.strip(steps)
        folder, name, counter, below, _ = folder_paths.get_save_image_path(
            "adastate_state", folder_paths.get_temp_directory(), strip.width, strip.height
        )
        file = f"{name}_{counter:05}_.png"
        strip.save(os.path.join(folder, file))
        shown = [{"filename": file, "subfolder": below, "type": "temp"}]
        pictures = torch.from_numpy(np.array(strip.convert("RGB")))[None]
        return {"ui": {"images": shown}, "result": (torch.cat([_floats(s) for s in found]), _floats(pictures))}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _floats(pictures: Tensor) -> Tensor:
    """uint8 `[T, h, w, 3]` as ComfyUI's IMAGE: float in 0..1."""
    return pictures.float() / 255


def _picture(image: Tensor) -> Image.Image:
    """The last of an IMAGE `[B, h, w, C]`."""
    return Image.fromarray((image[-1, ..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())


def _newest(step: Step) -> Image.Image:
    """The last picture of a chunk, the state to its right."""
    shown = [step.video[-1]] + ([] if step.state is None else [step.state[-1]])
    return Image.fromarray(torch.cat(shown, 1).numpy())


NODE_CLASS_MAPPINGS = {
    "AdaStateLoad": AdaStateLoad,
    "AdaStatePrompts": AdaStatePrompts,
    "AdaStateStream": AdaStateStream,
    "AdaStateState": AdaStateState,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AdaStateLoad": "AdaState: load",
    "AdaStatePrompts": "AdaState: prompt schedule",
    "AdaStateStream": "AdaState: stream",
    "AdaStateState": "AdaState: hidden state",
}
