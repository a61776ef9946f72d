"""Distill: teacher, student and critic together, by horizon-weighted distribution matching on own rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
from adastate.samples import Reward, Sample, noised, rolled, window
from adastate.stream.rollout import Step
from adastate.student import Student
from adastate.teacher import Teacher
from adastate.types import Batch, Chunk
from adastate.weights import save

StateLoss = Literal["none", "dmd"]

FROZEN = ("teacher.", "student.codec.")
"""Parts of the module that no checkpoint holds."""


@dataclass(frozen=True)
class Part:
    """A micro batch: text embeddings, global sample numbers, and latents where the data has them."""

    text: Tensor
    index: Tensor
    latents: Tensor | None = None


class _X0(nn.Module):
    """The critic's x0 as a forward, for functional calls."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.critic.x0(x_t, t, text)


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
        objective: `dmd`, or `sid`: score identity distillation, whose gradient goes through both scores.
        sid_alpha: see losses.sid.
        source: what the scores look at. `rollout`: the student's own streams; `noised`: real clips at the student's
            levels, denoised in one causal pass, as in CausVid (the data then has latents).
        long_frames: length of the rollouts, beyond the horizon; a window of the horizon at a random place of them is
            scored, and has the gradient. None: the horizon itself.
        plain_share: share of the iterations in which a staircase goes chunk by chunk (Rolling-Forcing: half).
        reward, reward_beta: decoded video to a reward per clip, and beta of the weight exp(beta r) of its loss.
        replay: roll out without a graph and run each chunk's exit pass again: equal gradients with a detached cache,
            and activations of one chunk however long the rollout.
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
        objective: Literal["dmd", "sid"] = "dmd",
        sid_alpha: float = 1.0,
        source: Literal["rollout", "noised"] = "rollout",
        long_frames: int | None = None,
        plain_share: float = 0.0,
        reward: Reward | None = None,
        reward_beta: float = 2.0,
        replay: bool = False,
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
        self.objective, self.sid_alpha, self.source = objective, sid_alpha, source
        self.long_frames, self.plain_share = long_frames, plain_share
        self.reward, self.reward_beta, self.replay = reward, reward_beta, replay
        self._check_source()
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

    def _check_source(self) -> None:
        spec, horizon = self.student.spec, self.student.rollout_frames
        if self.long_frames is not None:
            spec.chunks(self.long_frames)
            if self.long_frames < horizon:
                raise ValueError(f"long_frames {self.long_frames} is below the horizon of {horizon}: make it longer")
        plain = self.source == "rollout" and self.long_frames is None and spec.schedule == "uniform"
        if self.replay and not (plain and spec.cache_grad == "detached" and not spec.state_grad):
            raise ValueError(
                "replay sends gradients back chunk by chunk: it needs rollouts of the horizon, schedule 'uniform' and "
                f"a cache without gradient; got source {self.source!r}, long_frames {self.long_frames}, schedule "
                f"{spec.schedule!r}, cache_grad {spec.cache_grad!r}, state_grad {spec.state_grad}"
            )
        if self.plain_share and spec.schedule != "staircase":
            raise ValueError(f"plain_share {self.plain_share} is a share of staircases; schedule is {spec.schedule!r}")
        if self.state_loss != "none" and (self.source != "rollout" or self.long_frames is not None):
            raise ValueError("state_loss looks at rollouts of the horizon: leave source and long_frames as they are")
        if self.objective == "sid" and self.reward is not None:
            raise ValueError("a reward weighs the dmd objective; use it without objective: sid")

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
        parts, self._parts = [Part(self.student.embed(b.prompts), b.index, b.latents) for b in self._parts], []
        self.dismissed, self._updated = "", False
        try:
            self._iterate(parts)
        except BadUpdateError as bad:
            self._dismiss(str(bad))
        if not self.dismissed or self._updated:
            self._next_iteration()

    def _iterate(self, parts: list[Part]) -> None:
        """The updates of one iteration, over the parts of its batch."""
        made: list[Tensor] = []
        if self.iteration >= self.critic_first and self.iteration % self.student_every == 0:
            negative = self.student.embed([self.teacher.negative_prompt])
            made = [self._replayed(part, negative) if self.replay else self._learn(part, negative) for part in parts]
            self._step("student")
            self.student.ema.update(self.student.net)
        for update in range(self.critic_updates):
            if self.critic_fresh or not made:
                made = [self.sample(part, f"critic {update}", grad=False).x for part in parts]
            for x, part in zip(made, parts, strict=True):
                noise = self.noise(part.index, f"critic score {update}")
                self._backward("critic", *self.critic.loss(x, part.text, noise))
            self._step("critic")

    def _learn(self, part: Part, negative: Tensor) -> Tensor:
        """The student's gradient from one part; returns its sample."""
        sample = self.sample(part, "student", grad=True)
        self._backward("student", *self.student_loss(sample, part.text, negative, part.index))
        return sample.x.detach()

    def _replayed(self, part: Part, negative: Tensor) -> Tensor:
        """The same without the graph of the rollout: what the loss says of each chunk goes back through that alone."""
        steps: list[Step] = []
        sample = self.sample(part, "student", grad=False, record=steps)
        leaf = sample.x.requires_grad_()
        states = [replace(c, state=c.state.requires_grad_() if c.state is not None else None) for c in sample.chunks]
        loss, found = self.student_loss(replace(sample, x=leaf, chunks=states), part.text, negative, part.index)
        self._note("student", loss, found)
        loss.backward()
        assert leaf.grad is not None
        self.learning = "student"
        for x0, step, chunk, g in zip(
            self.student.replay(part.text, steps), steps, states, leaf.grad.split(self.chunk_frames, 1), strict=True
        ):
            if step.queries:
                assert chunk.state is not None
                of_state = torch.zeros_like(chunk.state) if chunk.state.grad is None else chunk.state.grad
                g = torch.cat([of_state, g], 1)
            self.manual_backward((x0 * g.to(x0)).sum() / self.accumulate)
        return leaf.detach()

    def sample(self, part: Part, purpose: str, grad: bool, record: list[Step] | None = None) -> Sample:
        """What the scores look at. Exit level, length and schedule are one for all chunks, samples and ranks."""
        if self.source == "noised":
            if part.latents is None:
                raise ValueError("source 'noised' denoises real clips: give the stage data with latents, ShardData say")
            return noised(self.student, part.text, part.latents, self.noise(part.index, f"noised {purpose}"), grad)
        level, first, uniform = self._draw(purpose)
        noise = self.noise(part.index, f"rollout {purpose}")
        with torch.set_grad_enabled(grad):
            if self.long_frames is not None:
                frames, length = self.long_frames, self.rollout_frames
                return window(self.student, part.text, noise, frames, level, grad, first, length)
            return rolled(self.student, part.text, noise, self.rollout_frames, level, grad, uniform, record)

    def _draw(self, purpose: str) -> tuple[int, int, bool]:
        """(exit level, first chunk of a window, whether chunks go one by one), shared by all ranks."""
        key = (self.seed, self.iteration, purpose)
        level = shared_integer(len(self.student.spec.timesteps), *key)
        beyond = 0 if self.long_frames is None else (self.long_frames - self.rollout_frames) // self.chunk_frames
        first = shared_integer(beyond + 1, *key, "window") if beyond else 0
        uniform = shared_integer(1000, *key, "schedule") < 1000 * self.plain_share
        drawn = {"iteration": self.iteration, "exit level": level, "first chunk": first, "schedule": int(uniform)}
        agree({**drawn, "rollout frames": self.rollout_frames}, self.device)
        return level, first, uniform

    def rollout(self, text: Tensor, index: Tensor, purpose: str, grad: bool) -> list[Chunk]:
        """The chunks of a rollout of the horizon."""
        return self.sample(Part(text, index), purpose, grad).chunks

    def noise(self, index: Tensor, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, self.iteration, index, purpose, self.device)

    def student_loss(
        self, sample: Sample, text: Tensor, negative: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Horizon-weighted loss of the emitted frames, and of the states if they have one."""
        x, mask, noise = sample.x, sample.mask(), self.noise(index, "score")
        weight = self.weight
        if sample.carries is not None:
            weight = losses.horizon_weight(x.shape[1], self.horizon_weight, self.horizon_law, sample.carries)
        samples, found = self._rewards(x)
        if self.objective == "sid":
            real, fake = self._scores(x, text, negative, noise)
            loss, gap = losses.sid(x, real, fake, self.sid_alpha, weight), (fake - real).detach().abs().mean()
        else:
            g, gap = self.score(x, text, negative, noise)
            loss = losses.dmd(x, g, weight, mask, samples)
            found["student/dmd_gradient"] = g.abs().mean()
        found["student/score_gap"] = gap
        if self.state_loss == "dmd":
            clip, mask = self._states_in_place(x.detach(), sample.chunks)
            g, gap = self.score(clip, text, negative, self.noise(index, "state score"))
            loss = loss + losses.dmd(clip, g, mask=mask)
            found["student/state_score_gap"] = gap
        return loss, found

    @torch.no_grad()
    def score(self, x: Tensor, text: Tensor, negative: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor]:
        """(DMD gradient `[B, F, C, H, W]`, mean |x0_fake - x0_real|) at one timestep a clip."""
        real, fake = self._scores(x, text, negative, noise)
        return losses.dmd_gradient(x, real, fake), (fake - real).abs().mean()

    def _scores(self, x: Tensor, text: Tensor, negative: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor]:
        """(teacher's x0, critic's x0) of `x`, noised to one timestep a clip; no gradient reaches their weights."""
        t = flow.draw_timesteps(noise.integers(flow.TIMESTEPS), self.score_shift, *self.score_range)
        x_t = flow.add_noise(x, noise.normal(*x.shape[1:]), t, self.teacher.shift)
        if not torch.is_grad_enabled():
            return self.teacher.x0(x_t, t, text, negative), self.critic.x0(x_t, t, text)
        still = {name: p.detach() for name, p in self.critic.named_parameters()}
        fake = torch.func.functional_call(
            _X0(self.critic), {f"critic.{k}": v for k, v in still.items()}, (x_t, t, text)
        )
        return self.teacher.x0(x_t, t, text, negative), fake

    @torch.no_grad()
    def _rewards(self, x: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(a weight per sample `[B]`, curves); None without a reward."""
        if self.reward is None:
            return None, {}
        reward = self.reward(self.codec.decode(x.detach())).to(x.device)
        weight = losses.reward_weight(reward, self.reward_beta)
        return weight, {"student/reward": reward.float().mean(), "student/reward_weight": weight.float().mean()}

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
        if self.replay and hasattr(self.trainer.strategy, "engines"):
            raise ValueError("replay goes back once a chunk, ZeRO's engines count one backward a batch: use DDP")
        self._batch = int(self.trainer.datamodule.batch)  # type: ignore[attr-defined]
        self.accumulate  # noqa: B018 - refuse a wrong batch before the first step

    def _backward(self, name: str, loss: Tensor, found: dict[str, Tensor]) -> None:
        self._note(name, loss, found)
        self.learning = name
        self.manual_backward(loss / self.accumulate)

    def _note(self, name: str, loss: Tensor, found: dict[str, Tensor]) -> None:
        """Judges a loss before its backward, and logs it."""
        self._judge(f"{name} loss", self.trainer.strategy.reduce(loss.detach(), reduce_op="mean"))
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
