"""The report: one page and one Markdown file from the runs that exist, with a list of the missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from adastate.metrics import Interval
from adastate.runtime import atomic
from adastate.study import plots, records
from adastate.study.claims import Decision, decide
from adastate.study.measures import HUES, MEASURES
from adastate.study.memory_tables import experiment_blocks, interval_cell, memory_blocks
from adastate.study.records import Records
from adastate.study.report_page import Picture, ReportBlock, markdown, page
from adastate.study.results import REAL, Results
from adastate.study.table import Table, Task

CURVES = (
    "forward",
    "turning",
    "lens_drift",
    "livery",
    "departure",
    "warp_error",
    "frechet",
    "contrast",
    "sharpness",
    "repetition",
)
COMPARED = ("forward", "turning", "lens_drift", "livery", "warp_error", "flicker", "frechet", "composite")
COLUMNS = 7
"""Measures that fit side by side on a printed page."""


def write_report(root: Path, table: Table, budget: str, only: Sequence[str] = ()) -> Path:
    """Writes `<root>/report/`: index.html with embedded pictures, report.md and the pictures beside it."""
    results = Results.read(root, list(table.arms))
    found = Records.read(records.write_records(root, table))
    blocks = report_blocks(results, found, table, table.tasks(table.budgets[budget], only))
    folder = root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / "report.md", markdown(blocks, folder / "figures"))
    atomic.write_text(folder / "index.html", page(blocks))
    return folder / "index.html"


def report_blocks(results: Results, found: Records, table: Table, wanted: Sequence[Task]) -> list[ReportBlock]:
    """The report's parts in order."""
    blocks = [ReportBlock("", summary(results, wanted)), *_missing(results, wanted), *_claims(decide(found))]
    blocks += [*memory_blocks(found), *experiment_blocks(found)]
    anchors = [a for g in ("core", "anchors") for a in table.groups[g].arms if a in results.arms]
    if anchors:
        blocks += _anchors(results, anchors)
        blocks += _attention(results, anchors)
    for name in table.groups:
        blocks += _compared(results, name, [p for p in table.pairs(name) if results.seeds(*p)], table)
    blocks += _recall(results, table)
    for at in results.horizons:
        blocks += _numbers(results, at)
    return [*blocks, *_variety(results), _measures(results), ReportBlock("What this does not show", CAUTIONS)]


CAUTIONS = (
    "These are tiny worlds, one network size and one teacher. Each seed has its own initialisation, distillation, "
    "prompts and noise, so intervals describe other seeds with this teacher, not other teachers. Only the intervals "
    "of the claims are corrected for their number; all other tables are exploratory. The Frechet distance is computed "
    "on fixed random features, which do not measure what matters to people."
)


def summary(results: Results, wanted: Sequence[Task]) -> str:
    done = sum(task.seed in results.arms.get(task.arm.name, {}) for task in wanted)
    told = results.real.told
    stretches = ", ".join(f"{h}x" for h in results.horizons)
    return (
        f"The {results.world} world; {done} of {len(wanted)} runs measured, each on {results.rollouts} rollouts of "
        f"{results.horizons[-1]} training horizons of {told['pictures']} frames. Results are given at {stretches}: for "
        "the horizon that ends there. Runs of one seed share prompts and noise; other seeds have others. Brackets are "
        "95% t-intervals over the means of seeds. True flights were passed through the codec."
    )


def _missing(results: Results, wanted: Sequence[Task]) -> list[ReportBlock]:
    gone: dict[str, list[int]] = {}
    for task in wanted:
        if task.seed not in results.arms.get(task.arm.name, {}):
            gone.setdefault(task.arm.name, []).append(task.seed)
    if not gone:
        return []
    told = "; ".join(f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in gone.items())
    return [ReportBlock("What is missing", f"Not measured yet: {told}. Run the same study again to measure them.")]


def _claims(decisions: Sequence[Decision]) -> list[ReportBlock]:
    heads = ("claim of the paper", "verdict", "why")
    rows = [(d.sentence, d.verdict, d.reason) for d in decisions]
    tests = [
        (
            d.name,
            o.test.sentence,
            "" if o.d is None else interval_cell(o.d, 3),
            f"{o.chance:.4f}",
            str(o.seeds),
            o.verdict,
        )
        for d in decisions
        for o in d.outcomes
    ]
    rule = (
        "The rules are in conf/study/claims.yaml, which was committed before these runs (docs/results/study.md). d is "
        "the mean over seeds of the paired difference, with the sign that the claim expects as positive. Its interval "
        "is corrected for the number of all tests; p is not. A claim is reproduced if all its tests are "
        "supported, and not reproduced if any is refuted."
    )
    return [
        ReportBlock("Claims", table=(heads, rows)),
        ReportBlock("Their tests", rule, (("claim", "test", "d", "p", "seeds", "outcome"), tests)),
    ]


def _anchors(results: Results, arms: Sequence[str]) -> list[ReportBlock]:
    known = [m for m in CURVES if m in results.measures]
    blocks = []
    for at in results.horizons[1:] or results.horizons:
        figure = plots.dynamics_against_drift(results, arms, at)
        text = "Motion increases upwards, drift to the right; the star marks real flights."
        blocks.append(_figure(f"Dynamics against drift at {at}x", text, f"dynamics-{at}x.svg", figure))
        if "livery" in results.names:
            figure = plots.following_against_forgetting(results, arms, at)
            text = "Following increases upwards, forgetting to the right; unrelated liveries are 0.25 apart."
            blocks.append(_figure(f"Following against forgetting at {at}x", text, f"following-{at}x.svg", figure))
    curves = plots.plot_over_horizons(results, arms, known)
    blocks.append(_figure("Over time", "Means with intervals over seeds.", "curves.svg", curves))
    return blocks + [_strips(results, arms, row, f"strips-{row + 1}.png") for row in range(2)]


def _strips(results: Results, arms: Sequence[str], row: int, name: str) -> ReportBlock:
    prompt = results.real.told["prompts"][row] if row < len(results.real.told["prompts"]) else ""
    text = f"“{prompt}”, the lowest seed of each arm: the video, and its decoded state below."
    return _figure(f"Rollout {row + 1}", text, name, plots.strips(results, arms, row))


def _attention(results: Results, arms: Sequence[str]) -> list[ReportBlock]:
    if not any(results.arms[a][s].attention for a in arms for s in results.arms[a]):
        return []
    shares = "Share of each visible frame. Past frames are counted from the chunk backwards."
    windows = "The same weights with other windows. 1 is an equal share."
    layers = "Share of the anchor by layer and level."
    return [
        _figure("Attention", shares, "attention.svg", plots.attention_by_place(results, arms)),
        _figure("", windows, "attention-window.svg", plots.attention_by_window(results, arms)),
        _figure("", layers, "attention-layer.svg", plots.attention_by_layer(results, arms)),
    ]


TITLES = {
    "core": "State, no anchor and static anchor",
    "anchors": "Other anchors",
    "ratios": "The paper's ratios",
    "more_ratios": "The corner that the paper does not show",
    "systems": "Every compared system with its own training",
    "errors": "What trains the state",
    "more_errors": "Neither gradient through the cache",
    "carrier": "No past frame in view",
    "keys": "Equal numbers of visible keys",
    "alpha": "Horizon weight",
    "switches": "Open switches",
    "gradient": "Gradient through the cache",
    "reach": "How far back the window reaches",
    "long": "Training on rollouts of four horizons",
    "beyond": "Beyond the paper",
}


def _compared(results: Results, name: str, pairs: Sequence[tuple[str, str]], table: Table) -> list[ReportBlock]:
    if not pairs:
        return []
    known = [m for m in COMPARED if m in results.measures]
    stretches = results.horizons
    figure = plots.differences(results, pairs, known, stretches)
    arms = dict.fromkeys(x for pair in pairs for x in pair)
    told = "; ".join(f"{a}: {table.arms[a].about}" for a in arms)
    blocks = [_figure(TITLES.get(name, name), f"Paired differences. {told}.", f"{name}.svg", figure)]
    for at in stretches:
        rows = []
        for a, b in pairs:
            cells = [_cell(m, results.between(m, a, b, at)) for m in known]
            rows.append((f"{a} - {b}", str(len(results.seeds(a, b))), *cells))
        blocks += _tables(f"at {at}x", known, rows)
    if name not in ("core", "anchors"):  # whose pictures are above
        blocks.append(_strips(results, list(arms), 0, f"strips-{name}.png"))
    return blocks


def _recall(results: Results, table: Table) -> list[ReportBlock]:
    """Over all horizons: a single horizon has too few banks of fog."""
    if "recall" not in results.names:
        return []
    names = ("recall", "recall_long", "recall_held", "recall_lost", "held", "from_start")
    pairs = dict.fromkeys(pair for name in table.groups for pair in table.pairs(name) if results.seeds(*pair))
    rows = [
        (arm, str(len(results.arms.get(arm, {})) or ""), *(_cell(m, results.overall(m, arm)) for m in names))
        for arm in (*results.arms, REAL)
    ]
    rows += [
        (f"{a} - {b}", str(len(results.seeds(a, b))), *(_cell(m, results.overall(m, a, b)) for m in names))
        for a, b in pairs
    ]
    text = (
        "Over all horizons, in turns: distance between the hue that comes out of the fog and the correct one (recall), "
        "and between the ground's hue and that of the first horizon (from start). Unrelated hues are 0.25 apart. An "
        "arm with unrelated hues is far to the right, an arm that returns to the first view is low. Held: share of "
        "chunks whose hidden state has a hue, with recall where it had one at the end of the fog, and where it had "
        "none. A small recall does not show memory; the slope above does. These means are exploratory."
    )
    arms = [arm for arm in results.arms if results.seeds(arm)]
    picture = Picture.of(plots.remembering(results, arms), "fog.svg")
    return [ReportBlock("What fog hides", text, (("", "seeds", *(n.replace("_", " ") for n in names)), rows), picture)]


def _numbers(results: Results, at: int) -> list[ReportBlock]:
    """Every measure of every arm in one horizon."""
    known = results.measures
    rows = []
    for arm in (*results.arms, REAL):
        cells = [_cell(m, results.mean(m, arm, at)) for m in known]
        rows.append((arm, str(len(results.arms.get(arm, {})) or ""), *cells))
    return [ReportBlock(f"All numbers at {at}x"), *_tables("", known, rows)]


def _tables(corner: str, measures: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[ReportBlock]:
    """A table of (name, seeds, one cell per measure), split into several that fit on a page."""
    blocks = []
    for first in range(0, len(measures), COLUMNS):
        heads = (corner, "seeds", *(m.replace("_", " ") for m in measures[first : first + COLUMNS]))
        cut = [(*row[:2], *row[2 + first : 2 + first + COLUMNS]) for row in rows]
        blocks.append(ReportBlock(table=(heads, cut)))
    return blocks


def _variety(results: Results) -> list[ReportBlock]:
    """Whether rollouts differ in what no prompt determines; if not, there is nothing to forget."""
    known = [hue for hue in HUES if hue in results.names]
    if not known:
        return []
    heads = ("", *(f"{hue.replace('_', ' ')} at {at}x" for hue in known for at in results.horizons))
    rows = [
        (arm, *(f"{results.variety(hue, arm, at):.2f}" for hue in known for at in results.horizons))
        for arm in (*results.arms, REAL)
    ]
    text = (
        "Spread of the hues of ground and discs over the rollouts: 0 if all have the same, about 1 if they are spread "
        "evenly. An arm with one hue in all rollouts has nothing to forget."
    )
    return [ReportBlock("Variety", text, (heads, rows))]


def _measures(results: Results) -> ReportBlock:
    known = results.measures
    better = {1: "more", -1: "less", 0: "as real"}
    rows = [(m.replace("_", " "), MEASURES[m].about, better[MEASURES[m].better]) for m in known]
    return ReportBlock("Measures", "", (("measure", "what it is", "better"), rows))


def _cell(measure: str, i: Interval) -> str:
    return interval_cell(i, MEASURES[measure].digits)


def _figure(title: str, text: str, name: str, figure: Figure) -> ReportBlock:
    return ReportBlock(title, text, picture=Picture.of(figure, name))
