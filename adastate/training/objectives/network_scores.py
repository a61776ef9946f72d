"""The scores of teacher and critic, as an objective asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.training.critic import Critic
from adastate.training.teacher import Teacher


@dataclass(frozen=True)
class ScoreLevels:
    """Noise levels at which scores are compared.

    Attributes:
        timestep_range: drawn timesteps are clamped to it.
        shift: of the timesteps; None takes the teacher's.
    """

    timestep_range: tuple[float, float] = (20.0, 980.0)
    shift: float | None = None


@dataclass(frozen=True)
class Scores:
    """Teacher and critic with the prompt and the actions of one sample.

    Attributes:
        teacher: gives the real score.
        critic: gives the fake score.
        decode: latents `[B, F, C, H, W]` to video `[B, T, 3, h, w]` in [-1, 1], for rewards.
        text: embeddings of the prompts `[B, L, D]`.
        negative: of the negative prompt `[1, L, D]`, for the teacher's guidance.
        actions: of the sample's frames `[B, F, A + 1]`, of which all but the teacher's unconditional half are told;
            None where there are none.
    """

    teacher: Teacher
    critic: Critic
    decode: Callable[[Tensor], Any]
    text: Tensor
    negative: Tensor
    actions: Tensor | None = None

    def x0(
        self,
        x: Tensor,
        noise: SampleNoise,
        levels: ScoreLevels = ScoreLevels(),
    ) -> tuple[Tensor, Tensor]:
        """(teacher's x0, critic's x0) `[B, F, C, H, W]` of `x`, noised to one timestep a clip.

        The gradient reaches `x` through both, where it is asked for, and the weights of neither.
        """
        shift = self.teacher.timestep_shift if levels.shift is None else levels.shift
        t = flow.draw_timesteps(noise.integers(flow.TIMESTEPS), shift, *levels.timestep_range)
        x_t = flow.add_noise(x, noise.normal(*x.shape[1:]), t, self.teacher.timestep_shift)
        if torch.is_grad_enabled():
            constant = {f"critic.{name}": p.detach() for name, p in self.critic.named_parameters()}
            fake = torch.func.functional_call(_X0(self.critic), constant, (x_t, t, self.text, self.actions))
        else:
            fake = self.critic.x0(x_t, t, self.text, self.actions)
        return self.teacher.x0(x_t, t, self.text, self.negative, None, self.actions), fake

    @torch.no_grad()
    def dmd_gradient(
        self,
        x: Tensor,
        noise: SampleNoise,
        levels: ScoreLevels = ScoreLevels(),
    ) -> tuple[Tensor, Tensor]:
        """(DMD gradient `[B, F, C, H, W]`, mean |x0_fake - x0_real|) of `x`, at one timestep a clip."""
        real, fake = self.x0(x, noise, levels)
        return losses.dmd_gradient(x, real, fake), (fake - real).abs().mean()


class _X0(nn.Module):
    """The critic's x0 as a forward, for functional calls."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, actions: Tensor | None) -> Tensor:
        return self.critic.x0(x_t, t, text, actions)
