"""Laws 2 and 9: training rollouts equal the reference implementations', latents to 2e-5 and gradients to 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.parity.fixture import FixtureError
from adastate.parity.replay import replay
from adastate.parity.tolerances import LATENT
from adastate.parity.training_rollouts import train_rollout
from tests.parity import failed, load, write

NAMES = (
    "G_training_rollout_exit0",
    "G_causal_training_first1_exit1",
    "G_causal_training_first3_exit1",
    "G_rolling_training_phase2",
    "G_rolling_training_plain_exit2",
)


@pytest.mark.parametrize("name", NAMES)
def test_law_9_training_rollout(name: str) -> None:
    f = load(name)
    found = replay(f)
    assert failed(found) == []
    assert f.outputs.keys() | {"meta.grad_norms", "meta.grad_norms_detached_cache"} <= {c.output for c in found}


def test_the_two_ways_through_the_cache_differ() -> None:
    """A check of the one above: by more than its tolerance, in the projections that write the cache."""
    for f in map(load, NAMES):
        name = "blocks.0.self_attn.k.weight"
        through, detached = f.outputs[f"grad.{name}"], f.outputs[f"grad_detached_cache.{name}"]
        assert (through - detached).norm() > 0.1 * through.norm()


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("G_rolling_training_phase2", {"past_frames": 0}),
        ("G_rolling_training_phase2", {"attention_frames": 18}),
        ("G_rolling_training_plain_exit2", {"past_frames": 3}),
        ("G_rolling_training_plain_exit2", {"context_noise": 100.0}),
        ("G_causal_training_first1_exit1", {"past_frames": 2}),
    ],
)
def test_a_rollout_made_otherwise_differs(name: str, mistake: dict[str, Any]) -> None:
    f = load(name)
    made = train_rollout(f, "detached", **mistake)
    assert float((made.output - f.outputs["output"]).abs().max()) > 20 * LATENT


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("G_rolling_training_phase2", {"window_phase": 1}, "has no gradient here|output_from is|has a gradient here"),
        ("G_rolling_training_phase2", {"window_phase": 5}, "window phase 5 does not exist"),
        ("G_rolling_training_phase2", {"exit_step": 1}, "needs a window_phase and no exit_step"),
        ("G_rolling_training_phase2", {"training_schedule": "joint"}, "training_schedule is 'joint'"),
        ("G_rolling_training_phase2", {"denoised_timestep_to": 0}, "joint windows exit at all levels"),
        ("G_rolling_training_plain_exit2", {"exit_step": "gone"}, "has no 'exit_step'"),
        ("G_causal_training_first3_exit1", {"exit_step_first_chunk": "gone"}, "has no 'exit_step_first_chunk'"),
        ("G_causal_training_first3_exit1", {"same_step_across_blocks": False}, "the exit step differs between blocks"),
        ("G_causal_training_first3_exit1", {"loss": "sum(output)"}, "loss is 'sum\\(output\\)'"),
        ("G_training_rollout_exit0", {"exit_step_first_chunk": 3}, "unknown key 'exit_step_first_chunk'"),
        ("G_training_rollout_exit0", {"system": "infinity_rope"}, "no replay for training rollouts of system 'infini"),
    ],
)
def test_what_contradicts_is_an_error(name: str, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((FixtureError, ValueError), match=said):
        replay(write(load(name), tmp_path, changed))


@pytest.mark.parametrize("key", ["loss", "gradient_checkpointing", "exit_step_first_chunk"])
def test_keys_of_training_are_unknown_to_a_stream(key: str, tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match=f"'{key}'"):
        replay(write(load("C_sf_nowindow"), tmp_path, {key: 3}))


@pytest.mark.parametrize("phase", range(5))
def test_frames_before_the_last_21_have_no_gradient_and_may_be_zero(phase: int, tmp_path: Path) -> None:
    """Nine blocks of three: what ends within the first six frames. The recorded phase has none of it."""
    f = load("G_rolling_training_phase2")
    noise = torch.cat([f.inputs["noise"], f.inputs["noise"][:, :6].flip(1)], 1)
    more = {
        f"injected_block{b:02d}_step{s}": f.inputs[f"injected_block{b - 2:02d}_step{s}"]
        for b in (7, 8)
        for s in range(4)
    }
    gone = dict.fromkeys(("windows", "output_from", "grad_norms", "grad_norms_detached_cache"), "gone")
    made = train_rollout(
        write(f, tmp_path, {**gone, "window_phase": phase, "chunks": 9}, {"noise": noise, **more}), "detached"
    )
    zero = [not bool(block.any()) for block in made.output.split(3, 1)]
    assert zero == [phase == 0 or phase == 1, phase == 1] + [False] * 7
    taught = [p.grad for p in made.passes if bool((p.t != 0).any())]
    assert taught == [w % 5 == phase and 3 * (min(w, 8) + 1) > 6 for w in range(13)]
