"""What a run folder tells about its student, for a card: read from its files, without a network or its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from adastate.config import systems
from adastate.config.schema import ConfigError
from adastate.inference.student_source import RUN_FILE
from adastate.runtime import plain_yaml
from adastate.runtime.plain_json import load_json
from adastate.runtime.run_paths import RUN
from adastate.stream import StreamSpec
from adastate.weights import WeightsError, header_facts

APACHE = "apache-2.0"
"""Of everything that is bundled with this project."""

WAN = re.compile(r"Wan2\.\d[\w.-]*")
"""Names of Wan's repositories, in the paths of weights that came from them."""

FIRST = ("chunk_frames", "past_frames", "anchor", "state_frames", "position", "denoising_steps", "timestep_shift")
"""Choices of a stream that a card shows in any case."""

SHOWN = 4
"""Pictures on a card."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a student.

    Attributes:
        weights: its file, in this project's own form.
        run: the folder; None for weights alone.
        stage: of the run that wrote the weights.
        config: of that stage, as it is saved; empty for weights alone.
        geometry: fields of Size.
        stream: fields of the StreamSpec that it has learnt; empty if the file does not say.
        system: of conf/systems with that stream, but for numbers of frames; None: none of them has it.
        data: (what, how much or from where), a row each.
        recipe: likewise.
        stages: of stages.json: name, minutes, what came of it.
        protocol, rows: of evaluation.json.
        pictures: strips of rollouts, long ones first.
        outside: weights that came from elsewhere, and were learnt from.
    """

    weights: Path
    run: Path | None
    stage: str
    config: Mapping[str, Any]
    geometry: Mapping[str, Any]
    stream: Mapping[str, Any]
    system: str | None
    data: list[tuple[str, str]] = field(default_factory=list)
    recipe: list[tuple[str, str]] = field(default_factory=list)
    stages: list[tuple[str, float, str]] = field(default_factory=list)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def licence(self) -> str | None:
        """Of the weights, where all that they were made of is this project's; else None."""
        return APACHE if self.config and not self.outside else None

    @property
    def choices(self) -> dict[str, Any]:
        """Of the stream: the first ones in any case, and others where they are not the usual ones."""
        usual = asdict(StreamSpec())
        return {k: v for k, v in self.stream.items() if k in FIRST or v != usual.get(k)}

    @property
    def bases(self) -> list[str]:
        """Repositories of the weights that it was made from, as far as their paths tell."""
        found = [f"Wan-AI/{name[0]}" for path in self.outside if (name := WAN.search(path))]
        return list(dict.fromkeys(found))


def read_run_facts(source: Path) -> RunFacts:
    """Of a run folder, or of a file of weights, which may lie in one.

    Raises:
        WeightsError: it is neither, or weights of another form.
    """
    run = next((f for f in (source, source.parent) if (f / RUN_FILE).is_file()), None)
    weights = source if source.is_file() else source / "student.safetensors"
    if not weights.is_file():
        raise WeightsError(
            f"{source} has no student.safetensors: give a run folder whose distillation is done, or a .safetensors file"
        )
    told = header_facts(weights) if weights.suffix == ".safetensors" else {}
    if "size" not in told:
        raise WeightsError(
            f"{weights} is no network of this project: give a student's file, or `adastate weights import` another's"
        )
    stage = weights.stem if run and (run / weights.stem / "config.yaml").is_file() else "distill"
    config = _config(run / stage / "config.yaml") if run else {}
    learnt = told.get("stream") or _student(config).get("stream") or {}
    stream = asdict(StreamSpec.of(learnt)) if learnt else {}
    known = RunFacts(weights, run, stage, config, told["size"], stream, _system(stream))
    if run is None:
        return known
    evaluation = _json(run / "evaluation.json") or {}
    return RunFacts(
        **{
            **vars(known),
            "data": _data(run, config),
            "recipe": _recipe(config),
            "stages": [
                (s["stage"], s["seconds"] / 60, re.sub(r" in \S*/\S*$", "", s["result"]))
                for s in _json(run / "stages.json") or []
            ],
            "protocol": evaluation.get("protocol", {}),
            "rows": evaluation.get("rows", {}),
            "pictures": _pictures(run),
            "outside": _outside(run, config),
        }
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(plain_yaml.load_yaml(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no configuration ({' '.join(str(error).split())})") from error


def _json(path: Path) -> Any:
    try:
        return load_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): write it again, or remove it") from error


def _student(config: Mapping[str, Any]) -> dict[str, Any]:
    model = (config.get("model") or {}).get("init_args") or {}
    return dict((model.get("student") or {}).get("init_args") or {})


def _system(stream: Mapping[str, Any]) -> str | None:
    """That of conf/systems with this very stream, else the first that differs from it in numbers of frames alone."""
    if not stream:
        return None
    spec, near = StreamSpec.of(stream), list[str]()
    for name, found in _specs(spec.chunk_frames).items():
        if found == spec:
            return name
        if all(v == stream[k] for k, v in asdict(found).items() if not k.endswith("_frames")):
            near.append(name)
    return near[0] if near else None


@cache
def _specs(chunk_frames: int) -> dict[str, StreamSpec]:
    """The systems of conf/systems for chunks of that length, short names first."""
    found = {}
    for name in sorted(systems.system_names(), key=lambda name: (len(name), name)):
        with suppress(ConfigError):  # of one that is not for such chunks
            found[name] = systems.read_system(name, chunk_frames).spec
    return found


def _data(run: Path, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name in ("shards", "latents", "trajectories", "causal_trajectories"):
        index = _json(run / name / "index.json")
        if index:
            count = sum(shard["samples"] for shard in index["shards"])
            shown = {
                k: v for k, v in index["settings"].items() if isinstance(v, (str, int, float)) and "/" not in str(v)
            }
            rows.append((name.replace("_", " "), f"{count} clips: " + ", ".join(f"{k} {v}" for k, v in shown.items())))
    prompts = (config.get("data") or {}).get("init_args") or {}
    if file := prompts.get("file"):
        rows.append(("prompts", f"of the file {Path(str(file)).name}"))
    elif kind := prompts.get("kind"):
        rows.append(("prompts", f"of the built-in world {kind}, seed {prompts.get('world_seed', 0)}"))
    return rows


def _recipe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = (config.get("model") or {}).get("init_args") or {}
    objective, rates = model.get("objective") or {}, model.get("optimizer") or {}
    teacher = (model.get("teacher") or {}).get("init_args") or {}
    rollouts = model.get("rollouts") or {}
    rows = {
        "objective": str(objective.get("class_path", "")).rpartition(".")[2],
        "iterations": model.get("iterations"),
        "batch": model.get("global_batch"),
        "learning rates": f"student {rates.get('student_lr')}, critic {rates.get('critic_lr')}" if rates else None,
        "critic updates for one of the student": (model.get("schedule") or {}).get("critic_updates"),
        "teacher's guidance": teacher.get("guidance"),
        "latent frames of a rollout": _student(config).get("rollout_frames"),
        "long rollouts": json.dumps(rollouts["long_rollout"]) if rollouts.get("long_rollout") else None,
        "average of the weights": ((_student(config).get("average")) or {}).get("decay"),
        "adapters": json.dumps(_student(config)["lora"]) if _student(config).get("lora") else None,
        "seed": config.get("seed_everything"),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _pictures(run: Path) -> list[Path]:
    return [p for length in ("6x", "1x") for p in sorted((run / "rollouts" / length).glob("*.png"))][:SHOWN]


def _outside(run: Path, config: Mapping[str, Any]) -> list[str]:
    """Weights and encoders that are neither bundled nor trained in the run, and clips that are not of a world."""
    found = [str(value) for value in _weights(config.get("model")) if value and not _ours(str(value))]
    for name in ("shards", "latents"):
        index = _json(run / name / "index.json")
        if index and index["settings"].get("kind") != "world" and not index["settings"].get("world"):
            found.append(f"the clips of {name}")
    return list(dict.fromkeys(found))


def _weights(node: Any, key: str = "") -> list[Any]:
    if isinstance(node, Mapping):
        return [value for name, below in node.items() for value in _weights(below, str(name))]
    if isinstance(node, list):
        return [value for below in node for value in _weights(below, key)]
    return [node] if key in ("weights", "pretrained") else []


def _ours(weights: str) -> bool:
    return weights.startswith(f"{RUN}/") or ("/" not in weights and "." not in weights)
