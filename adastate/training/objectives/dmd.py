"""Distribution matching: the student follows the difference of two scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion import losses
from adastate.diffusion.noise import SampleNoise
from adastate.training.objectives.network_scores import ScoreLevels, Scores
from adastate.training.objectives.state_score import StandsFor, StateLoss, state_score_loss
from adastate.training.student_rollouts import StudentSample

# The result is a Tensor; were that said, jsonargparse would look for a class of tensors in the config.
Reward = Callable[[Tensor], Any]
"""Decoded video `[B, T, 3, h, w]` in [-1, 1] -> one number per clip `[B]`, larger for better."""


class DMD:
    """Horizon-weighted distribution matching distillation, with an optional reward and a loss of the states.

    Args:
        horizon_weight: alpha of losses.horizon_weight, whose law runs over those frames of the scored clip that carry
            loss, wherever in a long stream it lies.
        horizon_law: its law [D].
        state_loss: `none`: the state learns through attention alone; `dmd`: a second scored clip has a frame of each
            chunk replaced by the chunk's state, with gradient on those frames only [D].
        state_stands_for: which frame of its chunk that is [D].
        reward, reward_beta: decoded video to a reward per clip, and beta of the weight exp(beta r) of its loss.
        score_timestep_range: timesteps at which the scores are compared are clamped to it.
        score_shift: shift of those timesteps; None takes the teacher's.

    Raises:
        ValueError: for a negative horizon weight.
    """

    def __init__(
        self,
        horizon_weight: float = 2.0,
        horizon_law: losses.HorizonLaw = "linear",
        state_loss: StateLoss = "none",
        state_stands_for: StandsFor = "last",
        reward: Reward | None = None,
        reward_beta: float = 2.0,
        score_timestep_range: tuple[float, float] = (20.0, 980.0),
        score_shift: float | None = None,
    ) -> None:
        losses.horizon_weight(1, horizon_weight, horizon_law)  # refuses nonsense
        self.horizon_weight, self.horizon_law = horizon_weight, horizon_law
        self.scores_states, self.state_stands_for = state_loss != "none", state_stands_for
        self.reward, self.reward_beta = reward, reward_beta
        self.levels = ScoreLevels(score_timestep_range, score_shift)

    def student_loss(
        self, sample: StudentSample, scores: Scores, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Objective."""
        x, mask = sample.x, sample.mask()
        weight = losses.horizon_weight(x.shape[1], self.horizon_weight, self.horizon_law, sample.loss_mask)
        of_clips, curves = self._rewards(x, scores)
        gradient, gap = scores.dmd_gradient(x, noise("score"), self.levels)
        loss = losses.dmd(x, gradient, weight, mask, of_clips)
        curves |= {"student/dmd_gradient": gradient.abs().mean(), "student/score_gap": gap}
        if self.scores_states:
            found = state_score_loss(sample, scores, noise("state score"), self.state_stands_for, self.levels)
            loss, curves = loss + found[0], curves | found[1]
        return loss, curves

    @torch.no_grad()
    def _rewards(self, x: Tensor, scores: Scores) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(a weight per clip `[B]`, curves); None without a reward."""
        if self.reward is None:
            return None, {}
        reward = self.reward(scores.decode(x)).to(x.device)
        weight = losses.reward_weight(reward, self.reward_beta)
        return weight, {"student/reward": reward.float().mean(), "student/reward_weight": weight.float().mean()}
