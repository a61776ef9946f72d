"""The interface of an objective of the distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.training.objectives.network_scores import Scores
from adastate.training.student_rollouts import StudentSample


class Objective(Protocol):
    """The student's loss on one micro batch; it holds no weights.

    Attributes:
        scores_states: whether the loss scores the states themselves, so that it teaches them without any gradient
            through the cache.
    """

    scores_states: bool

    def student_loss(
        self, sample: StudentSample, scores: Scores, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a sample, and curves by name; a class has to have this signature, types included.

        Args:
            sample: what the student made, `sample.x` [B, F, C, H, W] with gradient.
            scores: of teacher and critic, with the sample's prompt and actions.
            noise: a source of noise for a purpose, the same for the same words.

        Returns:
            The loss, a scalar with a graph back to the sample, and detached scalars to log.
        """
