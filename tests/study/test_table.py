"""The table of arms: every arm can be made, the order tells most first, and mistakes are told by name."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from adastate.config.schema import ConfigError
from adastate.config.systems import read_system
from adastate.study.table import folder, read_table
from adastate.training.distill import Distill
from adastate.training.rollout_sampler import LongRollout
from tests.support.cases import thinned
from tests.support.rig import tiny_distill

ANCHORS = ["state", "none", "static", "ema", "dual_ema", "pingpong"]


def test_every_arm_is_a_stream_and_its_arguments_exist() -> None:
    table = read_table()
    known = inspect.signature(Distill.__init__).parameters
    for arm in table.arms.values():
        assert set(arm.model) <= set(known), arm.name
        assert arm.spec.chunk_frames in (1, 3) and arm.about
        assert set(arm.against) <= set(table.arms)
    assert {arm.spec.anchor for arm in table.arms.values()} == set(ANCHORS)


@pytest.mark.parametrize("name", thinned(read_table().arms, every=4))
def test_every_arm_can_be_distilled(name: str) -> None:
    arm = read_table().arms[name]
    options = {**arm.model.get("objective", {}).get("init_args", {}), **arm.model.get("rollouts", {})}
    if "long_rollout" in options:
        options["long_rollout"] = LongRollout(**options["long_rollout"])
    made = tiny_distill(dict(arm.taught or arm.stream), **options)
    assert arm.taught or made.student.spec.anchor == arm.spec.anchor
    chunks = list(
        made.stream(["a"], 10 * arm.spec.chunk_frames)
    )  # beyond its window, and what an average fills after it
    assert len(chunks) == 10 and all(c.content.isfinite().all() for c in chunks)


def test_the_ratios_are_those_of_the_paper() -> None:
    table = read_table()
    specs = [table.arms[name].spec for name in (*table.groups["ratios"].arms, *table.groups["more_ratios"].arms)]
    ratios = [(s.state_frames / s.chunk_frames, (s.past_frames or 0) / s.chunk_frames) for s in specs]
    assert ratios == [(1 / 3, 1), (1 / 3, 2), (1, 2), (1, 1)]
    weights = [table.arms[a].model.get("objective", {"init_args": {}})["init_args"] for a in table.groups["alpha"].arms]
    assert [w.get("horizon_weight", 2) for w in weights] == [2, 0, 4]


def test_every_compared_system_is_trained_as_itself_or_streams_with_another_s_student() -> None:
    table = read_table()
    arms = [table.arms[name] for name in table.groups["systems"].arms]
    assert len({arm.name for arm in arms}) == 10 and all(arm.spec.chunk_frames == 1 for arm in arms)
    for arm in arms:
        published = read_system(arm.name, 1).spec
        assert replace(arm.spec, cache_grad=published.cache_grad) == published, arm.name
    assert [a.name for a in arms if a.student] == ["infinity_rope", "memrope", "rolling_sink"]
    assert dict(table.arms["reward_forcing"].taught)["anchor"] == "static"
    tasks = [(t.arm.name, t.seed) for t in table.tasks(table.budgets["systems"])]
    assert tasks.index(("self_forcing", 2)) < tasks.index(("memrope", 2)) and len(tasks) == 30


def test_anchors_are_compared_at_equal_pasts_and_at_equal_numbers_of_keys() -> None:
    table = read_table()

    def visible(name: str) -> int:
        spec = table.arms[name].spec
        assert spec.window_frames is not None
        return spec.window_frames + (spec.state_frames if spec.anchor == "state" else 0)  # a new state is one more key

    mine = (*table.groups["core"].arms, *table.groups["anchors"].arms)
    assert {table.arms[name].spec.past_frames for name in mine} == {1}
    assert len({visible(name) for name in table.groups["keys"].arms}) == 1
    assert visible("state") < visible("state_keys"), "so at equal pasts the anchors do not see as much as each other"


def test_seed_0_of_the_core_comes_first_and_a_claim_has_eight_seeds_of_at_most_three_arms() -> None:
    table = read_table()
    tasks = [(t.arm.name, t.seed) for t in table.tasks(table.budgets["short"])]
    assert tasks == [(name, seed) for seed in range(8) for name in ("state", "none", "static")]
    ratios = [(t.arm.name, t.seed) for t in table.tasks(table.budgets["ratios"])]
    assert len(ratios) == len(set(ratios)), "an arm of several groups is run once"
    assert ratios[:24] == [(name, seed) for seed in range(8) for name in ("s1_w3", "s1_w6", "s3_w6")]
    rest = [seed for _, seed in ratios[24:]]
    assert rest == sorted(rest)


def test_groups_can_be_chosen_and_smoke_is_two_runs() -> None:
    table = read_table()
    alone = {t.arm.name for t in table.tasks(table.budgets["ratios"], ["alpha"])}
    assert alone == {"s1_w3", "alpha_0", "alpha_4"}
    assert [(t.arm.name, t.seed) for t in table.tasks(table.budgets["smoke"])] == [("state", 0), ("none", 0)]
    assert table.tasks(table.budgets["teacher"]) == []
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        table.tasks(table.budgets["ratios"], ["alfa"])


def test_pairs_name_what_an_arm_is_set_against() -> None:
    table = read_table()
    assert ("none_keys", "state_keys") in table.pairs("keys") and ("alpha_0", "s1_w3") in table.pairs("alpha")
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
        (lambda c: c["budgets"]["short"].update(horizons=[6, 1]), "must ascend"),
        (lambda c: c["budgets"]["short"].pop("rollouts"), "rollouts missing"),
        (lambda c: c.pop("arms"), "has no 'arms'"),
        (lambda c: c["arms"]["memrope"].update(student="self_forced"), "did you mean 'self_forcing'"),
        (lambda c: c["arms"]["memrope"].update(system="memrop"), "did you mean 'memrope'"),
        (lambda c: c["arms"]["long"].update(recipes=["recipes/no.yaml"]), "there is no recipe conf/recipes/no.yaml"),
        (lambda c: c["arms"]["reward_forcing"].update(taught={"anchor": "none"}), "its training: anchor is 'none'"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, change, told: str) -> None:  # type: ignore[no-untyped-def]
    content = yaml.safe_load((folder() / "arms.yaml").read_text())
    change(content)
    path = tmp_path / "arms.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=told):
        read_table(path)
