"""The paper's claims and their verdicts, from records alone, by the rules of conf/study/claims.yaml.

`adastate study decide` prints them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Rich

from adastate import metrics
from adastate.config.schema import ConfigError
from adastate.metrics import Interval
from adastate.runtime import plain_yaml
from adastate.study.measures import MEASURES
from adastate.study.records import DEEDS, MEMORY, Records
from adastate.study.table import folder

REPRODUCED, NOT, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "undecided", "not run"
WITHDRAWN = "withdrawn"
SUPPORTED, REFUTED, OPEN, MISSING = "supported", "refuted", "open", "missing"
VERDICTS = (REPRODUCED, NOT, UNDECIDED, NOT_RUN, WITHDRAWN)
NOW = ("confirmed", "changed", WITHDRAWN)
"""How a claim's verdict relates to that of the first study."""


@dataclass(frozen=True)
class Comparison:
    """One test; see conf/study/claims.yaml for its keys."""

    content: Mapping[str, Any]

    @property
    def arms(self) -> list[str]:
        """Arms that it compares; the one that is claimed to be greater or less first."""
        c = self.content
        return [str(c["arm"])] if "arm" in c else [str(c["more" if "more" in c else "less"]), str(c["than"])]

    @property
    def measures(self) -> list[str]:
        """Measures of the first side and of the second."""
        c = self.content
        if "measure" in c:
            return [str(c["measure"])] * 2
        return [str(c["more" if "more" in c else "less"]), str(c["than"])]

    @property
    def at(self) -> list[str]:
        c = self.content
        return [str(c["to"]), str(c["from"])] if "from" in c else [str(c.get("at", "1x"))] * 2

    @property
    def margin(self) -> float:
        return float(next(self.content[key] for key in ("by", "grows", "falls", "keeps") if key in self.content))

    @property
    def sentence(self) -> str:
        c, at = self.content, self.at
        if "from" in c:
            verb = next(v for v in ("grows", "falls", "keeps") if v in c)
            told = f"gets {c['worse']} by less than" if verb == "keeps" else f"{verb} by at least"
            return f"{c['measure']} of {c['arm']} from {c['from']} to {c['to']} {told} {self.margin:g}"
        word = "more" if "more" in c else "less"
        if "arm" in c:
            return f"{c['arm']} at {at[0]}: {c[word]} is {word} than {c['than']}, by at least {c['by']:g}"
        return f"{c['measure']} at {at[0]}: {c[word]} has {word} than {c['than']}, by at least {c['by']:g}"

    def differences(self, records: Records) -> tuple[list[int], Any]:
        """The seeds that have both sides, and d of each, with the sign that makes the claim expect a positive d."""
        arms, measures, at = self.arms, self.measures, self.at
        one, other = (measures[0], arms[0], at[0]), (measures[1], arms[-1], at[1])
        seeds, d = records.difference(one, other)
        downwards = "less" in self.content or "falls" in self.content or self.content.get("worse") == "more"
        return seeds, -d if downwards else d

    def verdict(self, d: Interval) -> str:
        if "keeps" in self.content:
            return SUPPORTED if d.low > -self.margin else REFUTED if d.high < -self.margin else OPEN
        return SUPPORTED if d.low > 0 and d.value >= self.margin else REFUTED if d.high < self.margin else OPEN


@dataclass(frozen=True)
class Outcome:
    """A test with its numbers: `d` with an interval corrected for the number of tests, None if runs are missing;
    `chance`: uncorrected probability of a difference this large under the null hypothesis."""

    test: Comparison
    verdict: str
    seeds: int
    d: Interval | None
    chance: float


@dataclass(frozen=True)
class Decision:
    """A claim with its verdict, the outcomes of its tests, and the reason if it is undecided."""

    name: str
    sentence: str
    verdict: str
    outcomes: list[Outcome]
    reason: str = ""


def read_claims(path: Path | None = None) -> dict[str, Any]:
    """Reads and checks the file of claims.

    Raises:
        ConfigError: with the mistake.
    """
    path = path or folder() / "claims.yaml"
    content = dict(plain_yaml.load_yaml(path.read_text(encoding="utf-8")))
    for claim in content["claims"]:
        told = f"{path}, claim {claim.get('id')!r}"
        if claim.get("verdict") not in VERDICTS:
            raise ConfigError(f"{told}: its verdict must be one of {', '.join(VERDICTS)}")
        if "first" in claim and claim["first"].get("now") not in NOW:
            raise ConfigError(f"{told}: the verdict of the first study must now be one of {', '.join(NOW)}")
        for test in claim.get("tests", ()):
            for measure in Comparison(test).measures:
                first = measure.split()[0]
                if measure not in (*MEASURES, *MEMORY, "anchor_excess") and first not in (*DEEDS, "injection"):
                    raise ConfigError(f"{told}: no measure {measure!r}; known are {', '.join((*MEASURES, *MEMORY))}")
    return content


def number_of_tests(content: Mapping[str, Any]) -> int:
    """Number of tests that the intervals are corrected for: those of all claims, in all worlds."""
    return sum(len(claim.get("tests", ())) for claim in content["claims"])


def decide(records: Records, path: Path | None = None) -> list[Decision]:
    """Decides all claims about the records' world that have tests."""
    content = read_claims(path)
    count = number_of_tests(content)
    mine = [c for c in content["claims"] if c.get("tests") and c["world"] == records.world]
    return [_decide(records, claim, int(content["seeds"]), count) for claim in mine]


def _decide(records: Records, claim: Mapping[str, Any], seeds: int, count: int) -> Decision:
    outcomes = [_outcome(records, Comparison(test), count) for test in claim["tests"]]
    reason, fewest = "", min(o.seeds for o in outcomes)
    if any(o.verdict == MISSING for o in outcomes):
        gone = dict.fromkeys(a for o in outcomes if o.verdict == MISSING for a in o.test.arms)
        verdict, reason = NOT_RUN, f"not measured: {', '.join(gone)}"
    elif _about_memory(outcomes) and not records.real.get("gate", {}).get("passed", True):
        verdict, reason = UNDECIDED, "the teacher does not remember itself"
    elif fewest < seeds:
        verdict, reason = UNDECIDED, f"{fewest} of {seeds} seeds"
    elif any(o.verdict == REFUTED for o in outcomes):
        verdict = NOT
    elif all(o.verdict == SUPPORTED for o in outcomes):
        verdict = REPRODUCED
    else:
        verdict, reason = UNDECIDED, "an interval is inconclusive"
    return Decision(claim["id"], claim["sentence"], verdict, outcomes, reason)


def _about_memory(outcomes: Sequence[Outcome]) -> bool:
    told = [measure for o in outcomes for measure in o.test.measures]
    return any(measure in MEMORY or measure.split()[0] in DEEDS for measure in told)


def _outcome(records: Records, test: Comparison, count: int) -> Outcome:
    seeds, d = test.differences(records)
    if len(seeds) < 2:
        return Outcome(test, MISSING, len(seeds), None, float("nan"))
    interval = metrics.seed_interval(d, tests=count)
    return Outcome(test, test.verdict(interval), len(seeds), interval, metrics.chance_of(d))


def decide_command(args: argparse.Namespace) -> None:
    """`adastate study decide`."""
    show_verdicts(decide(Records.read(args.records), args.claims))


def show_verdicts(decisions: Sequence[Decision]) -> None:
    table = Rich("claim", "verdict", "test", "d", "p", "seeds", "outcome")
    for decision in decisions:
        for i, o in enumerate(decision.outcomes):
            head = (decision.name, f"{decision.verdict} {decision.reason}".strip()) if i == 0 else ("", "")
            d = "" if o.d is None else str(o.d)
            table.add_row(*head, o.test.sentence, d, f"{o.chance:.4f}", str(o.seeds), o.verdict)
    Console().print(table)
