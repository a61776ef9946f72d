"""`adastate plan`: closed formulas against the networks, the FLOP counter, what autograd keeps, and known figures."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adastate import distill as distill_module
from adastate import sampler as sampler_module
from adastate.bound import Bound
from adastate.config import ConfigError, compose
from adastate.distill import Distill
from adastate.encoders import TAEHV, TinyCodec
from adastate.main import main
from adastate.net import DiT, Size
from adastate.net.fast import Streamer
from adastate.plan import memory
from adastate.plan.command import GIB, layout, smallest_change
from adastate.plan.configured import PRETRAINED, read
from adastate.plan.cost import (
    Pass,
    Recipe,
    frame_tokens,
    parameters,
    pass_flops,
    rollout_passes,
    stream_flops,
    text_flops,
)
from adastate.plan.memory import FLOAT32, STAGES, Net, clip_bytes, frame_key_bytes, kept_bytes, states
from adastate.plan.runs import DistillRun, Run, Setting, codec_parameters
from adastate.stream import StateCache, rollout
from tests.rig import Prompts, fit, tiny_distill
from tests.tiny import GRID, ROOT, SIZE, Drawn, normal, random_net, read_system, spec

CONF = ROOT / "conf"
WAN = Size(width=1536, layers=30, heads=12, ffn=8960, channels=16, text_width=4096, text_tokens=512, freq=256)
WAN_14B = replace(WAN, width=5120, layers=40, heads=40, ffn=13824)
TOKENS = frame_tokens(SIZE, GRID)

LAYERS = {
    "tiny": ["base.yaml", "sizes/tiny.yaml"],
    "1.3B": ["base.yaml", "sizes/wan_1_3b.yaml"],
    "14B": ["base.yaml", "sizes/wan_1_3b.yaml", "sizes/wan_14b.yaml"],
}


def configured(size: str, *files: str, overrides: tuple[str, ...] = ()) -> Run:
    return read(compose([CONF / f for f in (*LAYERS[size], *files)], overrides))


def arguments(size: str, *files: str) -> list[str]:
    return [word for f in (*LAYERS[size], *files) for word in ("--config", str(CONF / f))]


# ---- parameters


@pytest.mark.parametrize(
    ("size", "count"), [(SIZE, None), (Size(), None), (WAN, 1_418_996_800), (WAN_14B, 14_288_491_584)]
)
def test_parameters_are_those_of_the_network(size: Size, count: int | None) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in DiT(size).parameters())
    assert parameters(size) == found and count in (None, found)


def test_encoders_are_counted_right() -> None:
    for shape in ({"width": 48, "channels": 16, "group": 3}, {"width": 4, "channels": 4, "group": 2}):
        assert codec_parameters(**shape) == sum(p.numel() for p in TinyCodec(None, **shape).parameters())
    assert PRETRAINED["TAEHV"] == sum(p.numel() for p in TAEHV(None).parameters())


# ---- FLOP


@pytest.mark.parametrize(
    ("frames", "seen", "tflop", "chunk"),
    [(3, 18, 40.5, 202), (3, 9, 28.3, 142), (3, 6, 24.3, 121), (3, 3, 20.2, 101), (4, 4, 30.5, 152)],
    ids=["Self-Forcing 21", "LongLive 12", "window 9", "Infinity-RoPE 6", "AdaState"],
)
def test_a_pass_costs_what_the_table_says(frames: int, seen: int, tflop: float, chunk: float) -> None:
    found = pass_flops(WAN, 1560, Pass(frames, seen)).forward / 1e12
    assert found == pytest.approx(tflop, rel=5e-3) and 5 * found == pytest.approx(chunk, rel=5e-3)


@pytest.mark.parametrize(("system", "wanted"), [("self_forcing", Pass(3, 18)), ("adastate", Pass(4, 4))])
def test_the_stream_makes_the_passes_of_the_table(system: str, wanted: Pass) -> None:
    last = rollout_passes(read_system(system), 42)[-1]
    assert (last.frames, last.seen, last.keys) == (wanted.frames, wanted.seen, wanted.keys)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "systems").glob("*.yaml")))
def test_passes_of_every_system(name: str) -> None:
    """As many as the chunks say, none with more keys than are in view."""
    s = read_system(name)
    passes = rollout_passes(s, 42)
    assert all(p.frames <= p.keys and p.pairs <= p.frames * (p.seen + p.frames) for p in passes)
    if s.schedule == "uniform" and s.restart_frames is None and not s.first_steps:
        assert len(passes) == s.chunks(42) * (len(s.steps) + 1) - 1


def counted(work: Any) -> int:
    """FLOP of a call. The counter knows attention on a CPU only where it is spelled out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_clip_costs_what_is_counted(checkpointing: bool) -> None:
    net, x, text = random_net(checkpointing=checkpointing), normal(2, 5, SIZE.channels, *GRID), normal(2, 4, 16)
    cost, keys = pass_flops(SIZE, TOKENS, Pass(5), scores=2.0), text_flops(SIZE)
    with torch.no_grad():
        assert counted(lambda: net(x, torch.ones(2), text)) == 2 * (cost.forward + keys.forward)
    both = counted(lambda: net(x, torch.ones(2), text).sum().backward())
    assert both == 2 * (cost.trained(checkpointing) + keys.forward + keys.backward)


@pytest.mark.parametrize("stream", [{}, {"anchor": "none", "state_frames": 0, "past_frames": 6}, {"chunk_frames": 1}])
@torch.no_grad()
def test_a_rollout_costs_what_is_counted(stream: dict[str, Any]) -> None:
    s, net, text = spec(**stream), random_net(), normal(1, 4, 16)

    def run() -> None:
        list(rollout(Bound(net, text), Drawn(), StateCache(s), s.chunks(6), (SIZE.channels, *GRID), finish=False))

    assert stream_flops(SIZE, TOKENS, rollout_passes(s, 6), False) == pytest.approx(counted(run), rel=0.01)


class Step:
    """A student step of the smallest Distill up to its backward, at a given exit level."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, level: int, batch: int = 4, **options: Any) -> None:
        stream = {"steps": (1000, 750, 500), **options.pop("stream", {})}
        self.module = tiny_distill(stream, **options)
        self.module.batch.micro = batch
        self.index = torch.arange(batch)
        self.text = self.module.student.embed(["red ball", "snow", "slow lava", "fast"][:batch])
        self.negative = self.module.student.embed([""])
        monkeypatch.setattr(sampler_module, "shared_integer", lambda *_: level)

    def student(self) -> Tensor:
        sample = self.module.sample(distill_module.Part(self.text, self.index), "test", grad=True)
        return self.module.student_loss(sample, self.text, self.negative, self.index)[0]

    def critic(self) -> Tensor:
        chunks = self.module.rollout(self.text, self.index, "test", grad=False)
        x = torch.cat([c.content for c in chunks], 1)
        return self.module.critic.loss(x, self.text, self.module.noise(self.index, "score"))[0]

    def recipe(self, checkpointing: bool) -> Recipe:
        states = self.module.state_loss == "dmd"
        again = (checkpointing, checkpointing)
        return Recipe(SIZE, SIZE, SIZE, self.module.student.spec, TOKENS, 6, again, True, states, scores=2.0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", ["none", "dmd"])
@pytest.mark.parametrize("level", [0, 2])
def test_a_step_costs_what_is_counted(monkeypatch: Any, level: int, loss: str, checkpointing: bool) -> None:
    step = Step(monkeypatch, level, checkpointing=checkpointing, state_loss=loss)
    recipe = step.recipe(checkpointing)
    assert recipe.student_step(level) == pytest.approx(counted(lambda: step.student().backward()) / 4, rel=0.01)
    assert recipe.critic_step(level) == pytest.approx(counted(lambda: step.critic().backward()) / 4, rel=0.01)


@pytest.mark.parametrize(("every", "first"), [(5, 0), (5, 7), (1, 8), (4, 4)])
def test_steps_are_those_of_the_loop(every: int, first: int) -> None:
    changes = (f"model.init_args.student_every={every}", f"model.init_args.critic_first={first}", "run.iterations=23")
    run = configured("tiny", "stages/distill.yaml", overrides=changes)
    taken = sum(i >= first and i % every == 0 for i in range(23))
    assert run.steps == {"student": taken, "critic": 23}


# ---- memory


def test_a_latent_frame_in_the_cache() -> None:
    assert frame_key_bytes(WAN, 1560, memory.BFLOAT16) / 2**20 == pytest.approx(274.2, abs=0.05)
    net, text = random_net(), normal(2, 4, 16)
    cache = StateCache(spec())
    with torch.no_grad():
        list(rollout(Bound(net, text), Drawn(batch=2), cache, 4, (SIZE.channels, *GRID)))
    assert cache.bytes == 2 * 4 * frame_key_bytes(SIZE, TOKENS, FLOAT32)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "systems").glob("*.yaml")))
def test_a_stream_s_cache_is_what_is_allocated(name: str) -> None:
    """With its raw keys, its turned ones and both states; ping-pong, which has no slab, within a tenth."""
    s, net = read_system(name), random_net(replace(SIZE, rope_rows=2048))
    told = memory.stream_bytes(SIZE, TOKENS, s, 42, 2, FLOAT32)
    cache, slabs, loose = StateCache(s, layers=SIZE.layers), dict[int, Any](), [0]

    def watched(view: Any) -> Any:
        if view.board is not None:
            slabs[id(view.board.slab)] = view.board.slab
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
        assert slab.bytes == keys_and_values * (1.5 if slab.turns else 1)
    else:
        assert told == pytest.approx(max(loose), rel=0.1)


def tensors() -> dict[int, Any]:
    """Storages of all tensors that Python knows, by address."""
    gc.collect()
    found = (
        o.untyped_storage() for o in gc.get_objects() if issubclass(type(o), Tensor)
    )  # isinstance wakes lazy modules
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


STREAMS: list[dict[str, Any]] = [
    {},
    {"chunk_frames": 1},
    {"anchor": "none", "state_frames": 0, "past_frames": 6, "position": "absolute"},
    {"state_visibility": "replace"},
    {"state_grad": 1},
    {"cache_grad": "straight_through"},
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: ", ".join(map(str, s)) or "defaults")
def test_activations_are_what_is_measured(monkeypatch: Any, stream: dict[str, Any], checkpointing: bool) -> None:
    kept(Step(monkeypatch, 1, stream=stream))  # fills the tables of noise and rotation, which stay
    step = Step(monkeypatch, 1, stream=stream, checkpointing=checkpointing)
    passes = rollout_passes(step.module.student.spec, 6, 1, grad=True)
    told = kept_bytes(SIZE, TOKENS, passes, 4, FLOAT32, checkpointing) + clip_bytes(SIZE, TOKENS, 6, 4)
    assert told == pytest.approx(kept(step), rel=0.1)


def told_run(module: Distill, checkpointing: bool) -> DistillRun:
    count = parameters(SIZE)
    names = {"student": (True, True), "critic": (True, False), "teacher": (False, False)}
    nets = tuple(Net(n, count, SIZE, *flags, checkpointing and flags[0]) for n, flags in names.items())
    recipe = Recipe(SIZE, SIZE, SIZE, module.student.spec, TOKENS, 6)
    return DistillRun("distill", nets, (), TOKENS, 6, 4, 4, 1, "32-true", recipe, 5, 1, True, 0)


@pytest.mark.parametrize("checkpointing", [False, True])
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
    passes = rollout_passes(module.student.spec, 6, 1, grad=True)
    told = kept_bytes(SIZE, TOKENS, passes, 4, FLOAT32, checkpointing) + clip_bytes(SIZE, TOKENS, 6, 4)
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
@pytest.mark.parametrize("stream", STREAMS[:3], ids=lambda s: ", ".join(map(str, s)) or "defaults")
def test_the_peak_is_what_is_measured(monkeypatch: Any, stream: dict[str, Any], checkpointing: bool) -> None:
    """Of a whole student step, scores and backward included, beside the networks and their optimisers."""
    step = Step(monkeypatch, 1, stream=stream, checkpointing=checkpointing)
    run = told_run(step.module, checkpointing)
    step.student().backward()
    for p in step.module.parameters():
        p.grad = None
    still = sum(states(n, "0", 1, FLOAT32).still for n in run.nets)
    phases = [p for p in run.phases(Setting(batch=4)) if p.learning == "student"]
    told = still + 4 * parameters(SIZE) + max(p.total for p in phases)
    assert told == pytest.approx(still + allocated(lambda: step.student().backward()), rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU's memory, and there is no GPU")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_a_gpu_takes_what_is_planned(checkpointing: bool) -> None:
    size = Size(width=512, layers=8, heads=4, ffn=2048, channels=16)
    grid, batch, device = (24, 32), 2, torch.device("cuda")
    from adastate.encoders import TinyText
    from adastate.losses import dmd
    from adastate.noise import SampleNoise
    from adastate.student import Student

    student = Student(
        size, TinyCodec(None, width=4), TinyText(), spec(), grid, rollout_frames=12, checkpointing=checkpointing
    ).to(device)
    text, tokens = torch.zeros(batch, 16, 64, device=device), frame_tokens(size, grid)

    def step() -> None:
        noise = SampleNoise(0, 0, range(batch), "test", device)
        x = torch.cat([c.content for c in student.rollout(text, noise, 12, 1, grad=True)], 1)
        dmd(x, torch.zeros_like(x)).backward()

    step()
    still = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    measured = torch.cuda.max_memory_allocated() - still
    run = told_run(tiny_distill(), checkpointing)
    recipe = replace(run.recipe, student=size, spec=student.spec, tokens=tokens, frames=12)
    nets = tuple(replace(n, size=size, parameters=parameters(size)) for n in run.nets)
    phases = replace(run, nets=nets, recipe=recipe, tokens=tokens, frames=12).phases(Setting(batch=batch))
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
    peaks = [layout(run, Setting(zero, 8, 1, True))["peak"] for zero in STAGES]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < peaks[0]


@pytest.mark.parametrize("zero", STAGES)
def test_what_is_advised_fits_and_nothing_shorter_does(zero: str) -> None:
    run = configured("14B", "stages/distill.yaml", overrides=("flow.checkpointing=false",))
    at, limit = Setting(zero, 8, 2, False), 75 * GIB
    changes = smallest_change(run, at, limit)
    assert changes and "activation checkpointing" in changes
    batch = next((int(c.split()[-1]) for c in changes if c.startswith("micro batch")), at.batch)
    stage = next((c.removeprefix("ZeRO-") for c in changes if c.startswith("ZeRO-")), zero)
    stage = "3_teacher" if "a sharded teacher" in changes else stage
    assert layout(run.with_checkpointing(), Setting(stage, 8, batch, True))["peak"] <= limit
    assert layout(run, at)["peak"] > limit
    assert smallest_change(run, at, 10_000 * GIB) == [] and smallest_change(run, at, GIB) is None


# ---- the command


@pytest.mark.parametrize("stage", ["distill", "teacher", "init"])
@pytest.mark.parametrize("size", sorted(LAYERS))
def test_every_stage_of_every_size_is_planned(size: str, stage: str) -> None:
    run = configured(size, f"stages/{stage}.yaml")
    found = layout(run, Setting("0", 1, 1, run.checkpointing))
    assert found["peak"] > 4 * sum(n.parameters for n in run.nets) and all(w.flop > 0 for w in run.works)


def test_the_codec_is_planned(capsys: Any) -> None:
    main(["plan", *arguments("tiny", "stages/codec.yaml"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {"codec": sum(p.numel() for p in TinyCodec(None).parameters())}
    video = torch.zeros(1, 6, 3, 32, 32)
    codec = TinyCodec(None)
    forward = counted(lambda: codec.reconstruct(codec.raw(video), 2))
    assert found["flop"]["codec step"] == pytest.approx(3 * forward * 24, rel=0.01)


def test_the_command_builds_no_network(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(DiT, "__init__", lambda *_: pytest.fail("a network was built"))
    files = arguments("1.3B", "systems/adastate.yaml", "stages/distill.yaml")
    main(["plan", *files, "--gpus", "8", "--nodes=2", "--zero", "2", "--data.batch=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["student"] == 1_418_996_800
    assert (found["ranks"], found["micro batch"], found["global batch"], found["accumulation"]) == (16, 1, 64, 4)
    assert found["latent tokens a sample"] == 21 * 1560
    seconds = found["flop"]["iteration"] / (316e12 * 16)
    assert found["seconds an iteration"] == pytest.approx(seconds) and found["chosen"] == "2"
    assert found["memory"]["2"]["encoders"] == {"VAE": 4 * 126_892_531}
    assert found["memory"]["2"]["processor"] == {"text encoder": 2 * 5_680_910_336}


def test_the_tables_say_what_fits(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    main(["plan", *arguments("1.3B", "stages/distill.yaml"), "--gpus=8", "--training.batch=16"])
    said = capsys.readouterr().out
    assert "planned with --data.batch=8" in said, "64 is no multiple of 8 x 16"
    assert "1,418,996,800" in said and "exit passes" in said and "TFLOP/s" in said
    assert "does not fit 80 GiB" in said and "it would with" in said
    main(["plan", *arguments("tiny", "stages/distill.yaml"), "--size.layers=2", "--memory=4"])
    said = capsys.readouterr().out
    assert "fits 4 GiB" in said and f"{parameters(Size(layers=2)):,}" in said


def test_the_stage_is_that_of_the_strategy(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "zero.yaml").write_text(
        "trainer:\n  strategy:\n    class_path: adastate.zero.ZeroStrategy\n"
        "    init_args: {stage: 3, shard_frozen: true}\n"
    )
    files = arguments("1.3B", "stages/distill.yaml")
    main(["plan", *files, "--config", str(tmp_path / "zero.yaml"), "--gpus=8", "--data.batch=1", "--json"])
    assert json.loads(capsys.readouterr().out)["chosen"] == "3_teacher"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpus=7"], "global_batch 64 is not a multiple of 7 processes"),
        (["--gpus=0"], "--gpus is 0"),
        (["--memory=-1"], "--memory is -1"),
        (["--data.bach=2"], "--data.bach: datamodules.prompts.PromptData has no 'bach'"),
        (["--nothing=2"], "--nothing is no option of `adastate plan`"),
        (["more"], "'more' is no option"),
        (["--stream.chunk_frames=4"], "frames are not a multiple of the chunk of 4"),
        (["--grid=[5, 8]"], "a grid of 5 x 8 latents does not divide"),
    ],
)
def test_mistakes_are_told_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit) as error:
        main(["plan", *arguments("tiny", "stages/distill.yaml"), *words])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_configs_without_a_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hold no stage: add one of conf/stages/"):
        configured("tiny")
