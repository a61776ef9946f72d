"""Actions: what a network is told of each frame, and what it makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adastate.models.actions import Steering, given, not_given
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from tests.support.tiny import GRID, SIZE, normal, random_net

STEERED = replace(SIZE, actions=3)
X = normal(2, 4, SIZE.channels, *GRID, seed=1)
TEXT = normal(2, SIZE.text_tokens, SIZE.text_width, seed=2)
T = torch.tensor([700.0, 30.0])
ROWS = (normal(2, 5, 3, seed=5) > 0).float()
"""Of two streams and five frames."""


def steering(first: int = 0) -> Steering:
    return Steering(given(ROWS), first)


def test_a_flag_says_that_actions_are_given() -> None:
    flagged = given(ROWS)
    assert flagged.shape == (2, 5, 4) and torch.equal(flagged[..., :3], ROWS) and bool((flagged[..., 3] == 1).all())
    taken = not_given(flagged, torch.tensor([True, False]))
    assert not taken[0].any() and torch.equal(taken[1], flagged[1])


# ---- the network


@torch.no_grad()
def test_a_fresh_network_that_can_be_steered_is_the_one_that_cannot() -> None:
    torch.manual_seed(3)
    plain = DiT(SIZE)
    torch.manual_seed(3)
    steered = DiT(STEERED)
    assert all(torch.equal(v, steered.state_dict()[k]) for k, v in plain.state_dict().items())
    assert steered.state_dict().keys() - plain.state_dict().keys() == {"action_embedding.weight"}
    assert not steered.state_dict()["action_embedding.weight"].any()


@torch.no_grad()
def test_a_zero_layer_and_actions_that_are_not_given_change_no_bit() -> None:
    net, plain = random_net(STEERED), random_net()
    flagged = given(ROWS[:, :4])
    assert torch.equal(net(X, T, TEXT), plain(X, T, TEXT))
    assert torch.equal(net(X, T, TEXT, actions=torch.zeros_like(flagged)), plain(X, T, TEXT))
    assert not torch.allclose(net(X, T, TEXT, actions=flagged), plain(X, T, TEXT), atol=1e-3)
    assert net.action_embedding is not None
    net.action_embedding.weight.zero_()
    assert torch.equal(net(X, T, TEXT, actions=flagged), plain(X, T, TEXT))


@torch.no_grad()
def test_frames_take_their_actions_with_them() -> None:
    """Permuting frames with their positions and actions permutes the velocity."""
    net, order, flagged = random_net(STEERED), [2, 0, 3, 1], given(ROWS[:, :4])
    mixed = net(X[:, order], T, TEXT, positions=order, actions=flagged[:, order])
    assert torch.allclose(mixed, net(X, T, TEXT, actions=flagged)[:, order], atol=1e-5)


@pytest.mark.parametrize("compute_dtype", [None, "bfloat16"])
def test_checkpointing_changes_no_gradient_of_the_layer(compute_dtype: str | None) -> None:
    def gradient(checkpointing: bool) -> Tensor:
        net = random_net(STEERED, checkpointing=checkpointing, compute_dtype=compute_dtype)
        net(X, T, TEXT, actions=given(ROWS[:, :4])).square().mean().backward()
        assert net.action_embedding is not None and net.action_embedding.weight.grad is not None
        return net.action_embedding.weight.grad

    assert torch.equal(gradient(False), gradient(True)) and float(gradient(False).norm()) > 0


def test_wrong_actions_name_both_numbers() -> None:
    with pytest.raises(ValueError, match="this network cannot be steered: its size has no `actions`"):
        random_net()(X, T, TEXT, actions=given(ROWS[:, :4]))
    for wrong in (ROWS[:, :4], given(ROWS)):
        with pytest.raises(ValueError, match=r"actions of shape .*takes 3 columns and their flag .* \[2, 4, 4\]"):
            random_net(STEERED)(X, T, TEXT, actions=wrong)
    with pytest.raises(ValueError, match="actions is -1; it has to be at least 0"):
        Size(actions=-1)


# ---- by the number of a frame


def test_rows_are_asked_for_by_number() -> None:
    """A state has none; before the first nothing is given, and beyond the last the last holds."""
    rows = steering(first=10).rows([None, 9, 10, 12, 14, 15, 99])
    assert rows is not None
    flagged = given(ROWS)
    assert not rows[:, :2].any()
    assert torch.equal(rows[:, 2:], flagged[:, [0, 2, 4, 4, 4]])
    assert steering(first=10).rows([None, 8, 9]) is None
    assert Steering(flagged[:, :0]).rows([0, 1]) is None, "an empty schedule gives nothing"


def test_a_stream_is_steered_on_from_the_first_frame_that_no_pass_has_asked_for() -> None:
    hand = steering()
    before = hand.rows([0, 1, 2])
    assert hand.steer(given(1 - ROWS[:, :1])) == 3
    assert before is not None and torch.equal(hand.rows([0, 1, 2]), before)
    after = hand.rows([3, 4, 7])
    assert after is not None and torch.equal(after, given(1 - ROWS[:, [0, 0, 0]]))
    assert hand.steer(given(ROWS[:, :1])) == 8
    late = hand.rows([5, 7, 8])
    assert late is not None and torch.equal(late, torch.cat([after[:, :2], given(ROWS[:, :1])], 1)), "what held, holds"


def test_a_stream_that_begins_without_actions_can_be_steered_later() -> None:
    hand = Steering(torch.zeros(1, 0, 4))
    assert hand.rows([0, 1, 2]) is None
    assert hand.steer(given(ROWS[:1, :1])) == 3
    rows = hand.rows([2, 3])
    assert rows is not None and not rows[:, 0].any() and torch.equal(rows[:, 1:], given(ROWS[:1, :1]))


def test_what_no_pass_asks_for_again_is_let_go_and_a_copy_goes_on_by_itself() -> None:
    hand, plain = steering(), steering()
    twin = hand.fork()
    for frame in range(0, 300, 3):
        for one in (hand, plain):
            one.rows([frame, frame + 1, frame + 2])
            one.steer(given(ROWS[:, frame % 5 : frame % 5 + 1]))
        hand.forget(frame - 6)
        asked = list(range(max(0, frame - 6), frame + 3))
        assert torch.equal(hand.rows(asked), plain.rows(asked))  # type: ignore[arg-type]
    assert hand.flagged.shape[1] <= 10 < plain.flagged.shape[1]
    assert torch.equal(twin.rows([0, 4]), steering().rows([0, 4]))  # type: ignore[arg-type]
    again = Steering.restored(hand.saved())
    assert again.steer(given(ROWS[:, :1])) == hand.steer(given(ROWS[:, :1])) == 300
