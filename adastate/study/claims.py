"""The paper's claims, each decided by the rule of conf/study/claims.yaml.

docs/results/study.md tells what was written when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adastate import metrics
from adastate.config.schema import ConfigError
from adastate.metrics import Interval
from adastate.runtime import plain_yaml
from adastate.study.measures import MEASURES
from adastate.study.results import DRAWS, Results
from adastate.study.table import folder

REPRODUCED, NOT, UNDECIDED, WITHDRAWN = "reproduced", "not reproduced", "undecided", "withdrawn"
SUPPORTED, REFUTED, OPEN, MISSING = "supported", "refuted", "open", "missing"
ATTENTION = "anchor_excess"


@dataclass(frozen=True)
class Comparison:
    """One comparison; see conf/study/claims.yaml for its keys."""

    content: Mapping[str, Any]

    @property
    def measure(self) -> str:
        return str(self.content["measure"])

    @property
    def arms(self) -> list[str]:
        """Whose runs it needs, the claimed greater or lesser one first."""
        keys = ("arm", "more", "less", "than")
        return [str(self.content[key]) for key in keys if key in self.content]

    @property
    def margin(self) -> float:
        kinds = ("grows", "falls", "keeps", "by")
        return float(next(self.content[key] for key in kinds if key in self.content))

    @property
    def sentence(self) -> str:
        c, measure = self.content, self.measure
        if "exceeds" in c:
            return f"{measure} of {c['arm']} exceeds {c['exceeds']:g} by {c['by']:g}"
        if "arm" in c:
            verb = next(v for v in ("grows", "falls", "keeps") if v in c)
            told = f"gets {c['worse']} by less than" if verb == "keeps" else f"{verb} by at least"
            return f"{measure} of {c['arm']} from {c['from']} to {c['to']} {told} {self.margin:g}"
        word = "more" if "more" in c else "less"
        at = f" at {c['at']}" if "at" in c else ""
        return f"{measure}{at}: {c[word]} has {word} than {c['than']}, by at least {c['by']:g}"

    def difference(self, results: Results) -> Interval:
        """d, turned so that the claim says it is large."""
        c = self.content
        if self.measure == ATTENTION:
            return self._attention(results)
        if "arm" in c:
            found = results.change(self.measure, c["arm"], _at(c["from"]), _at(c["to"]))
            return turned(found) if "falls" in c or c.get("worse") == "more" else found
        first = c["more"] if "more" in c else c["less"]
        found = results.between(self.measure, first, c["than"], _at(c["at"]))
        return turned(found) if "less" in c else found

    def _attention(self, results: Results) -> Interval:
        """Rollouts are not told apart, so seeds alone are resampled."""
        c = self.content
        if "exceeds" in c:
            return metrics.bootstrap(results.excess(c["arm"])[:, None] - float(c["exceeds"]), DRAWS)
        seeds = results.seeds(c["more"], c["than"])
        return metrics.difference(results.excess(c["more"], seeds)[:, None], results.excess(c["than"], seeds)[:, None])

    def verdict(self, d: Interval) -> str:
        if "keeps" in self.content:
            return SUPPORTED if d.low > -self.margin else REFUTED if d.high < -self.margin else OPEN
        return SUPPORTED if d.low > 0 and d.value >= self.margin else REFUTED if d.high < self.margin else OPEN


@dataclass(frozen=True)
class Outcome:
    """A test with its numbers; `seeds` that it rests on, `d` None where runs are missing."""

    test: Comparison
    verdict: str
    seeds: int
    d: Interval | None


@dataclass(frozen=True)
class Decision:
    """A claim with its verdict, the outcomes that it follows from, and why it is undecided if it is."""

    name: str
    sentence: str
    verdict: str
    outcomes: list[Outcome]
    reason: str = ""


def turned(d: Interval) -> Interval:
    return Interval(-d.value, -d.high, -d.low)


def decide(results: Results, path: Path | None = None) -> list[Decision]:
    """Every claim of the file, on what has been measured."""
    content = _read(path or folder() / "claims.yaml")
    return [_decide(results, claim, int(content["seeds"])) for claim in content["claims"]]


def _decide(results: Results, claim: Mapping[str, Any], seeds: int) -> Decision:
    tests = [Comparison(t) for t in claim["tests"] if t.get("world", results.world) == results.world]
    outcomes = [_outcome(results, test) for test in tests]
    reason = ""
    if "withdrawn" in claim:
        verdict = f"{WITHDRAWN}: {claim['withdrawn']}"
    elif not outcomes:
        verdict, reason = UNDECIDED, f"no test of it in the {results.world} world"
    elif any(o.verdict == MISSING for o in outcomes):
        gone = dict.fromkeys(a for o in outcomes if o.verdict == MISSING for a in o.test.arms)
        verdict, reason = UNDECIDED, f"not measured: {', '.join(gone)}, or a stretch of them"
    elif min(o.seeds for o in outcomes) < seeds:
        verdict, reason = UNDECIDED, f"{min(o.seeds for o in outcomes)} of {seeds} seeds"
    elif any(o.verdict == REFUTED for o in outcomes):
        verdict = NOT
    elif all(o.verdict == SUPPORTED for o in outcomes):
        verdict = REPRODUCED
    else:
        verdict, reason = UNDECIDED, "a range of seeds leaves it open"
    return Decision(claim["name"], claim["sentence"], verdict, outcomes, reason)


def _outcome(results: Results, test: Comparison) -> Outcome:
    seeds = results.seeds(*test.arms)
    stretches = [_at(test.content[key]) for key in ("at", "from", "to") if key in test.content]
    if not seeds or any(at > results.horizons[-1] for at in stretches):
        return Outcome(test, MISSING, len(seeds), None)
    d = test.difference(results)
    return Outcome(test, test.verdict(d), len(seeds), d)


def _read(path: Path) -> dict[str, Any]:
    content = plain_yaml.load(path.read_text(encoding="utf-8"))
    for claim in content["claims"]:
        for test in claim["tests"]:
            known = (*MEASURES, ATTENTION)
            if test["measure"] not in known:
                raise ConfigError(
                    f"{path}, claim {claim['name']!r}: no measure {test['measure']!r}; known are {', '.join(known)}"
                )
    return dict(content)


def _at(stretch: str) -> int:
    return int(str(stretch).removesuffix("x"))
