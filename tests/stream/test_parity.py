"""Law 2: streams and training rollouts equal the reference implementations' (latents to 2e-5, gradients to 1e-4)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.net.rope import rope_table, rotate
from adastate.noise import RecordedNoise
from adastate.stream import StateCache, StreamSpec, rollout
from adastate.types import Chunk
from tests.parity import Fixture, load
from tests.tiny import NetStudent

TOLERANCE = 2e-5
SELF_FORCING: dict[str, Any] = {"anchor": "none", "state_frames": 0, "position": "absolute"}
STREAMS: dict[str, dict[str, Any]] = {
    "C_sf_nowindow": {**SELF_FORCING, "past_frames": None},
    "C_sf_window6_small": {**SELF_FORCING, "past_frames": 3},
    "C_longlive_inf_window9_sink3": {
        "anchor": "static",
        "state_frames": 3,
        "position": "slot",
        "past_frames": 3,
        "warmup": "growing",
    },
}


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def replay(f: Fixture, spec: StreamSpec) -> tuple[Tensor, NetStudent, StateCache]:
    """(latents, the student with its passes, the cache at the end)."""
    student, cache = NetStudent(f.net(), f.inputs["context"]), StateCache(spec)
    draws = f.draws(spec, len(spec.timesteps))
    shape = tuple(draws[0].shape[2:])
    with torch.no_grad():
        chunks = list(rollout(student, RecordedNoise(draws), cache, f.meta["chunks"], shape))
    return torch.cat([c.content for c in chunks], 1), student, cache


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str) -> None:
    f = load(name)
    spec = StreamSpec(**STREAMS[name])
    assert list(spec.timesteps) == pytest.approx(f.meta["warped"])
    latents, student, cache = replay(f, spec)
    assert far(latents, f.outputs["latents"]) < TOLERANCE
    assert [float(t[0, 0]) for _, t, _, _ in student.passes] == pytest.approx([c["t"][0] for c in f.meta["calls"]])
    flows = [flow for *_, flow in student.passes]
    assert far(flows[15], f.outputs["chunk3_call0_flow"]) < TOLERANCE
    assert far(flows[19], f.outputs["chunk3_call4_flow"]) < TOLERANCE, "the clean pass, too"
    if "final_kv_layer0_k" in f.outputs:
        check_cache(f, cache)


def check_cache(f: Fixture, cache: StateCache) -> None:
    """The reference's cache holds the last chunk besides; Self-Forcing keeps its keys rotated, LongLive's slots raw."""
    frames = [x for x in (cache.anchor, cache.window) if x is not None]
    k, v = (torch.cat([getattr(x, kind)[0] for x in frames], 1) for kind in ("keys", "values"))
    source = [s for x in frames for s in x.source]
    tokens = f.meta["frame_seqlen"]
    if cache.spec.position == "absolute":
        height, width = (n // 2 for n in f.meta["latent_hw"])
        k = rotate(k, rope_table(tuple(source), height, width, k.shape[-1], 1024, k.device))
    kept = f.meta["local_attn_size"]
    at = range(3 * f.meta["chunks"])[-(kept - f.meta["sink_size"]) :]
    theirs = [*range(f.meta["sink_size"]), *at]
    rows = [theirs.index(s) for s in source]
    for ours, name in ((k, "final_kv_layer0_k"), (v, "final_kv_layer0_v")):
        expected = f.outputs[name].unflatten(1, (-1, tokens))[:, rows].flatten(1, 2)
        assert far(ours, expected) < TOLERANCE, name


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("C_sf_window6_small", {"past_frames": 6}),
        ("C_longlive_inf_window9_sink3", {"position": "absolute"}),
        ("C_longlive_inf_window9_sink3", {"state_frames": 2}),
        ("C_longlive_inf_window9_sink3", {"context_noise": 20.0}),
    ],
)
def test_a_stream_made_otherwise_differs(name: str, mistake: dict[str, Any]) -> None:
    f = load(name)
    latents, *_ = replay(f, StreamSpec(**{**STREAMS[name], **mistake}))
    assert far(latents, f.outputs["latents"]) > 50 * TOLERANCE


def train(f: Fixture, cache_grad: str, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(frames, loss, gradients) of the training rollout."""
    spec = StreamSpec(
        **{**SELF_FORCING, "past_frames": None, "context_renoise": True, "cache_grad": cache_grad, **kwargs}
    )
    net = f.net(checkpointing=f.meta["gradient_checkpointing"])
    exit_level = f.meta["exit_step"]
    noise = RecordedNoise(f.draws(spec, exit_level + 1))
    chunks: list[Chunk] = list(
        rollout(
            NetStudent(net, f.inputs["context"]),
            noise,
            StateCache(spec),
            f.meta["chunks"],
            (16, *f.meta["latent_hw"]),
            exit_level,
            grad=True,
        )
    )
    x = torch.cat([c.content for c in chunks], 1)
    loss = (x * f.inputs["grad_weight_G"]).sum()
    loss.backward()
    return x, loss, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("cache_grad", "prefix", "norms"),
    [("straight_through", "grad.", "grad_norms"), ("detached", "grad_detached_cache.", "grad_norms_detached_cache")],
)
def test_law_9_training_rollout(cache_grad: str, prefix: str, norms: str) -> None:
    f = load("G_training_rollout_exit0")
    x, loss, gradients = train(f, cache_grad)
    assert far(x, f.outputs["output"]) < TOLERANCE
    assert loss.item() == pytest.approx(f.outputs["loss"].item(), rel=1e-5)
    for name, expected in f.outputs.items():
        if name.startswith(prefix):
            got = gradients[name.removeprefix(prefix)]
            assert (got - expected).norm() < 1e-4 * expected.norm(), name
    assert {name: g.norm().item() for name, g in gradients.items()} == pytest.approx(f.meta[norms], rel=1e-4)


def test_the_two_ways_through_the_cache_differ() -> None:
    """A check of the one above: by more than its tolerance, in the projections that write the cache."""
    f = load("G_training_rollout_exit0")
    name = "blocks.0.self_attn.k.weight"
    through, detached = f.outputs[f"grad.{name}"], f.outputs[f"grad_detached_cache.{name}"]
    assert (through - detached).norm() > 0.3 * through.norm()
