"""Rotary positions: relative, split as Wan splits them, exact at large indices, bounded by the table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adastate.models.rope import rope_table, rotate
from tests.support.tiny import normal

CPU = torch.device("cpu")
K = 32


def table(*positions: int, rows: int = 1024, height: int = 2, width: int = 3, head_dim: int = K) -> Tensor:
    return rope_table(positions, height, width, head_dim, rows, CPU)


def dots(q_at: int, k_at: int) -> Tensor:
    """Scores of all tokens of a query frame and a key frame, `[L, L]`."""
    q, k = normal(1, 6, 1, K, seed=1), normal(1, 6, 1, K, seed=2)
    return rotate(q, table(q_at))[0, :, 0] @ rotate(k, table(k_at))[0, :, 0].T


@pytest.mark.parametrize("shift", [1, 17, 1000])
def test_scores_depend_on_distances_only(shift: int) -> None:
    assert torch.allclose(dots(3, 1), dots(3 + shift, 1 + shift), atol=2e-5)
    assert not torch.allclose(dots(3, 1), dots(4, 1), atol=1e-2)


def test_rotations_compose() -> None:
    """R(7) R(5) x = R(12) x in time; the rows and columns of a frame add up, too, so one token at (0, 0)."""
    x = normal(1, 1, 2, K)
    one = {"height": 1, "width": 1}
    assert torch.allclose(rotate(rotate(x, table(7, **one)), table(5, **one)), rotate(x, table(12, **one)), atol=1e-5)


def test_rotation_keeps_lengths_and_dtype() -> None:
    x = normal(2, 12, 2, K)
    assert torch.allclose(rotate(x, table(4, 9)).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert rotate(x.bfloat16(), table(4, 9)).dtype == torch.bfloat16


@pytest.mark.parametrize(("head_dim", "pairs"), [(128, (22, 21, 21)), (32, (6, 5, 5)), (16, (4, 2, 2))])
def test_pairs_are_split_between_time_height_and_width(head_dim: int, pairs: tuple[int, int, int]) -> None:
    time, height, width = pairs

    def turned(a: Tensor, b: Tensor) -> list[int]:
        return ((a - b).abs()[0] > 1e-9).nonzero()[:, 0].tolist()

    t = rope_table((0, 1), 2, 2, head_dim, 8, CPU)[:, 0].reshape(2, 2, 2, -1)
    assert turned(t[1, 0, 0][None], t[0, 0, 0][None]) == [*range(time)]
    assert turned(t[0, 1, 0][None], t[0, 0, 0][None]) == [*range(time, time + height)]
    assert turned(t[0, 0, 1][None], t[0, 0, 0][None]) == [*range(time + height, time + height + width)]


def test_a_pair_is_two_neighbours_turned_counterclockwise() -> None:
    """The first pair turns by one radian a frame."""
    x = torch.zeros(1, 1, 1, K)
    x[..., 0] = 1
    y = rotate(x, rope_table((1,), 1, 1, K, 8, CPU))[0, 0, 0]
    assert y[:2].tolist() == pytest.approx([math.cos(1), math.sin(1)])
    assert y[2:].abs().max() == 0


def test_angles_are_exact_at_large_indices() -> None:
    """In float32 the angle of index 8191 is off by up to 5e-4; the second pair turns by theta^(-2/12) a frame."""
    angle = 8191 * 10_000 ** (-2 / 12)
    got = rope_table((8191,), 1, 1, K, 8192, CPU)[0, 0, 1]
    assert got.real.item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert math.cos(angle) != pytest.approx(math.cos(torch.tensor(angle).bfloat16().item()), abs=1e-6)


@pytest.mark.parametrize("positions", [(1024,), (5, 1024), (3, 2000)])
def test_a_position_beyond_the_table_is_an_error_with_both_numbers(positions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"position {max(positions)} lies outside the 1024 rows.*slot positions"):
        table(*positions)
    assert table(1023).shape == (6, 1, K // 2)


def test_a_negative_position_and_an_odd_head_are_errors() -> None:
    with pytest.raises(ValueError, match="position -1 lies outside the 1024"):
        table(-1, 4)
    with pytest.raises(ValueError, match="even head dim, got 7"):
        table(0, head_dim=7)


def test_law_4_rotating_on_read_is_rotating_on_write() -> None:
    """Frames rotated one by one when written, or all together when read: the same bits, in bf16 too."""
    for dtype in (torch.float32, torch.bfloat16):
        raw = normal(1, 4 * 6, 2, K).to(dtype)
        at = (0, 9, 10, 33)
        on_write = torch.cat([rotate(frame, table(p)) for frame, p in zip(raw.split(6, 1), at, strict=True)], 1)
        assert torch.equal(rotate(raw, table(*at)), on_write)
