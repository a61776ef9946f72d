"""The objectives: the reference's numbers (fixture E), law 10, and the horizon weight's values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.diffusion import losses
from adastate.parity.replay import replay
from tests.parity import failed, load
from tests.support.tiny import normal


def test_distribution_matching_is_the_reference_s() -> None:
    """The DMD gradient and loss and the critic's, from the fixture's nets and draws, through both of its tables."""
    f = load("E_dmd_default")
    found = replay(f)
    assert not failed(found)
    noted = {f"meta.{k}" for k in ("critic_loss_if_raw_network_flow_were_used", "critic_param_grad_norms")}
    assert f.outputs.keys() | noted <= {c.output for c in found}


def test_the_loss_per_sample_has_the_same_mean() -> None:
    x0, eps, v = triple()
    each = losses.per_sample_flow_matching(v, x0, eps)
    assert each.shape == (2,) and each.mean().item() == pytest.approx(losses.flow_matching(v, x0, eps).item(), rel=1e-6)


# ---- law 10


def triple() -> tuple[Tensor, Tensor, Tensor]:
    return normal(2, 4, 3, 2, 2, seed=1), normal(2, 4, 3, 2, 2, seed=2), normal(2, 4, 3, 2, 2, seed=3)


def test_law_10_equal_scores_give_no_gradient() -> None:
    x, real, fake = triple()
    assert losses.dmd_gradient(x, real, real).abs().max() == 0
    assert losses.dmd_gradient(x, real, fake).abs().max() > 0.1
    assert losses.dmd_gradient(real, real, real).abs().max() == 0, "0 / 0 is no gradient either"


@pytest.mark.parametrize("scale", [0.01, 3.0, 1000.0])
def test_law_10_rescaling_changes_nothing(scale: float) -> None:
    x, real, fake = triple()
    g = losses.dmd_gradient(x, real, fake)
    assert torch.allclose(losses.dmd_gradient(scale * x, scale * real, scale * fake), g, rtol=1e-4)
    assert not torch.allclose(losses.dmd_gradient(scale * x, real, fake), g, rtol=1e-2)


def test_law_10_samples_are_normalised_apart() -> None:
    x, real, fake = triple()
    g = losses.dmd_gradient(x, real, fake)
    louder = [torch.cat([v[:1], 50 * v[1:]]) for v in (x, real, fake)]
    assert torch.allclose(losses.dmd_gradient(*louder), g, rtol=1e-4)


@pytest.mark.parametrize("law", ["linear", "none"])
def test_law_10_alpha_zero_is_plain_dmd(law: losses.HorizonLaw) -> None:
    x, real, fake = triple()
    g = losses.dmd_gradient(x, real, fake)
    assert torch.equal(losses.dmd(x, g, losses.horizon_weight(4, 0.0, law)), losses.dmd(x, g))
    assert losses.dmd(x, g, losses.horizon_weight(4, 2.0)) != losses.dmd(x, g)


def test_the_gradient_of_dmd_is_w_g_over_size() -> None:
    x, real, fake = triple()
    g, w = losses.dmd_gradient(x, real, fake), losses.horizon_weight(4, 2.0)
    x.requires_grad_()
    losses.dmd(x, g, w).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, g * w.float()[None, :, None, None, None] / x.numel(), atol=1e-7)


def test_frames_without_loss_have_no_gradient_and_do_not_count() -> None:
    x, real, fake = triple()
    g = losses.dmd_gradient(x, real, fake)
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    x.requires_grad_()
    loss = losses.dmd(x, g, mask=mask)
    loss.backward()
    assert x.grad is not None
    assert torch.equal(x.grad.flatten(2).abs().amax(2) > 0, mask)
    assert loss.item() == pytest.approx(0.5 * g[mask].square().mean().item(), rel=1e-6)


# ---- the horizon weight


@pytest.mark.parametrize("alpha", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("frames", [1, 3, 21])
def test_the_horizon_weight_has_mean_1_and_grows_to_1_plus_alpha(alpha: float, frames: int) -> None:
    w = losses.horizon_weight(frames, alpha)
    assert w.shape == (frames,) and w.mean().item() == pytest.approx(1)
    if frames > 1:
        assert (w[-1] / w[0]).item() == pytest.approx(1 + alpha)
        assert w.diff().tolist() == pytest.approx([w.diff()[0].item()] * (frames - 1)), "in a straight line"


def test_horizon_weight_values() -> None:
    assert losses.horizon_weight(3, 2.0).tolist() == pytest.approx([0.5, 1.0, 1.5])
    assert losses.horizon_weight(2, 2.0).tolist() == pytest.approx([0.5, 1.5])
    assert losses.horizon_weight(5, 4.0, "none").tolist() == [1] * 5


def test_the_horizon_is_that_of_the_frames_with_loss() -> None:
    loss_mask = torch.tensor([False, False, True, True, True])
    assert losses.horizon_weight(5, 2.0, loss_mask=loss_mask).tolist() == pytest.approx([0, 0, 0.5, 1.0, 1.5])


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match=r"horizon_weight is -1.0; it must not be negative, 0 turns it off"):
        losses.horizon_weight(5, -1.0)


# ---- the others


def test_flow_matching_and_regression_are_zero_at_the_truth_only() -> None:
    x0, eps, other = triple()
    mask = torch.tensor([[True, False, False, False]] * 2)
    assert losses.flow_matching(eps - x0, x0, eps) == 0 == losses.regression(x0, x0)
    assert losses.flow_matching(x0 - eps, x0, eps) > 1 and losses.regression(other, x0) > 1
    wrong = torch.cat([x0[:, :1], other[:, 1:]], 1)
    assert losses.regression(wrong, x0, mask) == 0 < losses.regression(wrong, x0)
    assert losses.flow_matching(eps - wrong, x0, eps, mask) == 0


def test_losses_are_measured_in_float32() -> None:
    x0, eps, _ = (v.bfloat16() for v in triple())
    assert losses.flow_matching(eps, x0, eps).dtype == torch.float32
    assert losses.dmd(x0, eps).dtype == torch.float64


# ---- SiD, rewards


def test_sid_is_zero_without_gradient_where_the_scores_agree_and_x_is_real() -> None:
    x = normal(2, 3, 4, 4, 4).requires_grad_()
    losses.sid(x, x.detach(), x.detach()).backward()
    assert x.grad is not None and float(x.grad.abs().max()) == 0


def test_sid_looks_at_the_frames_of_the_mask_alone() -> None:
    """Loss and gradient are those of the clip without the others, whatever these hold."""
    x, real, fake = (normal(2, 4, 2, 3, 3, seed=i).requires_grad_() for i in range(3))
    mask = torch.tensor([[False, True, True, False]]).expand(2, -1)
    loss = losses.sid(x, real, fake, 0.7, mask=mask)
    cut = losses.sid(x[:, 1:3], real[:, 1:3], fake[:, 1:3], 0.7)
    assert torch.allclose(loss, cut)
    for a, b in zip(*(torch.autograd.grad(each, (x, real, fake)) for each in (loss, cut)), strict=True):
        assert torch.allclose(a, b)
    other = losses.sid(x * 9, real, fake, 0.7, mask=mask)
    assert not torch.allclose(other, loss)


def test_sid_by_hand_with_gradient_through_the_scores() -> None:
    """Scores that are linear in x: real a x, fake b x."""
    a, b, alpha = 0.7, 0.4, 1.2
    x = normal(2, 3, 4, 4, 4).double().requires_grad_()
    losses.sid(x, a * x, b * x, alpha).backward()
    norm = ((1 - a) * x.detach()).abs().mean((1, 2, 3, 4), keepdim=True)
    factor = (a - b) * ((a - 1) - alpha * (a - b))
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * factor * x.detach() / norm / x.numel())


def test_a_reward_weighs_samples() -> None:
    x, g = normal(2, 3, 4, 4, 4).requires_grad_(), normal(2, 3, 4, 4, 4, seed=1)
    weight = losses.reward_weight(torch.tensor([0.0, 0.5]), beta=2.0)
    assert weight.tolist() == pytest.approx([1.0, 2.718281828])
    losses.dmd(x, g, samples=weight).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.float()[:, None, None, None, None] * g / x.numel(), atol=1e-8)
