"""Randomness is a function of what it is for: law 11 rests on it."""

from __future__ import annotations

import pytest
import torch

from adastate.diffusion.noise import PlacedNoise, RecordedNoise, SampleNoise, generator, shared_integer
from tests.support.tiny import normal


def draw(seed: int = 0, iteration: int = 3, index: list[int] | None = None, purpose: str = "rollout") -> torch.Tensor:
    return SampleNoise(seed, iteration, [4, 5, 6, 7] if index is None else index, purpose).normal(2, 3)


def test_a_row_depends_on_its_sample_and_not_on_its_batch() -> None:
    assert torch.equal(draw(), torch.cat([draw(index=[4, 5]), draw(index=[6, 7])]))
    assert torch.equal(draw(index=[7, 4]), draw()[[3, 0]])
    assert torch.equal(SampleNoise(0, 3, torch.tensor([4, 5, 6, 7]), "rollout").normal(2, 3), draw())


@pytest.mark.parametrize("other", [{"seed": 1}, {"iteration": 4}, {"purpose": "score"}, {"index": [8, 9, 10, 11]}])
def test_everything_in_the_key_counts(other: dict[str, int]) -> None:
    assert not torch.isclose(draw(), draw(**other)).any()


def test_no_two_rows_are_alike() -> None:
    rows = draw(index=list(range(100))).flatten(1)
    assert torch.pdist(rows).min() > 0.05


def test_draws_go_on_and_disturb_no_one() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    noise = SampleNoise(0, 0, [0], "a")
    first, second = noise.normal(3), noise.normal(3)
    assert not torch.isclose(first, second).any()
    whole = SampleNoise(0, 0, [0], "a").normal(6)
    assert whole.shape == (1, 6)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_normals_are_normal_and_integers_and_uniforms_in_range() -> None:
    noise = SampleNoise(0, 0, range(64), "a")
    x = noise.normal(256)
    assert abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03
    i, u = noise.integers(4), noise.uniform(2)
    assert i.shape == (64,) and set(i.tolist()) == {0, 1, 2, 3}
    assert u.shape == (64, 2) and u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.1


def test_shared_integers_know_no_sample() -> None:
    drawn = [shared_integer(4, 0, i, "exit") for i in range(200)]
    assert drawn == [shared_integer(4, 0, i, "exit") for i in range(200)]
    assert {drawn.count(v) > 30 for v in range(4)} == {True}, "all levels come up"


def test_keys_are_told_apart_by_their_parts() -> None:
    def first(*key: int | str) -> int:
        return generator(*key).initial_seed()

    assert len({first(1, 23), first(12, 3), first("1", 23), first(1, "23"), first(123), first(23, 1)}) == 6


def test_placed_noise_is_of_its_place_alone() -> None:
    """Seed, chunk, level, and state or content: no two places are alike, and asking for one twice gives it twice."""
    places = [(seed, chunk, level, kind) for seed in (0, 1) for chunk in (0, 1) for level in (-1, 0, 1)
              for kind in ("state", "content")]  # fmt: skip
    drawn = [PlacedNoise(seed, [3]).at(*at).normal(8).flatten() for seed, *at in places]
    assert torch.pdist(torch.stack(drawn)).min() > 0.1
    source = PlacedNoise(0, [3, 4])
    first = source.at(1, 0, "content").normal(8)
    source.at(1, 1, "content").normal(8)
    assert torch.equal(source.at(1, 0, "content").normal(8), first)


def test_recorded_noise_replays_and_then_fails() -> None:
    draws = [normal(2, 3, 4, seed=1), normal(2, 5, seed=2)]
    noise = RecordedNoise(draws)
    assert torch.equal(noise.normal(3, 4), draws[0])
    with pytest.raises(ValueError, match=r"recorded draw 1 is \(5,\) a row, the rollout asks for \(6,\)"):
        noise.normal(6)
    noise = RecordedNoise(draws)
    noise.normal(3, 4), noise.normal(5)
    with pytest.raises(ValueError, match=r"draw 2 of shape \(5,\) was not recorded: only 2 were"):
        noise.normal(5)
