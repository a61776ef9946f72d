"""Critic: the bidirectional network that follows the student's distribution and gives the fake score."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.distributed.protocol import learner
from adastate.models.lora import Lora
from adastate.models.video_network import Size

BANDS = ("low", "middle", "high")
"""Equal bands of sigma for which the loss is told apart."""


class Critic(pl.LightningModule):
    """Flow matching on the student's rollouts.

    Args:
        size: geometry of the network, the teacher's or the student's.
        weights: safetensors file or "builtin" to start from (the teacher's own, as a rule).
        timestep_shift: of the noise table; the teacher's.
        training_timestep_shift: shift of the timesteps drawn for training; None takes `timestep_shift`.
        compute_dtype, checkpointing, compiled: see DiT.
        lora: adapters that learn beside `weights`, which then stay as they are; None trains all of the network.
    """

    def __init__(
        self,
        size: Size,
        weights: str | None = None,
        timestep_shift: float = 5.0,
        training_timestep_shift: float | None = None,
        compute_dtype: str | None = None,
        checkpointing: bool = False,
        compiled: bool = False,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        options = {"checkpointing": checkpointing, "compute_dtype": compute_dtype, "compiled": compiled}
        self.net = learner(size, weights, lora, **options)
        self.timestep_shift, self.training_timestep_shift = (
            timestep_shift,
            timestep_shift if training_timestep_shift is None else training_timestep_shift,
        )

    def x0(self, x_t: Tensor, t: Tensor, text: Tensor, actions: Tensor | None = None) -> Tensor:
        """The fake score as a prediction of x0, for `x_t` [B, F, C, H, W] at `t` [B], `actions` [B, F, A + 1]."""
        return flow.to_x0(x_t, self.net(x_t, t, text, actions=actions), t, self.timestep_shift)

    def loss(
        self,
        x: Tensor,
        text: Tensor,
        noise: SampleNoise,
        loss_mask: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss on rollouts `x` [B, F, C, H, W], and the loss by band of noise, no number where a band
        has no sample.

        `loss_mask` [F] leaves out frames that are mere context; `actions` [B, F, A + 1] are those of the rollouts.
        """
        x = x.detach()
        t = flow.draw_timesteps(noise.integers(flow.TIMESTEPS), self.training_timestep_shift)
        eps = noise.normal(*x.shape[1:])
        predicted = flow.predicted(self.net, x, eps, t, text, self.timestep_shift, actions)
        each = losses.per_sample_flow_matching(predicted, x, eps, loss_mask)
        band = (flow.sigma(t, self.timestep_shift) * len(BANDS)).long().clamp(max=len(BANDS) - 1)
        within = band[None] == torch.arange(len(BANDS), device=x.device)[:, None]
        by_band = torch.where(within, each.detach(), 0.0).sum(1) / within.sum(1)
        return each.mean(), {f"critic/loss_{name}_noise": by_band[i] for i, name in enumerate(BANDS)}
