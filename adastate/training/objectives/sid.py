"""Score identity distillation: the gradient goes through both scores."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from adastate.diffusion import losses
from adastate.diffusion.noise import SampleNoise
from adastate.training.objectives.network_scores import ScoreLevels, Scores
from adastate.training.objectives.state_score import StandsFor, StateLoss, state_score_loss
from adastate.training.student_rollouts import StudentSample


class SID:
    """Horizon-weighted score identity distillation, as Self-Forcing offers it.

    Args:
        alpha: see losses.sid.
        horizon_weight, horizon_law, state_loss, state_stands_for, score_timestep_range, score_shift: see DMD. The loss
            of the states is that of DMD.

    Raises:
        ValueError: for a negative horizon weight.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        horizon_weight: float = 2.0,
        horizon_law: losses.HorizonLaw = "linear",
        state_loss: StateLoss = "none",
        state_stands_for: StandsFor = "last",
        score_timestep_range: tuple[float, float] = (20.0, 980.0),
        score_shift: float | None = None,
    ) -> None:
        losses.horizon_weight(1, horizon_weight, horizon_law)  # refuses nonsense
        self.alpha, self.horizon_weight, self.horizon_law = alpha, horizon_weight, horizon_law
        self.scores_states, self.state_stands_for = state_loss != "none", state_stands_for
        self.levels = ScoreLevels(score_timestep_range, score_shift)

    def student_loss(
        self, sample: StudentSample, scores: Scores, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Objective."""
        x = sample.x
        weight = losses.horizon_weight(x.shape[1], self.horizon_weight, self.horizon_law, sample.loss_mask)
        real, fake = scores.x0(x, noise("score"), self.levels)
        loss = losses.sid(x, real, fake, self.alpha, weight, sample.mask())
        curves = {"student/score_gap": (fake - real).detach().abs().mean()}
        if self.scores_states:
            found = state_score_loss(sample, scores, noise("state score"), self.state_stands_for, self.levels)
            loss, curves = loss + found[0], curves | found[1]
        return loss, curves
