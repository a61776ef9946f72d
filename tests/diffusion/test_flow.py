"""The noise table and its arithmetic: the reference's numbers (fixture D), and what must hold of any table."""

from __future__ import annotations

import pytest
import torch

from adastate.diffusion import flow
from adastate.diffusion.flow import sigma_table, to_velocity, to_x0, warp_steps
from adastate.parity.replay import replay
from tests.parity import failed, load
from tests.support.tiny import normal

SHIFT = 5.0


def test_tables_weights_and_conversions_are_the_reference_s() -> None:
    f = load("D_scheduler_shift5")
    found = replay(f)
    assert not failed(found) and f.outputs.keys() <= {c.output for c in found}
    t = f.inputs["timestep"]
    assert t.tolist()[0] == 0 and 499.7 in t.numpy().round(1), "integers, halves and both ends"


def test_tables_that_inference_asked_for_first_serve_training() -> None:
    with torch.inference_mode():
        tables = (sigma_table(1.375), flow.sigmas_on(1.375, torch.device("cpu")))
    assert not any(table.is_inference() for table in tables)


def test_training_weights_are_a_bell_of_mean_1() -> None:
    weights = flow.training_weights(SHIFT)
    assert weights.shape == (1000,) and weights.mean().item() == pytest.approx(1, rel=1e-5) and weights.min() == 0
    at = sigma_table(SHIFT)[weights.argmax()].item()
    assert at == pytest.approx(0.5, abs=2e-3), "whatever the shift, the middle timesteps count most"


def test_entries_are_those_of_the_levels() -> None:
    t = torch.tensor([0.0, 3.3, 499.7, 1000.0])
    assert torch.equal(sigma_table(8.0)[flow.entry(t, 8.0)], flow.sigma(t, 8.0))


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_a_table_falls_from_one_and_knows_its_own_entries(shift: float) -> None:
    table = sigma_table(shift)
    assert table[0] == 1 and (table.diff() < 0).all() and table[-1] > 0
    assert torch.equal(flow.sigma(table * 1000, shift), table)
    nudged = (table * 1000 + 0.3 * torch.cat([table.diff(), table.diff()[-1:]]) * 1000).clamp(0)
    assert torch.equal(flow.sigma(nudged, shift), table), "a third of a gap is not half of one"


def test_halfway_between_two_entries_is_the_noisier_one() -> None:
    times = sigma_table(1.0) * 1000
    noisier, cleaner = times[:-1], times[1:]
    halfway = (noisier + cleaner) / 2
    ties = noisier - halfway == halfway - cleaner
    assert ties.sum() > 100, "as float32 has them"
    assert torch.equal(flow.sigma(halfway[ties], 1.0), sigma_table(1.0)[:-1][ties])


def test_zero_means_the_last_entry() -> None:
    assert flow.sigma(torch.tensor([0.0]), 8.0).item() == pytest.approx(0.00794, abs=1e-5)
    assert flow.sigma(torch.tensor([-5.0, 2000.0]), 5.0).tolist() == [sigma_table(5.0)[-1], 1]


@pytest.mark.parametrize("t", [torch.tensor([3.0, 1000.0]), torch.tensor([[0.0, 20, 500], [1000, 700, 1]])])
def test_the_three_conversions_agree(t: torch.Tensor) -> None:
    """Noised by eps, the true flow eps - x0 leads back; per clip or per frame."""
    x0, eps = normal(2, 3, 4, 2, 2, seed=1), normal(2, 3, 4, 2, 2, seed=2)
    x_t = flow.add_noise(x0, eps, t, SHIFT)
    assert torch.allclose(to_x0(x_t, eps - x0, t, SHIFT), x0, atol=2e-6)
    assert torch.allclose(to_velocity(x_t, x0, t, SHIFT), eps - x0, atol=2e-4)
    assert not torch.allclose(to_x0(x_t, eps - x0, t, 8.0), x0, atol=1e-3), "another shift is another table"


def test_latents_keep_their_dtype() -> None:
    x, t = normal(1, 2, 4, 2, 2).bfloat16(), torch.tensor([500.0])
    assert {f(x, x, t, SHIFT).dtype for f in (to_x0, to_velocity)} == {torch.bfloat16}
    assert flow.add_noise(x, x, t, SHIFT).dtype == torch.bfloat16


def test_drawn_timesteps_are_shifted_and_clamped() -> None:
    u = torch.tensor([0, 1, 500, 999])
    assert flow.draw_timesteps(u, 5.0).tolist() == pytest.approx([20, 20, 833.3333, 980])
    assert flow.draw_timesteps(u, 1.0, 0, 1000).tolist() == pytest.approx([0, 1, 500, 999])


def test_euler_levels_end_at_data() -> None:
    levels = flow.euler_times(4, 3.0)
    assert levels.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


@pytest.mark.parametrize("raw", [[], [1001], [0], [500, 500], [250, 500], [999.5]])
def test_impossible_step_lists(raw: list[float]) -> None:
    with pytest.raises(ValueError, match="step list"):
        warp_steps(raw, SHIFT)
