"""Distill: teacher, student and critic together, by horizon-weighted distribution matching on own rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from adastate import flow, losses
from adastate.critic import Critic
from adastate.ema import EMA
from adastate.encoders import Codec
from adastate.guard import Guard
from adastate.net import DiT, shard
from adastate.noise import SampleNoise, agree, shared_integer
from adastate.optim import clipped_step, warmed_up
from adastate.student import Student
from adastate.teacher import Teacher
from adastate.types import Batch, Chunk
from adastate.weights import save

StateLoss = Literal["none", "dmd"]

FROZEN = ("teacher.", "student.codec.")
"""Parts of the module that no checkpoint holds."""


class BadUpdateError(RuntimeError):
    """What the guard forbids, in a few words."""


class Distill(pl.LightningModule):
    """Distils the teacher into the streaming student.

    One iteration takes `global_batch` prompts, however many processes and micro batches that means. Every
    `student_every`-th iteration updates the student, every iteration the critic.

    Args:
        teacher: gives the real score; frozen.
        student: rolls out, and learns.
        critic: gives the fake score; learns to follow the student.
        iterations: length of the run.
        global_batch: prompts an iteration; a multiple of processes x the datamodule's batch. Gradients are
            accumulated to it.
        student_every: critic updates per student update.
        critic_updates: critic updates an iteration.
        critic_fresh: whether each critic update has a rollout of its own; otherwise those of an iteration share one,
            the student's where there is one.
        critic_first: iterations at the start in which only the critic learns.
        horizon_weight: alpha of losses.horizon_weight.
        horizon_law: its law [D].
        state_loss: `none`: the state learns through attention alone; `dmd`: a second scored clip has a frame of each
            chunk replaced by the chunk's state, with gradient on those frames only [D].
        state_stands_for: which frame of its chunk that is [D].
        score_range: timesteps at which the scores are compared are clamped to it.
        score_shift: shift of those timesteps; None takes the teacher's.
        student_lr, critic_lr, betas, weight_decay, clip: of the two AdamW, clipped each by its own norm.
        student_warmup, critic_warmup: steps of each over which its rate rises linearly.
        spike, patience: see Guard; a loss or gradient norm that is not finite is never stepped upon.
        out: safetensors file for the student's averaged weights.
        seed: of all randomness in training.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        critic: Critic,
        iterations: int = 600,
        global_batch: int = 64,
        student_every: int = 5,
        critic_updates: int = 1,
        critic_fresh: bool = True,
        critic_first: int = 0,
        horizon_weight: float = 2.0,
        horizon_law: losses.HorizonLaw = "linear",
        state_loss: StateLoss = "none",
        state_stands_for: Literal["first", "last"] = "last",
        score_range: tuple[float, float] = (20.0, 980.0),
        score_shift: float | None = None,
        student_lr: float = 2e-6,
        critic_lr: float = 4e-7,
        betas: tuple[float, float] = (0.0, 0.999),
        weight_decay: float = 0.01,
        clip: float = 10.0,
        student_warmup: int = 0,
        critic_warmup: int = 0,
        spike: float = 10.0,
        patience: int = 5,
        out: str | None = None,
        save_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        spec = student.spec
        untaught = spec.cache_grad == "detached" and not spec.state_grad and state_loss == "none"
        if spec.anchor == "state" and spec.state_visibility == "previous" and untaught:
            raise ValueError(
                "with state_visibility: previous, a detached cache and no state_loss nothing teaches the state: "
                "set state_loss: dmd, cache_grad: straight_through or state_grad: 1"
            )
        if state_loss != "none" and (spec.anchor != "state" or spec.state_frames > spec.chunk_frames):
            raise ValueError("state_loss: dmd needs anchor: state with at most as many frames as a chunk")
        self.automatic_optimization = False
        self.teacher, self.student, self.critic = teacher.requires_grad_(False).eval(), student, critic
        self.iterations, self.global_batch, self.student_every = iterations, global_batch, student_every
        self.critic_updates, self.critic_fresh, self.critic_first = critic_updates, critic_fresh, critic_first
        self.horizon_weight, self.horizon_law = horizon_weight, horizon_law
        self.state_loss, self.state_stands_for = state_loss, state_stands_for
        self.score_range = score_range
        self.score_shift = teacher.shift if score_shift is None else score_shift
        self.student_lr, self.critic_lr, self.betas, self.weight_decay = student_lr, critic_lr, betas, weight_decay
        self.clip, self.out, self.save_every, self.seed = clip, out, save_every, seed
        self.warmup = (student_warmup, critic_warmup)
        self.weight = losses.horizon_weight(student.rollout_frames, horizon_weight, horizon_law)
        self.clipped_step = clipped_step
        self.learning = ""
        self.guard = Guard(spike, patience=patience)
        self.dismissed = ""
        """What the guard said of the last training step."""
        self._updated = False
        self._iteration = 0
        self._parts: list[Batch] = []

    # ---- what strategies look at: `learning`, the network that a backward is for, `clipped_step`, which they may
    # replace, `accumulate`, and these

    @property
    def trained(self) -> dict[str, DiT]:
        """The networks that learn, in the order of their optimisers."""
        return {"student": self.student.net, "critic": self.critic.net}

    @property
    def frozen(self) -> dict[str, DiT]:
        return {"teacher": self.teacher.net}

    @property
    def averages(self) -> dict[str, EMA]:
        """Averages of trained networks, by the same names."""
        return {"student": self.student.ema}

    def configure_model(self) -> None:
        """Shards the networks where the strategy leaves that to the module: ModelParallelStrategy, for FSDP2."""
        if self.device_mesh is not None:
            if self.device_mesh["tensor_parallel"].size() > 1:
                raise ValueError(
                    "the networks are sharded over data only: set the strategy's data_parallel_size to the number of "
                    "processes, and tensor_parallel_size to 1"
                )
            for net in (*self.trained.values(), *self.frozen.values(), *(ema.net for ema in self.averages.values())):
                shard(net, self.device_mesh["data_parallel"])

    # ---- what callbacks look at

    @property
    def iteration(self) -> int:
        """Own counter: Lightning's global_step counts the steps of both optimisers."""
        return self._iteration

    @property
    def codec(self) -> Codec:
        return self.student.codec

    @property
    def rollout_frames(self) -> int:
        return self.student.rollout_frames

    @property
    def chunk_frames(self) -> int:
        return self.student.chunk_frames

    def stream(self, prompts: list[str], frames: int, seed: int = 0) -> Iterator[Chunk]:
        return self.student.stream(prompts, frames, seed)

    def attention_share(self, prompts: list[str], frames: int, seed: int = 0) -> dict[str, list[float]]:
        return self.student.attention_share(prompts, frames, seed)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects micro batches to a global batch, then runs one iteration over them: the same as one large batch.

        An update that the guard forbids is not made. If nothing of the iteration has been updated before, it is as if
        its batch had never been drawn: the next batch takes its place.
        """
        if self.iteration >= self.iterations:  # killed between the last checkpoint and its end, and gone on with
            self.trainer.should_stop = True
            return
        self._parts.append(batch)
        if len(self._parts) < self.accumulate:
            return
        parts, self._parts = [(self.student.embed(b.prompts), b.index) for b in self._parts], []
        self.dismissed, self._updated = "", False
        try:
            self._iterate(parts)
        except BadUpdateError as bad:
            self._dismiss(str(bad))
        if not self.dismissed or self._updated:
            self._next_iteration()

    def _iterate(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        """The updates of one iteration; `parts` are (text embeddings, sample index) of its micro batches."""
        rollouts: list[Tensor] = []
        if self.iteration >= self.critic_first and self.iteration % self.student_every == 0:
            negative = self.student.embed([self.teacher.negative_prompt])
            for text, index in parts:
                chunks = self.rollout(text, index, "student", grad=True)
                x = torch.cat([c.content for c in chunks], 1)
                self._backward("student", *self.student_loss(x, chunks, text, negative, index))
                rollouts.append(x.detach())
            self._step("student")
            self.student.ema.update(self.student.net)
        for update in range(self.critic_updates):
            if self.critic_fresh or not rollouts:
                every = [self.rollout(text, index, f"critic {update}", grad=False) for text, index in parts]
                rollouts = [torch.cat([c.content for c in chunks], 1) for chunks in every]
            for x, (text, index) in zip(rollouts, parts, strict=True):
                self._backward("critic", *self.critic.loss(x, text, self.noise(index, f"critic score {update}")))
            self._step("critic")

    def rollout(self, text: Tensor, index: Tensor, purpose: str, grad: bool) -> list[Chunk]:
        """A rollout of the horizon; the exit level is one for all chunks, samples and ranks."""
        level = shared_integer(len(self.student.spec.timesteps), self.seed, self.iteration, purpose)
        agree({"iteration": self.iteration, "exit level": level, "rollout frames": self.rollout_frames}, self.device)
        noise = self.noise(index, f"rollout {purpose}")
        return list(
            self.student.rollout(text, noise, self.rollout_frames, level, grad)
            if grad
            else self._quiet(text, noise, level)
        )

    def _quiet(self, text: Tensor, noise: SampleNoise, level: int) -> list[Chunk]:
        with torch.no_grad():
            return list(self.student.rollout(text, noise, self.rollout_frames, level))

    def noise(self, index: Tensor, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, self.iteration, index, purpose, self.device)

    def student_loss(
        self, x: Tensor, chunks: list[Chunk], text: Tensor, negative: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Horizon-weighted DMD of the emitted frames `x` [B, F, C, H, W], and of the states if they have a loss."""
        g, gap = self.score(x, text, negative, self.noise(index, "score"))
        loss = losses.dmd(x, g, self.weight)
        found = {"student/score_gap": gap, "student/dmd_gradient": g.abs().mean()}
        if self.state_loss == "dmd":
            clip, mask = self._states_in_place(x.detach(), chunks)
            g, gap = self.score(clip, text, negative, self.noise(index, "state score"))
            loss = loss + losses.dmd(clip, g, mask=mask)
            found["student/state_score_gap"] = gap
        return loss, found

    @torch.no_grad()
    def score(self, x: Tensor, text: Tensor, negative: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor]:
        """(DMD gradient `[B, F, C, H, W]`, mean |x0_fake - x0_real|) at one timestep a clip."""
        t = flow.draw_timesteps(noise.integers(flow.TIMESTEPS), self.score_shift, *self.score_range)
        x_t = flow.add_noise(x, noise.normal(*x.shape[1:]), t, self.teacher.shift)
        fake = self.critic.x0(x_t, t, text)
        real = self.teacher.x0(x_t, t, text, negative)
        return losses.dmd_gradient(x, real, fake), (fake - real).abs().mean()

    def _states_in_place(self, x: Tensor, chunks: list[Chunk]) -> tuple[Tensor, Tensor]:
        """(the clip with a frame of each chunk replaced by its state, mask [B, F] of those frames)."""
        clip, mask = [], torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        for content, chunk in zip(x.split(self.chunk_frames, 1), chunks, strict=True):
            if chunk.state is None:
                clip.append(content)
                continue
            size = chunk.state.shape[1]
            first = 0 if self.state_stands_for == "first" else self.chunk_frames - size
            clip.append(torch.cat([content[:, :first], chunk.state, content[:, first + size :]], 1))
            start = chunk.index * self.chunk_frames + first
            mask[:, start : start + size] = True
        return torch.cat(clip, 1), mask

    # ---- optimisation

    @property
    def accumulate(self) -> int:
        """Micro batches an iteration."""
        micro = self._batch * self.trainer.world_size
        if self.global_batch % micro:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of {self.trainer.world_size} processes x batch "
                f"{self._batch}: change the datamodule's batch"
            )
        return self.global_batch // micro

    def on_fit_start(self) -> None:
        self._batch = int(self.trainer.datamodule.batch)  # type: ignore[attr-defined]
        self.accumulate  # noqa: B018 - refuse a wrong batch before the first step

    def _backward(self, name: str, loss: Tensor, found: dict[str, Tensor]) -> None:
        self._judge(f"{name} loss", self.trainer.strategy.reduce(loss.detach(), reduce_op="mean"))
        self.learning = name
        self.manual_backward(loss / self.accumulate)
        self.log(f"{name}/loss", loss.detach().float(), prog_bar=True, batch_size=self._batch)
        # Lightning would draw the curves over its own step count; `step` overrides it.
        self.log_dict({**found, "step": float(self.iteration)}, batch_size=self._batch)

    def _step(self, name: str) -> None:
        """One optimiser step, of the gradients of the whole global batch."""
        at = [*self.trained].index(name)
        optimizer, schedule = self.optimizers()[at], self.lr_schedulers()[at]  # type: ignore[index]
        wrong = ""

        def permit(norm: Tensor) -> bool:
            nonlocal wrong
            wrong = self.guard.look({f"{name} gradient norm": float(norm)})
            return not wrong

        norm = self.clipped_step(self.trained[name], optimizer, self.clip, permit)
        if wrong:
            raise BadUpdateError(wrong)
        self._updated = True
        schedule.step()
        self.log(f"{name}/gradient_norm", norm, batch_size=self._batch)

    def _judge(self, name: str, value: Tensor | Any) -> None:
        wrong = self.guard.look({name: float(value)})
        if wrong:
            raise BadUpdateError(wrong)

    def _dismiss(self, wrong: str) -> None:
        """Drops the gradients of an iteration that the guard stopped."""
        for net in self.trained.values():
            net.zero_grad()
        self.dismissed = f"iteration {self.iteration}: {wrong}; the update is left out"
        rank_zero_warn(self.dismissed)
        self.log("guard/skipped", float(self.guard.skipped), batch_size=self._batch)
        if self.guard.tired:
            last = getattr(self.trainer.checkpoint_callback, "last", None)
            raise RuntimeError(
                f"{self.guard.in_a_row} bad updates in a row, the last at {self.dismissed}; "
                + (f"the last good checkpoint is {last}" if last else f"the last whole weights are in {self.out}")
                + ": lower the learning rates, or look at the data"
            )

    def _next_iteration(self) -> None:
        self._iteration += 1
        if not self.dismissed:
            self.guard.settle()
        if self.iteration % self.save_every == 0 or self.iteration >= self.iterations:
            self.save()
        if self.iteration >= self.iterations:
            self.trainer.should_stop = True

    @property
    def at_boundary(self) -> bool:
        """Whether the module stands between two iterations, so that a checkpoint is exact."""
        return not self._parts

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen networks are not saved: they come from their own files again, which the config names."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {k: v for k, v in self.state_dict().items() if k.startswith(FROZEN)}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def get_extra_state(self) -> dict[str, Any]:
        return {"iteration": self._iteration, "guard": self.guard.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._iteration = state["iteration"]
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])

    def on_train_end(self) -> None:
        self.save()

    def save(self) -> None:
        if self.out is None:
            return
        net = self.student.ema.whole()
        if self.trainer.is_global_zero:
            save(net, Path(self.out), stream=asdict(self.student.spec))

    def configure_optimizers(self) -> Any:
        def adamw(net: nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.AdamW(net.parameters(), lr, self.betas, weight_decay=self.weight_decay)

        optimizers = [adamw(self.student.net, self.student_lr), adamw(self.critic.net, self.critic_lr)]
        return optimizers, [warmed_up(o, n) for o, n in zip(optimizers, self.warmup, strict=True)]

    def train(self, mode: bool = True) -> Distill:
        super().train(mode)
        self.teacher.eval()
        return self
