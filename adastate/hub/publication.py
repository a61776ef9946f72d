"""What a repository holds: the layout that PyTorchModelHubMixin reads, within a folder that is a run folder, too.

README.md is the card, config.json the size and the stream, model.safetensors the student. Of a run come the
configuration with which it was distilled, the codec that it trained, its figures and its pictures; neither its data nor
its checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adastate.hub.model_card import model_card
from adastate.hub.run_facts import RunFacts, read_run_facts
from adastate.inference.student_source import RUN_FILE
from adastate.runtime import secrets
from adastate.runtime.run_paths import RUN
from adastate.weights import open_weights
from adastate.weights.sources import MODEL

Content = Path | bytes


@dataclass(frozen=True)
class Publication:
    """Files by their paths in the repository: where each lies, or what it holds."""

    files: Mapping[str, Content]

    @property
    def bytes(self) -> int:
        return sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in self.files.values())

    def write(self, folder: Path) -> None:
        """All of it into a folder, as a pull would give it."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def publication(source: Path, repository: str, licence: str | None = None) -> Publication:
    """Of a run folder, or of a file of weights.

    Raises:
        WeightsError: no student is there, or its file is damaged.
        HubError: its licence is not known.
    """
    facts = read_run_facts(source)
    report = open_weights(facts.weights).require().report  # which also holds the file against its digest
    files: dict[str, Content] = {}
    if facts.run is not None:
        files[str(RUN_FILE)] = _config(facts).encode()
        for name in _parts(facts.run, _student_parts(facts.config)):
            files[name] = facts.run / name
        for name in ("evaluation.json", "stages.json"):
            if (facts.run / name).is_file():
                files[name] = _plain(facts.run / name)
    pictures = {f"images/{p.parent.name}-{p.name}": p for p in facts.pictures}
    files |= pictures
    about = {"library_name": "adastate", "system": facts.system, "size": facts.geometry, "stream": facts.stream or None}
    card = model_card(facts, repository, licence, list(pictures), report.parameters, report.size)
    told: dict[str, Content] = {
        "README.md": card.encode(),
        "config.json": f"{json.dumps({k: v for k, v in about.items() if v is not None}, indent=2)}\n".encode(),
        MODEL: facts.weights,
    }
    return Publication(told | files)


def _config(facts: RunFacts) -> str:
    """Without secrets, and without the places of this machine: of a path outside of the run its name is left."""
    return yaml.safe_dump(secrets.without_secrets(_shortened(dict(facts.config))), sort_keys=False)


def _shortened(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _shortened(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_shortened(value) for value in node]
    if isinstance(node, str) and (node.startswith(("/", "~")) or node.startswith(f"{RUN}/../")):
        return Path(node).name
    return node


def _plain(path: Path) -> bytes:
    """JSON of a run without the folders that its sentences name."""
    return json.dumps(_results(json.loads(path.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False).encode()


def _results(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _results(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_results(value) for value in node]
    return (
        " ".join(w.rstrip("/").rpartition("/")[2] if w.startswith("/") else w for w in node.split(" "))
        if isinstance(node, str)
        else node
    )


def _student_parts(config: Mapping[str, Any]) -> list[Any]:
    student = config["model"]["init_args"]["student"]["init_args"]
    return [student.get("codec"), student.get("text")]


def _parts(run: Path, node: Any) -> list[str]:
    """Files of the run that the codec or the text encoder is loaded from."""
    if isinstance(node, dict):
        return [name for value in node.values() for name in _parts(run, value)]
    if isinstance(node, list):
        return [name for value in node for name in _parts(run, value)]
    within = node.removeprefix(f"{RUN}/") if isinstance(node, str) and node.startswith(f"{RUN}/") else ""
    return [within] if within and ".." not in Path(within).parts and (run / within).is_file() else []
