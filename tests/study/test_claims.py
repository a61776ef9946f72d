"""Verdicts follow from the rule, on studies whose numbers are known; documents say of claims what the file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from adastate.config.schema import ConfigError
from adastate.metrics import Interval
from adastate.study import claims, records
from adastate.study.claims import (
    NOT,
    NOT_RUN,
    OPEN,
    REFUTED,
    REPRODUCED,
    SUPPORTED,
    UNDECIDED,
    Comparison,
    decide,
    read_claims,
)
from adastate.study.records import Records
from adastate.study.results import REAL, Results
from adastate.study.table import read_table
from tests.support.made_study import study
from tests.support.tiny import ROOT

FILE = read_claims()


def occlusions(follows: bool = True) -> Sequence[dict[str, Any]]:
    """Rows of an experiment in which the state matters, or does not."""
    far = 0.2 if follows else 0.02
    told = {
        "nothing": {"error": 0.02, "slope": 1.0},
        "swap": {"error": far, "donor_error": 0.02},
        "drop": {"error": far, "slope": 0.0},
        "freeze": {"error": far, "slope": 0.0 if follows else 1.0},
    }
    return [{"deed": deed, "hidden": 9, **row} for deed, row in told.items()]


def found(root: Path, passed: bool = True) -> dict[str, claims.Decision]:
    (root / "base").mkdir(exist_ok=True)
    (root / "base/gate.json").write_text(f'{{"passed": {str(passed).lower()}}}')
    folder = records.write_records(root, read_table())
    return {d.name: d for d in decide(Records.read(folder))}


@pytest.mark.parametrize(
    ("low", "value", "high", "grows", "keeps"),
    [
        (0.2, 0.3, 0.4, SUPPORTED, SUPPORTED),
        (0.01, 0.15, 0.3, SUPPORTED, SUPPORTED),
        (0.01, 0.05, 0.09, REFUTED, SUPPORTED),  # sure, and too little
        (-0.05, 0.15, 0.3, OPEN, SUPPORTED),
        (0.01, 0.05, 0.3, OPEN, SUPPORTED),
        (-0.3, -0.05, 0.05, REFUTED, OPEN),
        (-0.4, -0.3, -0.2, REFUTED, REFUTED),
    ],
)
def test_the_rule(low: float, value: float, high: float, grows: str, keeps: str) -> None:
    d = Interval(value, low, high)
    growing = {"measure": "forward", "arm": "state", "from": "1x", "to": "6x"}
    assert Comparison({**growing, "grows": 0.1}).verdict(d) == grows
    assert Comparison({**growing, "keeps": 0.1, "worse": "less"}).verdict(d) == keeps


CLAIMED = {
    "state": {"shares": (0.2, 0.4, 0.4), "occlusions": occlusions()},
    "none": {"slope": 0.0, "levels": {"lens_drift": (0.0, 3.0)}},
    "static": {"slope": 0.1, "shares": (0.7, 0.1, 0.2)},
}
ABOUT_MEMORY = ("state-remembers", "state-remembers-more-than-static", "state-is-the-carrier", "state-evolves")


def test_what_the_paper_says_is_reproduced_where_it_is_so(tmp_path: Path) -> None:
    told = found(study(tmp_path, seeds=8, **CLAIMED))
    for name in (*ABOUT_MEMORY, "state-is-needed", "none-drifts", "static-draws-attention"):
        assert told[name].verdict == REPRODUCED, told[name]
    assert told["alpha-beyond"].verdict == NOT_RUN and "alpha_4" in told["alpha-beyond"].reason
    assert "static-freezes" not in told, "that is about the circuit"


@pytest.mark.slow
def test_and_not_where_all_arms_are_alike(tmp_path: Path) -> None:
    told = found(study(tmp_path, seeds=8, state={"occlusions": occlusions(False)}, none={}, static={}))
    for name in (*ABOUT_MEMORY, "state-is-needed", "none-drifts"):
        assert told[name].verdict == NOT, told[name]


@pytest.mark.slow
def test_fewer_seeds_than_asked_for_decide_nothing(tmp_path: Path) -> None:
    told = found(study(tmp_path, seeds=5, **CLAIMED))["state-remembers"]
    assert told.verdict == UNDECIDED and told.reason == "5 of 8 seeds"
    assert told.outcomes[0].verdict == SUPPORTED and told.outcomes[0].chance < 0.001, "the number is told all the same"


@pytest.mark.slow
def test_where_the_teacher_does_not_remember_nothing_about_memory_is_decided(tmp_path: Path) -> None:
    told = found(study(tmp_path, seeds=8, **CLAIMED), passed=False)
    assert all("teacher" in told[name].reason and told[name].verdict == UNDECIDED for name in ABOUT_MEMORY)
    assert told["none-drifts"].verdict == REPRODUCED


def test_intervals_are_wider_the_more_is_tested(tmp_path: Path) -> None:
    folder = records.write_records(study(tmp_path, seeds=8, **CLAIMED), read_table())
    d = {x.name: x for x in decide(Records.read(folder))}["none-drifts"].outcomes[0].d
    alone = Records.read(folder)
    _, differences = alone.difference(("lens_drift", "none", "6x"), ("lens_drift", "state", "6x"))
    plain = claims.metrics.seed_interval(differences)
    assert d is not None and d.low < plain.low < plain.high < d.high and d.value == pytest.approx(plain.value)


def test_every_claim_names_arms_that_exist_and_at_most_three_of_them(tmp_path: Path) -> None:
    known, ids = read_table().arms, [claim["id"] for claim in FILE["claims"]]
    assert len(ids) == len(set(ids)) and FILE["seeds"] == 8
    for claim in FILE["claims"]:
        tests = [Comparison(test) for test in claim.get("tests", ())]
        arms = {arm for test in tests for arm in test.arms}
        assert arms <= set(known) and len(arms) <= 3, claim["id"]
        assert all(test.sentence and test.margin > 0 for test in tests)
    for change, told in (
        (lambda c: c["tests"][0].update(measure="beauty"), "no measure 'beauty'"),
        (lambda c: c.update(verdict="true"), "its verdict must be one of"),
        (lambda c: c["first"].update(now="better"), "must now be one of confirmed, changed, withdrawn"),
    ):
        content = yaml.safe_load(yaml.safe_dump(FILE))
        change(content["claims"][0])
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError, match=told):
            read_claims(tmp_path / "claims.yaml")


def test_documents_name_claims_that_are_there_and_say_what_has_become_of_them() -> None:
    """`claim-id`: word, in the README's section of results and on the page of results."""
    known = {claim["id"]: {claim["verdict"], claim.get("first", {}).get("now")} for claim in FILE["claims"]}
    for file in ("README.md", "docs/results/study.md"):
        text = (ROOT / file).read_text()
        part = text.split("## Does the state do what it claims?")[1].split("\n## ")[0] if file == "README.md" else text
        told = re.findall(r"`([a-z-]+)`: (\w[\w ]*\w)", part)
        assert len(told) >= 4, file
        for name, said in told:
            assert name in known and said in known[name], f"{file}: {name} is {known.get(name)}, not {said}"
    readme = (ROOT / "README.md").read_text().split("## Does the state do what it claims?")[1].split("\n## ")[0]
    for item in re.findall(r"^- (.*?)(?=^- |^!|\Z)", readme, re.M | re.S):
        assert re.search(r"`[a-z-]+`: \w", item), f"a result without the id of a claim: {item[:60]}"


def test_verdicts_of_the_file_are_those_of_the_committed_records() -> None:
    for folder in sorted((ROOT / "docs/results/study_runs").glob("*/")):
        for decision in decide(Records.read(folder)):
            told = next(c["verdict"] for c in FILE["claims"] if c["id"] == decision.name)
            assert told == decision.verdict, f"{decision.name} in {folder.name}"


def test_runs_measured_by_another_protocol_do_not_count(tmp_path: Path) -> None:
    study(tmp_path, state={})
    path = tmp_path / "arms/state/seed1/measures.json"
    path.write_text(path.read_text().replace('"rollouts": 12', '"rollouts": 8'))
    results = Results.read(tmp_path, ["state", "none"])
    assert results.seeds("state") == [0, 2] and results.seeds("none") == []
    assert results.mean("forward", REAL, 6).value == pytest.approx(1, abs=0.02)
    with pytest.raises(ConfigError, match="no measured study"):
        Results.read(tmp_path / "none", [])


def test_records_are_all_that_a_verdict_needs(tmp_path: Path) -> None:
    root = study(tmp_path / "whole", seeds=2, **CLAIMED)
    folder = records.write_records(root, read_table(), tmp_path / "kept")
    assert folder == tmp_path / "kept/mist" and len(list(folder.glob("*.json"))) == 7
    assert max(f.stat().st_size for f in folder.iterdir()) < 12_000, "small enough to be committed"
    read = Records.read(folder)
    results = Results.read(root, ["state", "none", "static"])
    assert read.mean("forward", "state", "6x").value == pytest.approx(
        results.mean("forward", "state", 6).value, abs=1e-5
    )
    assert read.mean("memory_slope", "none", "2x-6x").value == pytest.approx(0, abs=0.1)
    with pytest.raises(ConfigError, match="no records in"):
        Records.read(tmp_path)
