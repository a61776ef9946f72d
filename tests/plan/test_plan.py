"""`adastate plan`: parameters and FLOP, closed formulas against the networks and the FLOP counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from adastate.models.actions import Steering
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.models.wan.fused import Passes
from adastate.plan.configured import PRETRAINED, UNCAST
from adastate.plan.cost import (
    CountedPass,
    StepCost,
    parameters,
    pass_flops,
    possible_exits,
    rollout_passes,
    stream_flops,
    text_flops,
)
from adastate.rehearsal.stand_ins import WAN22_VAE
from adastate.stream import Exits, StateCache
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from tests.support.plan_rig import SYSTEMS, TOKENS, WAN, Step, configured, counted
from tests.support.tiny import GRID, SHAPE, SIZE, STAIRS, Drawn, normal, random_net, read_system, spec

WAN_14B = replace(WAN, width=5120, layers=40, heads=40, ffn=13824)

# ---- parameters


@pytest.mark.parametrize("size", [SIZE, Size(), WAN, WAN_14B], ids=["test", "tiny", "1.3B", "14B"])
def test_parameters_are_those_of_the_network(size: Size) -> None:
    with torch.device("meta"):
        assert parameters(size) == sum(p.numel() for p in DiT(size).parameters())


def test_wan_s_encoders_are_counted_right() -> None:
    """The classes that load them, in the shapes of the published config.json."""
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    umt5 = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        vae = {"WanVAE": AutoencoderKLWan(), "Wan2.2's VAE": AutoencoderKLWan(**WAN22_VAE)}
        built = {**vae, "UMT5": UMT5EncoderModel(umt5)}
    assert {name: sum(p.numel() for p in net.parameters()) for name, net in built.items()} == {
        name: PRETRAINED[name] for name in built
    }
    for name, whole in vae.items():
        encoding = (*whole.encoder.parameters(), *whole.quant_conv.parameters())
        assert sum(p.numel() for p in encoding) == UNCAST[name]


# ---- FLOP


@pytest.mark.parametrize(
    ("frames", "seen", "tflop", "chunk"),
    [(3, 18, 40.5, 202), (3, 9, 28.3, 142), (3, 6, 24.3, 121), (3, 3, 20.2, 101), (4, 4, 30.5, 152)],
    ids=["Self-Forcing 21", "LongLive 12", "window 9", "Infinity-RoPE 6", "AdaState"],
)
def test_a_pass_costs_what_the_table_says(frames: int, seen: int, tflop: float, chunk: float) -> None:
    found = pass_flops(WAN, 1560, CountedPass(frames, seen)).forward / 1e12
    assert found == pytest.approx(tflop, rel=5e-3) and 5 * found == pytest.approx(chunk, rel=5e-3)


@pytest.mark.parametrize(("system", "wanted"), [("self_forcing", CountedPass(3, 18)), ("adastate", CountedPass(4, 4))])
def test_the_stream_makes_the_passes_of_the_table(system: str, wanted: CountedPass) -> None:
    last = rollout_passes(read_system(system), 42)[-1]
    assert (last.frames, last.seen, last.keys) == (wanted.frames, wanted.seen, wanted.keys)


@pytest.mark.parametrize("name", SYSTEMS)
def test_passes_of_every_system(name: str) -> None:
    """As many as the chunks say, none with more keys than are in view."""
    s = read_system(name)
    passes = rollout_passes(s, 42)
    assert all(p.frames <= p.keys and p.pairs <= p.frames * (p.seen + p.frames) for p in passes)
    if s.schedule == "uniform" and s.restart_frames is None and not s.first_chunk_denoising_steps:
        assert len(passes) == s.chunks(42) * (len(s.denoising_steps) + 1) - 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_clip_costs_what_is_counted(checkpointing: bool) -> None:
    net, x, text = random_net(checkpointing=checkpointing), normal(2, 5, SIZE.channels, *GRID), normal(2, 4, 16)
    cost, keys = pass_flops(SIZE, TOKENS, CountedPass(5), scores=2.0), text_flops(SIZE)
    with torch.no_grad():
        assert counted(lambda: net(x, torch.ones(2), text)) == 2 * (cost.forward + keys.forward)
    both = counted(lambda: net(x, torch.ones(2), text).sum().backward())
    assert both == 2 * (cost.trained(checkpointing) + keys.forward + keys.backward)


@pytest.mark.parametrize("stream", [{}, {"anchor": "none", "state_frames": 0, "past_frames": 6}, {"chunk_frames": 1}])
@torch.no_grad()
def test_a_rollout_costs_what_is_counted(stream: dict[str, Any]) -> None:
    s, net, text = spec(**stream), random_net(), normal(1, 4, 16)

    def run() -> None:
        list(
            rollout(
                PromptedNetwork(net, text), Drawn(), StateCache(s), s.chunks(6), (SIZE.channels, *GRID), finish=False
            )
        )

    assert stream_flops(SIZE, TOKENS, rollout_passes(s, 6), False) == pytest.approx(counted(run), rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_that_is_steered_costs_what_is_counted(checkpointing: bool) -> None:
    size = replace(SIZE, actions=3)
    net, x, text = random_net(size, checkpointing=checkpointing), normal(2, 6, *SHAPE), normal(2, 4, 16)
    assert parameters(size) == sum(p.numel() for p in net.parameters())
    flown, cost, keys = normal(2, 6, 4, seed=5), pass_flops(size, TOKENS, CountedPass(6), scores=2.0), text_flops(size)
    both = counted(lambda: net(x, torch.ones(2), text, actions=flown).sum().backward())
    assert both == 2 * (cost.trained(checkpointing) + keys.forward + keys.backward)

    def stream() -> None:
        network = PromptedNetwork(net, text[:1], steering=Steering(flown[:1]))
        with torch.no_grad():
            list(rollout(network, Drawn(), StateCache(spec()), 2, SHAPE, finish=False))

    assert stream_flops(size, TOKENS, rollout_passes(spec(), 6), False) == pytest.approx(counted(stream), rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", ["none", "dmd"])
@pytest.mark.parametrize("level", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_step_costs_what_is_counted(monkeypatch: Any, level: int, loss: str, checkpointing: bool) -> None:
    step = Step(monkeypatch, level, checkpointing=checkpointing, state_loss=loss)
    recipe = step.recipe(checkpointing)
    assert recipe.student_step(Exits(level)) == pytest.approx(counted(lambda: step.student().backward()) / 4, rel=0.01)
    critic = recipe.rollout(False, Exits(level)) + recipe.critic_update
    assert critic == pytest.approx(counted(lambda: step.critic().backward()) / 4, rel=0.01)


@pytest.mark.parametrize("level", [0, 2])
def test_a_step_of_a_staircase_costs_what_is_counted(monkeypatch: Any, level: int) -> None:
    """Passes that no output needs are not made. Modulations of a pass with several levels are counted once: 3%."""
    step = Step(monkeypatch, level, stream=STAIRS)
    recipe, exits = step.recipe(False), Exits(window_phase=level)
    assert recipe.student_step(exits) == pytest.approx(counted(lambda: step.student().backward()) / 4, rel=0.03)
    critic = recipe.rollout(False, exits) + recipe.critic_update
    assert critic == pytest.approx(counted(lambda: step.critic().backward()) / 4, rel=0.03)


def test_a_first_chunk_of_its_own_is_in_the_mean_over_exits() -> None:
    s = spec(denoising_steps=(1000, 500), first_chunk_denoising_steps=(1000, 750, 500, 250))
    passes = [len(rollout_passes(s, 6, exits)) for exits in possible_exits(s)]
    assert sorted(passes) == sorted((a + 1) + 1 + (b + 1) for a in range(4) for b in range(2))


@pytest.mark.parametrize("loss", ["none", "dmd"])
def test_tokens_are_those_that_pass_through_the_networks(monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """Of a student's step and of the critic's, in the mean over exit levels."""
    passed: dict[str, list[int]] = {"student": [], "critic": []}
    frames: list[int] = []

    def note(kind: type, name: str) -> None:
        run = getattr(kind, name)

        def noted(net: Any, x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
            frames.append(x.shape[0] * x.shape[1])
            return run(net, x, *given, **more)

        monkeypatch.setattr(kind, name, noted)

    note(DiT, "forward"), note(Passes, "__call__")
    for level in range(3):
        step = Step(monkeypatch, level, state_loss=loss)
        for name, work in (("student", step.student), ("critic", step.critic)):
            frames.clear()
            work()
            passed[name].append(sum(frames) * TOKENS // len(step.index))
    recipe = step.recipe(False)
    assert recipe.network_tokens(1, 0, 0) == pytest.approx(sum(passed["student"]) / 3)
    assert recipe.network_tokens(0, 1, 1) == pytest.approx(sum(passed["critic"]) / 3)
    assert recipe.network_tokens(2, 3, 4) == pytest.approx(
        2 * recipe.network_tokens(1, 0, 0) + 3 * recipe.network_tokens(0, 1, 1) + recipe.network_tokens(0, 0, 1)
    )


def test_each_network_s_checkpointing_costs_that_network() -> None:
    def cost(student: bool, critic: bool) -> StepCost:
        return StepCost(SIZE, SIZE, SIZE, spec(), TOKENS, 6, (student, critic))

    plain, students, critics = cost(False, False), cost(True, False), cost(False, True)
    assert students.critic_update == plain.critic_update < critics.critic_update
    assert critics.student_step() == plain.student_step() < students.student_step()


@pytest.mark.parametrize(("every", "first"), [(5, 0), (5, 7), (1, 8), (4, 4)])
def test_steps_are_those_of_the_loop(every: int, first: int) -> None:
    changes = (
        f"model.init_args.schedule.student_every={every}",
        f"model.init_args.schedule.critic_first={first}",
        "run.iterations=23",
    )
    run = configured("tiny", "stages/distill.yaml", overrides=changes)
    taken = sum(i >= first and i % every == 0 for i in range(23))
    assert run.steps == {"student": taken, "critic": 23}
