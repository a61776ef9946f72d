"""Reads a composed config as a run whose cost can be counted."""

from __future__ import annotations

import inspect
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import nn

from adastate.config.classes import class_at
from adastate.config.schema import Config, ConfigError
from adastate.encoders import GroupCodec
from adastate.models.masks import teacher_forcing
from adastate.models.video_network import Size
from adastate.plan.cost import CountedPass, StepCost, forced_passes, frame_tokens, parameters
from adastate.plan.memory import Net
from adastate.plan.runs import ClipRun, CodecRun, DistillRun, Encoder, Run
from adastate.stream import StreamSpec

PRETRAINED = {"WanVAE": 126_892_531, "Wan2.2's VAE": 704_688_668, "UMT5": 5_680_910_336, "TinyText": 0}
"""Parameters of encoders that are not built for counting."""

UNCAST = {"WanVAE": 53_596_928, "Wan2.2's VAE": 149_637_088}
"""Those of them that stay in float32 whatever the `dtype`: the part that the Wan VAE encodes with."""

CHANNELS_22 = 48
"""Channels of the latents of Wan2.2's VAE."""


def configured_run(config: Config) -> Run:
    """The run of a composed config.

    Raises:
        ConfigError: it contains no stage that can be counted, or lacks something that the stage needs.
    """
    model, data = (config.lightning.get(key) for key in ("model", "data"))
    if not model or not data:
        raise ConfigError("these config files contain no stage: add one of conf/stages/")
    kind, found = _arguments(model)
    _, fed = _arguments(data)
    trainer = config.lightning.get("trainer") or {}
    shared: dict[str, Any] = {
        "batch": int(fed.get("batch", 1)),
        "global_batch": None,
        "iterations": max(0, int(trainer.get("max_steps") or 0)),
        "precision": str(trainer.get("precision") or "32-true"),
    }
    readers = {"Distill": _distill, "Teacher": _teacher, "Student": _init, "CodecTraining": _codec}
    if kind not in readers:
        raise ConfigError(f"{kind} is not a stage that can be planned; use one of {', '.join(readers)}")
    return readers[kind](found, fed, config.variables, shared)


def _distill(found: dict[str, Any], fed: dict[str, Any], variables: dict[str, Any], shared: dict[str, Any]) -> Run:
    parts = {name: _arguments(found[name])[1] for name in ("student", "critic", "teacher")}
    student, teacher = parts["student"], parts["teacher"]
    nets = tuple(_net(name, p, name != "teacher", name == "student") for name, p in parts.items())
    spec, size = _spec(student), _size(student)
    tokens = frame_tokens(size, tuple(student["latent_size"]))
    recipe = StepCost(
        size,
        _size(teacher),
        _size(parts["critic"]),
        spec,
        tokens,
        int(student["rollout_frames"]),
        guided=float(teacher["guidance"]) != 0,
        states=_given(found["objective"]).get("state_loss", "none") != "none",
    )
    shared |= {"iterations": int(found["iterations"]), "global_batch": int(found["global_batch"])}
    spec.chunks(recipe.frames)
    return DistillRun(
        "distill",
        nets,
        encoders(student),
        tokens,
        recipe.frames,
        recipe=recipe,
        **shared,
        **found["schedule"],
    )


def _teacher(found: dict[str, Any], fed: dict[str, Any], variables: dict[str, Any], shared: dict[str, Any]) -> Run:
    net, frames = _net("teacher", found, True, found["average"] is not None), int(found["rollout_frames"])
    tokens = frame_tokens(_size(found), tuple(found["latent_size"]))
    passes = (CountedPass(frames, grad=True),)
    return ClipRun("teacher", (net,), encoders(found), tokens, frames, passes=passes, **shared)


def _init(found: dict[str, Any], fed: dict[str, Any], variables: dict[str, Any], shared: dict[str, Any]) -> Run:
    net, frames, spec = _net("student", found, True, True), int(found["rollout_frames"]), _spec(found)
    tokens = frame_tokens(_size(found), tuple(found["latent_size"]))
    spec.chunks(frames)
    if _given(found["init"]).get("state_target", "none") == "none":
        mask = teacher_forcing(frames, spec.chunk_frames, spec.past_frames)
        passes: tuple[CountedPass, ...] = (CountedPass(2 * frames, visible=mask, grad=True),)
    else:
        passes = tuple(forced_passes(spec, frames))
    return ClipRun("init", (net,), encoders(found), tokens, frames, passes=passes, **shared)


def _codec(found: dict[str, Any], fed: dict[str, Any], variables: dict[str, Any], shared: dict[str, Any]) -> Run:
    codec = _built(found["codec"])
    if not isinstance(codec, GroupCodec):
        raise ConfigError(f"{type(codec).__name__} cannot be planned; TinyCodec and ResidualCodec can")
    net = Net("codec", parameter_count(codec), averaged=found["ema"] is not None, drawn=True)
    height, width = variables.get("latent_size") or (8, 8)
    frames = int(fed.get("excerpt") or fed.get("video_frames") or 0) // codec.group
    side = (codec.scale * height, codec.scale * width)
    return CodecRun("codec", (net,), (), 0, frames, codec=codec, side=side, **shared)


def _arguments(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(class name, its arguments, including defaults that the config does not set); blocks are dicts."""
    made = class_at(node["class_path"])
    silent = {p.name: p.default for p in inspect.signature(made).parameters.values() if p.default is not p.empty}
    blocks = {
        name: asdict(block) for name, block in silent.items() if is_dataclass(block) and not isinstance(block, type)
    }
    given = node.get("init_args") or {}
    for name in blocks.keys() & given.keys():
        blocks[name] = given[name] if given[name] is None else {**blocks[name], **given[name]}
    return made.__name__, {**silent, **given, **blocks}


def _given(node: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments that a config gives to a class within a stage, such as an objective."""
    return (node or {}).get("init_args") or {}


def _built(node: dict[str, Any]) -> Any:
    """The codec that a config names, without weights, on torch's meta device, where it takes no memory."""
    try:
        with torch.device("meta"):
            return class_at(node["class_path"])(**{**(node.get("init_args") or {}), "weights": None})
    except TypeError as error:
        raise ConfigError(f"{node['class_path']} cannot be counted, as its size is unknown: {error}") from error


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _size(found: dict[str, Any]) -> Size:
    sizes: dict[str, Any] = {k: tuple(v) if k == "patch" else v for k, v in found["size"].items()}
    return Size(**sizes)


def _spec(found: dict[str, Any]) -> StreamSpec:
    return StreamSpec.of(found["stream"])


def _net(name: str, found: dict[str, Any], trained: bool, averaged: bool) -> Net:
    if found.get("lora"):
        raise ConfigError(
            f"the {name} is trained through adapters, and only full training can be planned: leave lora out"
        )
    size = _size(found)
    cast = found.get("compute_dtype") not in (None, "float32")
    again, drawn = trained and bool(found["checkpointing"]), found.get("weights") is None
    return Net(name, parameters(size), size, trained, averaged, again, cast, drawn)


def _channels(found: dict[str, Any]) -> int:
    return int((found.get("size") or found.get("teacher_size") or {}).get("channels") or 0)


def encoders(found: dict[str, Any]) -> tuple[Encoder, ...]:
    """The codec and the text encoder named by a stage, or by the variables of a configuration."""
    made = []
    for part in ("codec", "text"):
        if not found.get(part):
            continue
        kind, given = _arguments(found[part])
        if kind == "WanVAE" and _channels(found) == CHANNELS_22:
            kind = "Wan2.2's VAE"
        n = PRETRAINED[kind] if kind in PRETRAINED else parameter_count(_built(found[part]))
        each, whole = {"bfloat16": 2, "float16": 2}.get(str(given.get("dtype")), 4), UNCAST.get(kind, 0)
        # UMT5's weights stay in host memory: encoding on a device uses a copy, which is freed before anything is kept
        device = "processor" if kind == "UMT5" else "rank"
        made.append(Encoder("VAE" if part == "codec" else "text encoder", n, (n - whole) * each + whole * 4, device))
    return tuple(made)
