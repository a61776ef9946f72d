"""The student's loss: two scores compared on its sample. DMD, or SiD; a reward; the state's own loss.

The formulas themselves are in adastate/diffusion/losses.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.training.critic import Critic
from adastate.training.student import Student
from adastate.training.student_rollouts import Reward, StudentSample
from adastate.training.teacher import Teacher
from adastate.types import Chunk

StateLoss = Literal["none", "dmd"]
Kind = Literal["dmd", "sid"]


class _X0(nn.Module):
    """The critic's x0 as a forward, for functional calls."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, actions: Tensor | None) -> Tensor:
        return self.critic.x0(x_t, t, text, actions)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The choices of an objective; for their meaning see Distill."""

    kind: Kind = "dmd"
    sid_alpha: float = 1.0
    horizon_weight: float = 2.0
    horizon_law: losses.HorizonLaw = "linear"
    state_loss: StateLoss = "none"
    state_stands_for: Literal["first", "last"] = "last"
    reward: Reward | None = None
    reward_beta: float = 2.0
    score_timestep_range: tuple[float, float] = (20.0, 980.0)
    score_shift: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "sid" and self.reward is not None:
            raise ValueError("a reward weighs the dmd objective; use it without objective: sid")


class Objective:
    """Compares the teacher's score with the critic's. It holds no weights: those are Distill's."""

    def __init__(self, teacher: Teacher, student: Student, critic: Critic, recipe: ObjectiveConfig) -> None:
        self.teacher, self.student, self.critic, self.recipe = teacher, student, critic, recipe
        self.score_shift = teacher.timestep_shift if recipe.score_shift is None else recipe.score_shift
        losses.horizon_weight(student.rollout_frames, recipe.horizon_weight, recipe.horizon_law)  # refuses nonsense

    def student_loss(
        self, sample: StudentSample, text: Tensor, negative: Tensor, noise: Callable[[str], SampleNoise]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Horizon-weighted loss of the emitted frames, and of the states if they have one; with curves.

        The horizon's law runs over those frames of the scored clip that carry loss, wherever in a long stream it lies.
        """
        recipe, x, mask = self.recipe, sample.x, sample.mask()
        text, actions = sample.scored_text(text), sample.actions
        weight = losses.horizon_weight(x.shape[1], recipe.horizon_weight, recipe.horizon_law, sample.loss_mask)
        samples, found = self._rewards(x)
        if recipe.kind == "sid":
            real, fake = self.scores(x, text, negative, noise("score"), actions)
            loss, gap = losses.sid(x, real, fake, recipe.sid_alpha, weight), (fake - real).detach().abs().mean()
        else:
            g, gap = self.score(x, text, negative, noise("score"), actions)
            loss = losses.dmd(x, g, weight, mask, samples)
            found["student/dmd_gradient"] = g.abs().mean()
        found["student/score_gap"] = gap
        if recipe.state_loss == "dmd":
            clip, mask = self.states_in_place(x.detach(), sample.chunks)
            g, gap = self.score(clip, text, negative, noise("state score"), actions)  # of what states stand for
            loss = loss + losses.dmd(clip, g, mask=mask)
            found["student/state_score_gap"] = gap
        return loss, found

    @torch.no_grad()
    def score(
        self, x: Tensor, text: Tensor, negative: Tensor, noise: SampleNoise, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(DMD gradient `[B, F, C, H, W]`, mean |x0_fake - x0_real|) at one timestep a clip."""
        real, fake = self.scores(x, text, negative, noise, actions)
        return losses.dmd_gradient(x, real, fake), (fake - real).abs().mean()

    def scores(
        self, x: Tensor, text: Tensor, negative: Tensor, noise: SampleNoise, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(teacher's x0, critic's x0) of `x`, noised to one timestep a clip; no gradient reaches their weights.

        Both are told the `actions` [B, F, A + 1], but for the teacher's unconditional half.
        """
        t = flow.draw_timesteps(noise.integers(flow.TIMESTEPS), self.score_shift, *self.recipe.score_timestep_range)
        x_t = flow.add_noise(x, noise.normal(*x.shape[1:]), t, self.teacher.timestep_shift)
        if not torch.is_grad_enabled():
            return self.teacher.x0(x_t, t, text, negative, None, actions), self.critic.x0(x_t, t, text, actions)
        still = {name: p.detach() for name, p in self.critic.named_parameters()}
        fake = torch.func.functional_call(
            _X0(self.critic), {f"critic.{k}": v for k, v in still.items()}, (x_t, t, text, actions)
        )
        return self.teacher.x0(x_t, t, text, negative, None, actions), fake

    @torch.no_grad()
    def _rewards(self, x: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(a weight per sample `[B]`, curves); None without a reward."""
        if self.recipe.reward is None:
            return None, {}
        reward = self.recipe.reward(self.student.codec.decode(x.detach())).to(x.device)
        weight = losses.reward_weight(reward, self.recipe.reward_beta)
        return weight, {"student/reward": reward.float().mean(), "student/reward_weight": weight.float().mean()}

    def states_in_place(self, x: Tensor, chunks: list[Chunk]) -> tuple[Tensor, Tensor]:
        """(the clip, which ends with `chunks`, with a frame of each replaced by its state, mask [B, F] of those)."""
        size = self.student.chunk_frames
        before = x.shape[1] - size * len(chunks)
        clip, mask = [x[:, :before]], torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        for i, (content, chunk) in enumerate(zip(x[:, before:].split(size, 1), chunks, strict=True)):
            if chunk.state is None:
                clip.append(content)
                continue
            states = chunk.state.shape[1]
            first = 0 if self.recipe.state_stands_for == "first" else size - states
            clip.append(torch.cat([content[:, :first], chunk.state, content[:, first + states :]], 1))
            mask[:, before + i * size + first : before + i * size + first + states] = True
        return torch.cat(clip, 1), mask
