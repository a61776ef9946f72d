"""`adastate plan`: memory, against what autograd keeps, what the allocator notes, and known figures."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from adastate.encoders import TinyCodec
from adastate.models.video_network import Size
from adastate.models.wan.fused import Streamer
from adastate.plan import memory
from adastate.plan.cost import frame_tokens, parameters, rollout_passes
from adastate.plan.memory import FLOAT32, STAGES, Net, frame_key_bytes, kept_bytes, scored_clip_bytes, states
from adastate.plan.planning import GIB, memory_layout, smallest_change
from adastate.plan.runs import RunSetting
from adastate.stream import Exits, StateCache
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from tests.support.plan_rig import SYSTEMS, TOKENS, WAN, Step, configured, told_run
from tests.support.rig import Prompts, fit, rolled_out, tiny_distill
from tests.support.tiny import GRID, SIZE, Drawn, normal, random_net, read_system, spec

STREAMS: list[dict[str, Any]] = [
    {},
    {"chunk_frames": 1},
    {"anchor": "none", "state_frames": 0, "past_frames": 6, "position": "absolute"},
    {"state_visibility": "replace"},
    {"state_grad": 1},
    {"cache_grad": "straight_through"},
]


def cases(streams: list[dict[str, Any]]) -> list[Any]:
    """The first one is the witness; the others are slow."""
    return [
        pytest.param(s, id=", ".join(s) or "defaults", marks=pytest.mark.slow if i > 0 else ())
        for i, s in enumerate(streams)
    ]


def test_a_latent_frame_in_the_cache() -> None:
    assert frame_key_bytes(WAN, 1560, memory.BFLOAT16) / 2**20 == pytest.approx(274.2, abs=0.05)
    net, text = random_net(), normal(2, 4, 16)
    cache = StateCache(spec())
    with torch.no_grad():
        list(rollout(PromptedNetwork(net, text), Drawn(batch=2), cache, 4, (SIZE.channels, *GRID)))
    assert cache.bytes == 2 * 4 * frame_key_bytes(SIZE, TOKENS, FLOAT32)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_stream_s_cache_is_what_is_allocated(name: str) -> None:
    """With its raw keys, its turned ones and both states; ping-pong, which has no slab, within a tenth."""
    s, net = read_system(name), random_net(replace(SIZE, rope_max_frames=2048))
    told = memory.stream_bytes(SIZE, TOKENS, s, 42, 2, FLOAT32)
    cache, slabs, loose = StateCache(s, layers=SIZE.layers), dict[int, Any](), [0]

    def watched(view: Any) -> Any:
        if view.slab_memory is not None:
            slabs[id(view.slab_memory.slab)] = view.slab_memory.slab
        copies = len(view._context) > 1  # of values, where anchor and window are joined
        loose.append(cache.bytes + sum(k.nbytes + v.nbytes * copies for k, v in view._rotated.values()))
        return view

    streamer, made = Streamer(net, net.text_keys(normal(2, 4, 16))), cache.view
    cache.view = lambda *a, **k: watched(made(*a, **k))  # type: ignore[method-assign]
    with torch.no_grad():
        list(rollout(streamer, Drawn(batch=2), cache, s.chunks(42), (SIZE.channels, *GRID), finish=False))
    if slabs:
        (slab,) = slabs.values()
        assert told == slab.bytes
        keys_and_values = 2 * slab.places * frame_key_bytes(SIZE, TOKENS, FLOAT32)
        assert slab.bytes == keys_and_values * (1.5 if slab.rotates else 1)
    else:
        assert told == pytest.approx(max(loose), rel=0.1)


def tensors() -> dict[int, Any]:
    """Storages of all tensors that Python knows, by address; other tests may have left fake ones, which have none."""
    gc.collect()
    kinds = ((type(o), o) for o in gc.get_objects())  # isinstance wakes lazy modules
    found = (o.untyped_storage() for kind, o in kinds if issubclass(kind, Tensor) and not issubclass(kind, FakeTensor))
    return {s.data_ptr(): s for s in found}


def kept(step: Step) -> int:
    """Bytes alive before backward that were not before the step: what autograd saved, and what it holds through
    Python, as the views of checkpointed passes."""
    old, saved = tensors(), dict[int, Any]()

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = step.student()
    alive = {k: s for k, s in {**tensors(), **saved}.items() if k not in old}
    found = sum(s.nbytes() for s in alive.values())
    loss.backward()
    return found


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("stream", cases(STREAMS))
def test_activations_are_what_is_measured(monkeypatch: Any, stream: dict[str, Any], checkpointing: bool) -> None:
    kept(Step(monkeypatch, 1, stream=stream))  # fills the tables of noise and rotation, which stay
    step = Step(monkeypatch, 1, stream=stream, checkpointing=checkpointing)
    passes = rollout_passes(step.module.student.spec, 6, Exits(1), grad=True)
    told = kept_bytes(SIZE, TOKENS, passes, 4, FLOAT32, checkpointing) + scored_clip_bytes(SIZE, TOKENS, 6, 4)
    assert told == pytest.approx(kept(step), rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_whole_step_is_what_is_measured(monkeypatch: Any, checkpointing: bool) -> None:
    """Weights, gradients, optimisers and average to the byte, and all of a student step within a tenth."""
    step = Step(monkeypatch, 1, checkpointing=checkpointing)
    module = step.module
    fit(module, Prompts())
    optimizers = module.trainer.optimizers
    run = told_run(module, checkpointing)
    nets = {n.name: states(n, "0", 1, FLOAT32) for n in run.nets}

    def held(tensors: Any) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    for name, optimizer in zip(("student", "critic"), optimizers, strict=True):
        moments = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
        assert nets[name].optimiser == held(moments)
    step.student().backward()
    assert nets["student"].weights == held(module.student.net.parameters())
    assert nets["student"].gradients == held(p.grad for p in module.student.net.parameters() if p.grad is not None)
    assert nets["student"].ema == held(module.student.ema.net.parameters()) and nets["teacher"].optimiser == 0
    still = sum(s.still for s in nets.values()) + nets["student"].gradients
    passes = rollout_passes(module.student.spec, 6, Exits(1), grad=True)
    told = kept_bytes(SIZE, TOKENS, passes, 4, FLOAT32, checkpointing) + scored_clip_bytes(SIZE, TOKENS, 6, 4)
    assert still + told == pytest.approx(still + kept(step), rel=0.1)


def allocated(work: Any) -> int:
    """The most bytes that a call holds beyond what was there, by the allocator's own record."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as record:
        work()
    assert record.profiler is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stream", cases(STREAMS[:3]))
def test_the_peak_is_what_is_measured(monkeypatch: Any, stream: dict[str, Any], checkpointing: bool) -> None:
    """Of a whole student step, scores and backward included, beside the networks and their optimisers.

    A plan may tell a little more than is held, as streams let go of the tensors between two passes earlier than it
    counts.
    """
    step = Step(monkeypatch, 1, stream=stream, checkpointing=checkpointing)
    run = told_run(step.module, checkpointing)
    step.student().backward()
    measured = 0
    for _ in range(2):  # a record that loses an event tells too little
        for p in step.module.parameters():
            p.grad = None
        measured = max(measured, allocated(lambda: step.student().backward()))
    still = sum(states(n, "0", 1, FLOAT32).still for n in run.nets)
    phases = [p for p in run.phases(RunSetting(batch=4)) if p.learning == "student"]
    told = still + 4 * parameters(SIZE) + max(p.total for p in phases)
    assert (still + measured) / 1.1 <= told <= 1.12 * (still + measured)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU's memory, and there is no GPU")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_a_gpu_takes_what_is_planned(checkpointing: bool) -> None:
    size = Size(width=512, layers=8, heads=4, ffn=2048, channels=16)
    grid, batch, device = (24, 32), 2, torch.device("cuda")
    from adastate.diffusion.losses import dmd
    from adastate.diffusion.noise import SampleNoise
    from adastate.encoders import TinyText
    from adastate.training.student import Student

    student = Student(
        size, TinyCodec(None, width=4), TinyText(), spec(), grid, rollout_frames=12, checkpointing=checkpointing
    ).to(device)
    text, tokens = torch.zeros(batch, 16, 64, device=device), frame_tokens(size, grid)

    def step() -> None:
        noise = SampleNoise(0, 0, range(batch), "test", device)
        x = torch.cat([c.content for c in rolled_out(student, text, noise, 12, Exits(1))], 1)
        dmd(x, torch.zeros_like(x)).backward()

    step()
    still = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    measured = torch.cuda.max_memory_allocated() - still
    run = told_run(tiny_distill(), checkpointing)
    recipe = replace(run.recipe, student=size, spec=student.spec, tokens=tokens, frames=12)
    nets = tuple(replace(n, size=size, parameters=parameters(size)) for n in run.nets)
    phases = replace(run, nets=nets, recipe=recipe, tokens=tokens, frames=12).phases(RunSetting(batch=batch))
    told = max(p.total for p in phases if p.name in ("student: rollout", "student: backward"))
    assert told == pytest.approx(measured, rel=0.1)


# ---- ZeRO, and what fits


def test_zero_splits_what_it_says() -> None:
    """Rajbhandari et al. 2020, figure 1, with float32 gradients: 7.5 billion parameters on 64 ranks."""
    net = Net("student", 7_500_000_000, trained=True)
    gigabytes = {}
    for stage in ("1", "2", "3"):
        s = states(net, stage, 64, memory.BFLOAT16)
        gigabytes[stage] = (s.weights + s.gradients // 2 + s.optimiser) / 1e9  # theirs are in half precision
    assert gigabytes == pytest.approx({"1": 31.4, "2": 16.6, "3": 1.9}, abs=0.06)


@pytest.mark.parametrize("size", ["1.3B", "14B"])
def test_each_stage_takes_no_more_than_the_one_before(size: str) -> None:
    run = configured(size, "stages/distill.yaml")
    peaks = [memory_layout(run, RunSetting(zero, 8, 1, True))["peak"] for zero in STAGES]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < peaks[0]


@pytest.mark.parametrize("zero", STAGES)
def test_what_is_advised_fits_and_nothing_shorter_does(zero: str) -> None:
    run = configured("14B", "stages/distill.yaml", overrides=("precision.checkpointing=false",))
    at, limit = RunSetting(zero, 8, 2, False), 75 * GIB
    changes = smallest_change(run, at, limit)
    assert changes and "activation checkpointing" in changes
    batch = next((int(c.split()[-1]) for c in changes if c.startswith("micro batch")), at.batch)
    stage = next((c.removeprefix("ZeRO-") for c in changes if c.startswith("ZeRO-")), zero)
    stage = "3_teacher" if "a sharded teacher" in changes else stage
    assert memory_layout(run.with_checkpointing(), RunSetting(stage, 8, batch, True))["peak"] <= limit
    assert memory_layout(run, at)["peak"] > limit
    assert smallest_change(run, at, 10_000 * GIB) == [] and smallest_change(run, at, GIB) is None


def test_the_host_holds_what_no_file_gives_and_what_is_yet_to_be_cut() -> None:
    """Networks of files are read straight to the device."""
    net = Net("student", 1000, trained=True, averaged=True)
    assert [memory.host_bytes(net, zero, memory.BFLOAT16) for zero in STAGES] == [0, 0, 0, 2000, 2000]
    teacher = replace(net, trained=False, averaged=False)
    assert [memory.host_bytes(teacher, zero, memory.FLOAT32) for zero in STAGES] == [0, 0, 0, 0, 4000]
    assert memory.host_bytes(replace(net, drawn=True), "2", memory.BFLOAT16) == 8000, "float32, and its average"
