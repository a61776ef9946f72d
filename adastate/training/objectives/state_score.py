"""The state's own loss: a clip in which states take the place of the frames that they stand for is scored, too."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adastate.diffusion import losses
from adastate.diffusion.noise import SampleNoise
from adastate.training.objectives.network_scores import ScoreLevels, Scores
from adastate.training.student_rollouts import StudentSample

StateLoss = Literal["none", "dmd"]
StandsFor = Literal["first", "last"]


def state_score_loss(
    sample: StudentSample, scores: Scores, noise: SampleNoise, stands_for: StandsFor, levels: ScoreLevels
) -> tuple[Tensor, dict[str, Tensor]]:
    """DMD loss of the states alone, and curves; the frames around them are context without gradient [D]."""
    clip, mask = states_in_place(sample, stands_for)
    gradient, gap = scores.dmd_gradient(clip, noise, levels)
    return losses.dmd(clip, gradient, mask=mask), {"student/state_score_gap": gap}


def states_in_place(sample: StudentSample, stands_for: StandsFor) -> tuple[Tensor, Tensor]:
    """(the detached clip `[B, F, C, H, W]` with frames of each chunk replaced by its state, mask `[B, F]` of those, on
    the host)."""
    x, before = sample.x.detach(), sample.context
    clip, mask = [x[:, :before]], torch.zeros(x.shape[:2], dtype=torch.bool)
    for chunk in sample.chunks:
        content = x[:, before : before + chunk.frames]
        if chunk.state is None:
            clip.append(content)
        else:
            states = chunk.state.shape[1]
            first = 0 if stands_for == "first" else chunk.frames - states
            clip.append(torch.cat([content[:, :first], chunk.state, content[:, first + states :]], 1))
            mask[:, before + first : before + first + states] = True
        before += chunk.frames
    return torch.cat(clip, 1), mask
