"""The critic's training: its timesteps come by a shift of their own, and their noise by the teacher's table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.training.critic import BANDS, Critic
from tests.support.tiny import SHAPE, SIZE, normal


@pytest.mark.parametrize(("own", "shift"), [(None, 5.0), (1.0, 1.0), (8.0, 8.0)])
def test_timesteps_are_drawn_by_the_shift_of_training_and_noise_is_the_table_s(own: float | None, shift: float) -> None:
    critic = Critic(SIZE, timestep_shift=5.0, training_timestep_shift=own)
    seen: list[tuple[Tensor, Tensor]] = []
    critic.net.register_forward_hook(lambda net, given, out: seen.append(given[:2]))
    x = normal(8, 3, *SHAPE)
    critic.loss(x, normal(8, SIZE.text_tokens, SIZE.text_width), SampleNoise(0, 0, range(8), "critic"))
    source = SampleNoise(0, 0, range(8), "critic")
    t = flow.draw_timesteps(source.integers(1000), shift)
    ((x_t, told),) = seen
    assert torch.equal(told, t) and len(t.unique()) > 4
    assert torch.equal(x_t, flow.add_noise(x, source.normal(*x.shape[1:]), t, 5.0))


@pytest.mark.parametrize("loss_mask", [None, torch.tensor([False, True, True])])
def test_the_loss_is_over_the_frames_that_carry_it(loss_mask: Tensor | None) -> None:
    critic, x = Critic(SIZE), normal(4, 3, *SHAPE)
    found: list[Tensor] = []
    critic.net.register_forward_hook(lambda net, given, out: found.append(out))
    text = normal(4, SIZE.text_tokens, SIZE.text_width)
    loss, curves = critic.loss(x, text, SampleNoise(0, 0, range(4), "critic"), loss_mask)
    source = SampleNoise(0, 0, range(4), "critic")
    source.integers(1000)
    each = (found[0] - (source.normal(*x.shape[1:]) - x)).square()[:, slice(None) if loss_mask is None else loss_mask]
    assert loss.item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert set(curves) <= {f"critic/loss_{name}_noise" for name in BANDS}
