"""The table of arms: every arm can be made, the order tells most first, and mistakes are told by name."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from adastate.config.schema import ConfigError
from adastate.study.table import folder, read_table
from adastate.training.distill import Distill
from adastate.training.rollout_sampler import LongRollout
from tests.support.rig import tiny_distill

ANCHORS = ["state", "none", "static", "ema", "dual_ema", "pingpong"]


def test_every_arm_is_a_stream_and_its_arguments_exist() -> None:
    table = read_table()
    known = inspect.signature(Distill.__init__).parameters
    for arm in table.arms.values():
        assert set(arm.model) <= set(known), arm.name
        assert arm.spec.chunk_frames == 1 and arm.about
        assert set(arm.against) <= set(table.arms)
    assert {arm.spec.anchor for arm in table.arms.values()} == set(ANCHORS)


@pytest.mark.parametrize("name", list(read_table().arms))
def test_every_arm_can_be_distilled(name: str) -> None:
    arm = read_table().arms[name]
    options = {**arm.model.get("objective", {}).get("init_args", {}), **arm.model.get("rollouts", {})}
    if "long_rollout" in options:
        options["long_rollout"] = LongRollout(**options["long_rollout"])
    made = tiny_distill(dict(arm.stream), **options)
    assert made.student.spec.anchor == arm.spec.anchor
    chunks = list(
        made.stream(["a"], 10 * arm.spec.chunk_frames)
    )  # beyond its window, and what an average fills after it
    assert len(chunks) == 10 and all(c.content.isfinite().all() for c in chunks)


def test_anchors_are_compared_at_equal_pasts_and_at_equal_numbers_of_keys() -> None:
    table = read_table()

    def visible(name: str) -> int:
        spec = table.arms[name].spec
        assert spec.window_frames is not None
        return spec.window_frames + (spec.state_frames if spec.anchor == "state" else 0)  # a new state is one more key

    assert {table.arms[name].spec.past_frames for name in table.groups["anchors"].arms} == {1}
    assert len({visible(name) for name in table.groups["keys"].arms}) == 1
    assert visible("state") < visible("state_keys"), "so at equal pasts the anchors do not see as much as each other"


@pytest.mark.parametrize("budget", ["short", "full"])
def test_seed_0_of_all_six_anchors_comes_first_and_then_their_other_seeds(budget: str) -> None:
    table = read_table()
    tasks = [(t.arm.name, t.seed) for t in table.tasks(table.budgets[budget])]
    assert tasks[:18] == [(name, seed) for seed in range(3) for name in ANCHORS]
    assert len(tasks) == len(set(tasks)), "an arm of several groups is run once"
    rest = [seed for _, seed in tasks[18:]]
    assert rest == sorted(rest)


def test_groups_can_be_chosen_and_smoke_is_two_runs() -> None:
    table = read_table()
    alone = {t.arm.name for t in table.tasks(table.budgets["full"], ["alpha"])}
    assert alone == {"state", "alpha_0", "alpha_4"}
    assert [(t.arm.name, t.seed) for t in table.tasks(table.budgets["smoke"])] == [("state", 0), ("none", 0)]
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        table.tasks(table.budgets["full"], ["alfa"])


def test_pairs_name_what_an_arm_is_set_against() -> None:
    table = read_table()
    assert ("none_keys", "state_keys") in table.pairs("keys") and ("alpha_0", "state") in table.pairs("alpha")
    assert ("state_grad_3", "detached") in table.pairs("switches")
    assert {("static_long", "long"), ("static_long", "static")} <= set(table.pairs("long")), "one arm, two rivals"
    assert all(a != b for group in table.groups for a, b in table.pairs(group))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["arms"]["none"].update(stram={}), "did you mean 'stream'"),
        (lambda c: c["arms"]["none"].update(stream={"anchr": "none"}), "did you mean 'anchor'"),
        (
            lambda c: c["arms"]["none"].update(stream={"anchor": "none"}),
            "arm none: anchor is 'none' with state_",
        ),
        (lambda c: c["groups"]["alpha"]["arms"].append("alpha_9"), "did you mean 'alpha_"),
        (lambda c: c["budgets"]["short"].update(horizons=[6, 1]), "have to ascend"),
        (lambda c: c["budgets"]["short"].pop("rollouts"), "rollouts missing"),
        (lambda c: c.pop("arms"), "has no 'arms'"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, change, told: str) -> None:  # type: ignore[no-untyped-def]
    content = yaml.safe_load((folder() / "arms.yaml").read_text())
    change(content)
    path = tmp_path / "arms.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=told):
        read_table(path)
