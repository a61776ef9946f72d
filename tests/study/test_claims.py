"""Verdicts follow from the rule, on studies whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from adastate.config.schema import ConfigError
from adastate.metrics import Interval
from adastate.study import claims
from adastate.study.claims import NOT, OPEN, REFUTED, REPRODUCED, SUPPORTED, UNDECIDED, Comparison, decide
from adastate.study.results import REAL, Results
from adastate.study.table import read_table
from tests.support.made_study import study

STEADY = {"warp_error": (0.1, 0.1)}


def verdicts(root: Path) -> dict[str, claims.Decision]:
    return {d.name: d for d in decide(Results.read(root, list(read_table().arms)))}


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


def test_what_the_paper_says_is_reproduced_where_it_is_so(tmp_path: Path) -> None:
    study(
        tmp_path,
        state={"levels": {**STEADY, "livery": (0.0, 0.0)}, "shares": (0.2, 0.4, 0.4)},
        none={"levels": {**STEADY, "livery": (0.0, 0.3)}, "shift": 12.0},
        static={"levels": {**STEADY, "forward": (0.9, 0.1), "turning": (0.9, 0.1)}, "shares": (0.7, 0.1, 0.2)},
        ema={"levels": {**STEADY, "turning": (0.9, 0.4)}},
    )
    found = verdicts(tmp_path)
    for name in ("none drifts", "none forgets", "static freezes", "ema lags", "state moves", "state coheres"):
        assert found[name].verdict == REPRODUCED, found[name]
    assert found["static draws attention"].verdict == REPRODUCED
    assert found["small window"].verdict.startswith(claims.WITHDRAWN)
    assert found["alpha short"].verdict == UNDECIDED and "alpha_0" in found["alpha short"].reason


def test_and_not_where_all_arms_are_alike_or_the_state_stops(tmp_path: Path) -> None:
    study(
        tmp_path,
        state={"levels": {"warp_error": (0.1, 0.5), "forward": (1.0, 0.2), "turning": (1.0, 1.0)}},
        none={"levels": STEADY},
        static={"levels": {**STEADY, "forward": (1.0, 0.2)}},
        ema={"levels": STEADY},
    )
    found = verdicts(tmp_path)
    for name in (
        "none forgets",
        "static freezes",
        "ema lags",
        "state moves",
        "state coheres",
        "static draws attention",
    ):
        assert found[name].verdict == NOT, found[name]


def test_fewer_seeds_than_asked_for_decide_nothing(tmp_path: Path) -> None:
    study(tmp_path, seeds=2, state={"levels": STEADY}, ema={"levels": {"turning": (0.9, 0.1)}})
    found = verdicts(tmp_path)["ema lags"]
    assert found.verdict == UNDECIDED and found.reason == "2 of 3 seeds"
    assert found.outcomes[0].verdict == SUPPORTED, "the number is told all the same"


def test_claims_about_the_other_world_are_left_out(tmp_path: Path) -> None:
    study(
        tmp_path, world="plain", state={"levels": {"departure": (1.0, 1.0)}}, ema={"levels": {"departure": (0.8, 0.2)}}
    )
    found = verdicts(tmp_path)
    assert [o.test.measure for o in found["ema lags"].outcomes] == ["departure"] and found[
        "ema lags"
    ].verdict == REPRODUCED
    assert found["none forgets"].verdict == UNDECIDED and "plain" in found["none forgets"].reason


def test_every_claim_names_arms_and_measures_that_exist(tmp_path: Path) -> None:
    known = read_table().arms
    content = claims._read(claims.folder() / "claims.yaml")
    for claim in content["claims"]:
        for test in claim["tests"]:
            assert set(Comparison(test).arms) <= set(known), claim["name"]
            assert Comparison(test).sentence and Comparison(test).margin > 0
    content["claims"][0]["tests"][0]["measure"] = "beauty"
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="no measure 'beauty'"):
        claims._read(tmp_path / "claims.yaml")


def test_runs_measured_by_another_protocol_do_not_count(tmp_path: Path) -> None:
    study(tmp_path, state={})
    path = tmp_path / "arms/state/seed1/measures.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    results = Results.read(tmp_path, ["state", "none"])
    assert results.seeds("state") == [0, 2] and results.seeds("none") == []
    assert results.mean("forward", REAL, 6).value == pytest.approx(1, abs=0.02)
    with pytest.raises(ConfigError, match="no measured study"):
        Results.read(tmp_path / "none", [])


def test_variety_is_nothing_where_all_rollouts_have_one_hue(tmp_path: Path) -> None:
    study(tmp_path, state={})
    path = tmp_path / "real/measures.npz"
    arrays = dict(np.load(path))
    arrays["curve/livery_hue"] = np.tile(np.arange(12)[:, None] / 12, (1, 20))
    np.savez(path, **arrays)
    results = Results.read(tmp_path, ["state"])
    assert results.variety("livery_hue", "state", 6) < 0.05
    assert results.variety("livery_hue", REAL, 6) == pytest.approx(1)
