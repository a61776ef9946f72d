"""The card says what the run's files say, and what nobody knows it does not say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from adastate.encoders import PRETRAINED
from adastate.hub.hub_client import HubError
from adastate.hub.publication import publication
from adastate.hub.run_facts import read_run_facts
from tests.hub.conftest import change, made_run


def card_of(source: Path, licence: str | None = None) -> ModelCard:
    content = publication(source, "anna/flyover", licence).files["README.md"]
    assert isinstance(content, bytes)
    return ModelCard(content.decode())


def test_a_run_fills_every_part(run: Path) -> None:
    card = card_of(run)
    told = card.data.to_dict()
    assert told["license"] == "apache-2.0" and told["library_name"] == "adastate"
    assert told["pipeline_tag"] == "text-to-video" and told["tags"].count("adastate") == 1
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results or []] == [
        ("adastate evaluate, student, 1x", "heading", 1.0),
        ("adastate evaluate, student, 1x", "residual", 0.1),
        ("adastate evaluate, student, last second of 6x", "heading", 0.84),
    ]
    for line in (
        "| shards | 256 clips: kind world, world plain, seed 0 |",
        "| prompts | of the built-in world plain, seed 0 |",
        "| objective | DMD |",
        "| iterations | 180 |",
        "| shards | 1.5 | 256 clips |",
        "| heading | 100% | 84% |",
        "| residual | 0.100 |  |",
        "The stream is that of the system `adastate`.",
        "| `past_frames` | 3 |",
        "1,226,944 parameters",
        "![images/6x-strip.png](images/6x-strip.png)",
        'model = adastate.load("anna/flyover")',
    ):
        assert line in card.text, line


def test_its_sections_are_there_without_what_fills_them(run: Path) -> None:
    for name in ("evaluation.json", "stages.json", "rollouts", "shards"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = card_of(run).text
    assert "It has not been measured." in text and "None were made." in text
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Use", "System", "Data", "Recipe", "Metrics", "Pictures", "Licence", "Limits",
    ]  # fmt: skip


def test_weights_of_others_ask_for_a_licence_and_are_named(run: Path) -> None:
    theirs = {"weights": "/data/weights/Wan2.1-T2V-1.3B"}
    change(run, lambda config: config["model"]["init_args"]["teacher"]["init_args"].update(theirs))
    with pytest.raises(
        HubError, match=r"the licence is not known, for it was made from .*Wan2\.1-T2V-1\.3B: give --license"
    ):
        publication(run, "anna/flyover")
    card = card_of(run, "other")
    assert card.data.to_dict()["base_model"] == ["Wan-AI/Wan2.1-T2V-1.3B"] and card.data.license == "other"
    assert "Learnt from what others made: Wan2.1-T2V-1.3B." in card.text and "/data" not in card.content


def test_weights_alone(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    shutil.copy(PRETRAINED / "tiny_teacher.safetensors", weights)
    with pytest.raises(HubError, match="the origin of these weights is not recorded: give --license"):
        publication(weights, "anna/flyover")
    found = publication(weights, "anna/flyover", "mit")
    assert sorted(found.files) == ["README.md", "config.json", "model.safetensors"]
    assert "How it was trained is not recorded." in card_of(weights, "mit").text


@pytest.mark.slow
def test_a_system_is_known_by_its_stream(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", "--system", "longlive")
    (run / "student.safetensors").unlink()
    shutil.copy(PRETRAINED / "tiny_teacher.safetensors", run / "student.safetensors")  # whose header has no stream
    assert read_run_facts(run).system == "longlive"


def test_a_prompt_cannot_leave_its_place(run: Path) -> None:
    told = {"class_path": "callbacks.Rollouts", "init_args": {"prompts": ['a "b" `$(c)` | d']}}
    change(run, lambda config: config["trainer"].update(callbacks=[told]))
    assert '--prompt "a b (c) | d"' in card_of(run).text
