"""The card of a repository: what the run tells, under the headings that the Hub's readers look for."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adastate.evaluation.metrics_table import spelt
from adastate.hub.hub_client import HubError
from adastate.hub.run_facts import RunFacts
from adastate.runtime import secrets

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PROMPT = "a drone flies over a coast at dawn"


def model_card(
    facts: RunFacts, repository: str, licence: str | None, pictures: Sequence[str], parameters: int, size: str
) -> str:
    """Markdown with the Hub's metadata in front.

    Args:
        licence: the Hub's name of one; None: that of the run, where all of it is this project's.
        pictures: paths in the repository.
        size: name in conf/sizes, or "other".

    Raises:
        HubError: no licence is given, and none follows.
    """
    licence = licence or facts.licence
    if licence is None:
        why = f"it was made from {facts.outside[0]}" if facts.outside else "the origin of these weights is not recorded"
        raise HubError(
            f"the licence is not known, for {why}: give --license, apache-2.0 say, as that of its origin asks"
        )
    template = _environment().get_template(TEMPLATE.name)
    told = dict.fromkeys(measure for row in facts.rows.values() for measure in row)
    text = template.render(
        facts=facts,
        repository=repository,
        name=repository.partition("/")[2],
        folder=repository.partition("/")[2],
        licence=licence,
        pictures=pictures,
        parameters=f"{parameters:,}",
        size=size,
        measures=list(told),
        spelt=spelt,
        prompt=_prompt(facts),
        version=importlib.metadata.version("adastate"),
    )
    return secrets.redacted(f"---\n{_front(facts, repository, licence)}---\n\n{text}")


def _front(facts: RunFacts, repository: str, licence: str) -> str:
    tags = ["video-generation", "streaming", "adastate", *([facts.system] if facts.system else [])]
    told: dict[str, Any] = {
        "license": licence,
        "library_name": "adastate",
        "pipeline_tag": "text-to-video",
        "language": ["en"],
        "tags": list(dict.fromkeys(tags)),
    }
    if facts.bases:
        told["base_model"] = facts.bases
    student = {title: row for title, row in facts.rows.items() if title.startswith("student")}
    if student:
        told["model-index"] = [
            {
                "name": repository.partition("/")[2],
                "results": [
                    {
                        "task": {"type": "text-to-video"},
                        "dataset": {"type": "adastate-evaluate", "name": f"adastate evaluate, {title}"},
                        "metrics": [{"type": measure, "value": round(value, 4)} for measure, value in row.items()],
                    }
                    for title, row in student.items()
                ],
            }
        ]
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _prompt(facts: RunFacts) -> str:
    callbacks = (facts.config.get("trainer") or {}).get("callbacks") or []
    told = [(c.get("init_args") or {}).get("prompts") for c in callbacks]
    prompts = next((p for p in told if isinstance(p, list) and p), [PROMPT])
    return re.sub(r'["\\\n`$]', "", str(prompts[0]))


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # Markdown, which the Hub cleans
    )  # fmt: skip
    found.filters["cell"] = lambda value: re.sub(r"[\n|]", " ", str(value))
    found.filters["shortened"] = lambda text: str(text).rstrip("/").rpartition("/")[2]
    return found
