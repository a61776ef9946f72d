"""A folder that diffusers loads as a pipeline: `weights export --layout diffusers-pipeline`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adastate.runtime import atomic, plain_yaml
from adastate.runtime.plain_json import load_json
from adastate.weights.exporting import export, write_config
from adastate.weights.files import WeightsError
from adastate.weights.network_weights import NetworkWeights

PIPELINE, PIPELINE_FILE, INDEX = "StreamingWanPipeline", "pipeline.py", "model_index.json"
PARTS = {
    "vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
}
"""Folders of a pipeline beside its transformer and scheduler, and the classes that load them."""

SCHEDULER = {"_class_name": "FlowMatchLCMScheduler", "num_train_timesteps": 1000, "shift": 5.0}

SOURCE = '''"""Streams with the package adastate, whose class this is."""

try:
    import adastate.diffusers as streaming
except ImportError as error:
    raise ImportError(
        "this pipeline streams with the package adastate and its extra `wan`, which are not installed here: "
        "`pip install -e '.[wan]'` in a checkout of the project installs them"
    ) from error


class StreamingWanPipeline(streaming.StreamingWanPipeline):
    pass
'''
"""Of the file by which `DiffusionPipeline.from_pretrained` finds the class."""


@dataclass(frozen=True)
class PipelineParts:
    """What stands beside the network.

    Attributes:
        folder: of a pipeline in diffusers' layout, whose VAE, text encoder and tokenizer are copied; None: none are.
        encoders: `codec` and `text` as a configuration names them, where they are classes of this package.
        latent_size: height and width of the latents.
        fps: pictures a second.
    """

    folder: Path | None = None
    encoders: Mapping[str, Any] = field(default_factory=dict)
    latent_size: tuple[int, int] = (60, 104)
    fps: int = 16


TINY = PipelineParts(
    encoders={
        "codec": {"class_path": "adastate.encoders.TinyCodec", "init_args": {"weights": "builtin"}},
        "text": {"class_path": "adastate.encoders.TinyText", "init_args": {"tokens": 16, "width": 64}},
    },
    latent_size=(8, 8),
    fps=8,
)


USUAL = {"wan_1_3b": ((60, 104), 16), "wan22_5b": ((44, 80), 24)}
"""Height and width of the latents and pictures a second, by size."""


def parts_of(checkpoint: NetworkWeights, source: Path, parts: Path | None) -> PipelineParts:
    """What belongs beside a source of weights: the folder that is given, the pipeline or the run that it lies in.

    Raises:
        WeightsError: `parts` is no folder of a pipeline.
    """
    usual = USUAL.get(checkpoint.report.size, USUAL["wan_1_3b"])
    if parts is not None:
        if not any((parts / name).is_dir() for name in PARTS):
            raise WeightsError(
                f"{parts} has none of {', '.join(PARTS)}: give the folder of a pipeline in diffusers' layout"
            )
        return PipelineParts(parts, {}, *usual)
    run = source if source.is_dir() else source.parent
    config = run / "distill" / "config.yaml"
    if config.is_file():
        return _of_run(config)
    if any((source / name).is_dir() for name in PARTS):
        return PipelineParts(source, {}, *usual)
    return TINY if checkpoint.report.size == "tiny" else PipelineParts(None, {}, *usual)


def _of_run(config: Path) -> PipelineParts:
    told = plain_yaml.load_yaml(config.read_text(encoding="utf-8"))
    student = told["model"]["init_args"]["student"]["init_args"]
    codec, text = student["codec"], student["text"]
    latent_size = tuple(student["latent_size"])
    given = codec.get("init_args") or {}
    if given.get("pretrained") is not None:
        folder = Path(given["pretrained"])
        return PipelineParts(folder if folder.is_dir() else None, {}, latent_size, given.get("fps", PipelineParts.fps))
    return PipelineParts(None, {"codec": codec, "text": text}, latent_size, given.get("fps", TINY.fps))


def export_pipeline(
    checkpoint: NetworkWeights,
    out: Path,
    parts: PipelineParts,
    dtype: torch.dtype | None = None,
    shard_gb: float = 10.0,
    force: bool = False,
) -> list[Path]:
    """Writes the folder `out`, whole or not at all; returns its files. Arguments as of `export`.

    `DiffusionPipeline.from_pretrained(out, custom_pipeline=out, trust_remote_code=True)` loads it.
    """
    checkpoint.require()
    _may_write_pipeline(out, force)
    stream = dict(checkpoint.report.stream)
    index: dict[str, Any] = {"_diffusers_version": "0.42.1"}
    with atomic.replacing(out, durable=True) as scratch:
        scratch.mkdir()
        export(checkpoint, scratch / "transformer", "diffusers", dtype, shard_gb)
        index["transformer"] = ["diffusers", "WanTransformer3DModel"]
        (scratch / "scheduler").mkdir()
        scheduler = {**SCHEDULER, "shift": stream.get("timestep_shift", SCHEDULER["shift"])}
        write_config(scratch / "scheduler" / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", SCHEDULER["_class_name"]]
        there = _classes(parts.folder)
        for name in PARTS:
            if parts.folder is not None and (parts.folder / name).is_dir():
                shutil.copytree(parts.folder / name, scratch / name)
                index[name] = there.get(name, list(PARTS[name]))
            else:
                index[name] = [None, None]
        index |= {"stream": stream or None, "latent_size": list(parts.latent_size), "fps": parts.fps, **parts.encoders}
        write_config(scratch / INDEX, index)
        write_pipeline_file(scratch)
    return sorted(p for p in out.rglob("*") if p.is_file())


def write_pipeline_file(folder: Path) -> None:
    """Writes the file of the class, and names it in the index of a pipeline's folder."""
    (folder / PIPELINE_FILE).write_text(SOURCE, encoding="utf-8")
    index = load_json((folder / INDEX).read_text(encoding="utf-8"))
    write_config(folder / INDEX, {**index, "_class_name": [Path(PIPELINE_FILE).stem, PIPELINE]})


def _classes(folder: Path | None) -> dict[str, list[str]]:
    """The classes of a pipeline's parts, as its own index and its tokenizer have them."""
    if folder is None:
        return {}
    told = _read_json(folder / "tokenizer" / "tokenizer_config.json").get("tokenizer_class")
    found = {"tokenizer": ["transformers", told]} if told else {}
    index = _read_json(folder / INDEX)
    return found | {name: index[name] for name in PARTS if isinstance(index.get(name), list) and index[name][0]}


def _read_json(path: Path) -> dict[str, Any]:
    return dict(load_json(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _may_write_pipeline(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise WeightsError(f"{out} is a file; give a folder")
    if not force:
        raise WeightsError(f"{out} exists and is not empty; give another folder or --force")
    known = {INDEX, PIPELINE_FILE, "transformer", "scheduler", *PARTS}
    if others := sorted(p.name for p in out.iterdir() if p.name not in known):
        raise WeightsError(
            f"{out} holds files that are not from an export, {others[0]}; it is not overwritten, give another folder"
        )
