"""LoRA: only adapters learn, are averaged and saved; streams and files have them merged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from adastate.config.compose import compose
from adastate.config.schema import ConfigError
from adastate.encoders import TinyCodec, TinyText
from adastate.models.adapters import adapted, fold, is_adapter, merged
from adastate.models.lora import Lora, adapt
from adastate.models.wan import DiT
from adastate.models.wan.fused import Streamer
from adastate.optim.ema import EMA
from adastate.optim.settings import AverageSettings, OptimizerSettings
from adastate.plan import configured
from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from adastate.training.critic import Critic
from adastate.training.distill import Distill
from adastate.training.initializations import OdeRegression
from adastate.training.load_run import load_student
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.types import Batch
from adastate.weights import export, load_weights, open_weights, save_weights
from tests.support.ports import free_port
from tests.support.rig import DISTILL_BLOCKS, Gradients, Prompts, distance, fit, grouped
from tests.support.tiny import GRID, ROOT, SHAPE, SIZE, Drawn, NetStudent, normal, random_net, spec
from tests.support.zero_worker import From
from tests.training.test_initialization import CLIPS, ODE, Batches

QUICK = OptimizerSettings(1e-2, warmup=1)
LORA = Lora(rank=4, alpha=6.0)
X, T = normal(2, 3, *SHAPE), torch.tensor([900.0, 200.0])
TEXT = normal(2, SIZE.text_tokens, SIZE.text_width, seed=1)


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "base.safetensors"
    save_weights(random_net(), path)
    return str(path)


def stirred(net: DiT, seed: int = 3) -> DiT:
    """Adapters that do something: B begins as zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if is_adapter(name):
                p.copy_(0.2 * torch.randn(p.shape, generator=g) / p.shape[1] ** 0.5)
    return net


def with_adapters(base: str, lora: Lora = LORA, **kwargs: Any) -> DiT:
    net = DiT(SIZE, **kwargs)
    load_weights(net, base)
    adapt(net, lora, base)
    return net


def tiny_distill(base: str, checkpointing: bool = False, lora: Lora | None = LORA, **kwargs: Any) -> Distill:
    torch.manual_seed(0)
    codec, text = TinyCodec(None, width=4, channels=SIZE.channels, group=2), TinyText(SIZE.text_tokens, SIZE.text_width)
    student = Student(
        SIZE,
        codec,
        text,
        spec(),
        GRID,
        rollout_frames=6,
        weights=base,
        average=AverageSettings(0.5),
        checkpointing=checkpointing,
        lora=lora,
    )
    critic = Critic(SIZE, base, checkpointing=checkpointing, lora=lora)
    options = {"iterations": 1, "global_batch": 4, "student_every": 1, "student_lr": 1e-2, "critic_lr": 1e-2, **kwargs}
    return Distill(
        Teacher(SIZE, latent_size=GRID, weights=base, average=None),
        student,
        critic,
        DMD(),
        **grouped(options, DISTILL_BLOCKS),
    )


def names(weights: dict[str, Any]) -> set[str]:
    return {name for name in weights if is_adapter(name)}


# ---- the network


@torch.no_grad()
def test_a_network_begins_as_it_was(base: str) -> None:
    plain, net = random_net(), with_adapters(base)
    assert torch.allclose(net(X, T, TEXT), plain(X, T, TEXT), atol=1e-6)
    assert not torch.allclose(stirred(net)(X, T, TEXT), plain(X, T, TEXT), atol=1e-2)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == names(net.state_dict())


def test_every_linear_layer_of_the_blocks_is_adapted_or_those_asked_for(base: str) -> None:
    every = {f"{kind}.{n}" for kind in ("self_attn", "cross_attn") for n in "qkvo"} | {"ffn.0", "ffn.2"}
    assert set(adapted(with_adapters(base))) == {f"blocks.{i}.{n}" for i in (0, 1) for n in every}
    few = with_adapters(base, Lora(2, targets=("cross_attn.q", "head.head", "time_projection.1")))
    assert set(adapted(few)) == {"blocks.0.cross_attn.q", "blocks.1.cross_attn.q", "head.head", "time_projection.1"}


@torch.no_grad()
def test_merged_is_unmerged(base: str, tmp_path: Path) -> None:
    """As layers, as a file, and as a state dict; the scale is alpha / rank."""
    net = stirred(with_adapters(base))
    expected = net(X, T, TEXT)
    layer: Any = net.blocks[1].ffn[0]
    weight, bias = merged(layer)
    by_hand = layer.base_layer.weight + 6.0 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(weight, by_hand, atol=1e-6) and bias is not None and torch.equal(bias, layer.base_layer.bias)
    save_weights(net, tmp_path / "student.safetensors")
    for other, weights in ((random_net(seed=5), None), (random_net(seed=6), fold(net, net.state_dict()))):
        if weights is None:
            load_weights(other, str(tmp_path / "student.safetensors"))
        else:
            other.load_state_dict(weights)
        assert float((other(X, T, TEXT) - expected).abs().max()) < 1e-5


@torch.no_grad()
def test_streams_run_on_merged_weights(base: str) -> None:
    net = stirred(with_adapters(base, Lora(4, 6.0, targets=("q", "v", "o", "ffn.2", "head.head", "time_projection.1"))))
    made = []
    for student in (NetStudent(net, TEXT), Streamer(net, net.text_keys(TEXT))):
        chunks = rollout(student, Drawn(batch=2), StateCache(spec()), 4, SHAPE)
        made.append(torch.cat([c.content for c in chunks], 1))
    assert float((made[0] - made[1]).abs().max()) < 1e-5
    plain = Streamer(random_net(), random_net().text_keys(TEXT))
    other = torch.cat([c.content for c in rollout(plain, Drawn(batch=2), StateCache(spec()), 4, SHAPE)], 1)
    assert float((made[1] - other).abs().max()) > 1e-2, "the check sees adapters"


@torch.no_grad()
def test_diffusers_loads_the_adapters_alone(base: str, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    net = stirred(with_adapters(base))
    save_weights(net, tmp_path / "student.safetensors")
    file = tmp_path / "student.lora.safetensors"
    export(open_weights(base), tmp_path / "out", "diffusers")
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "out").eval()
    theirs.load_lora_adapter(load_file(file), prefix="transformer")
    found = theirs(X.transpose(1, 2), T, TEXT, return_dict=False)[0].transpose(1, 2)
    assert float((found - net(X, T, TEXT)).abs().max()) < 2e-5
    again = open_weights(file, base=base).require()
    for name, tensor in fold(net, net.state_dict()).items():
        assert torch.allclose(again.entries[name].read(), tensor, atol=1e-6), name


# ---- what learns, what is averaged, what is saved


def test_an_average_has_adapters_of_its_own_over_the_same_weights(base: str) -> None:
    net = stirred(with_adapters(base))
    ema = EMA(net, 0.75)
    own, averaged = dict(net.named_parameters()), dict(ema.net.named_parameters())
    for name, p in own.items():
        assert (averaged[name] is p) == (not is_adapter(name)), name
    before = {name: p.detach().clone() for name, p in averaged.items()}
    stirred(net, seed=4)
    ema.update(net)
    for name, p in averaged.items():
        assert torch.allclose(p, 0.75 * before[name] + 0.25 * own[name], atol=1e-6), name
    moved = ema.net.to(torch.float64)
    assert moved.blocks[0].ffn[0].base_layer.weight is net.blocks[0].ffn[0].base_layer.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("stage", ["teacher", "init", "distill"])
def test_only_adapters_learn(base: str, stage: str, tmp_path: Path) -> None:
    seen, batch = Gradients(), Batches(Batch(torch.tensor([4, 5]), ["red", "snow"], latents=CLIPS.latents))
    codec, text = TinyCodec(None, width=4, channels=SIZE.channels, group=2), TinyText(SIZE.text_tokens, SIZE.text_width)
    out = tmp_path / "out.safetensors"
    data: pl.LightningDataModule = batch
    module: Any
    if stage == "teacher":
        module = Teacher(SIZE, codec, text, GRID, weights=base, lora=LORA, out=str(out), optimizer=QUICK)
    elif stage == "init":
        options: dict[str, Any] = {"rollout_frames": 6, "weights": base, "lora": LORA, "optimizer": QUICK}
        module, data = (
            Student(SIZE, codec, text, spec(), GRID, init=OdeRegression(), **options, out=str(out)),
            Batches(ODE),
        )
    else:
        module, data = tiny_distill(base, out=str(out)), Prompts()
    before = {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    fit(module, data, seen, max_steps=-1 if stage == "distill" else 1)
    after = module.state_dict()
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert changed and all(is_adapter(k) for k in changed)
    assert all(is_adapter(k) for found, _ in seen.steps for k in found)
    assert sum(".lora_B." in k for k in changed if "ema." not in k) == (2 if stage == "distill" else 1) * 20
    held = sum(p.numel() for o in module.trainer.optimizers for g in o.param_groups for p in g["params"])
    trained = [module.student.net, module.critic.net] if stage == "distill" else [module.net]
    assert held == sum(p.numel() for net in trained for n, p in net.named_parameters() if is_adapter(n))
    other = random_net(seed=7)
    load_weights(other, str(out))
    average = module.averaged if stage == "teacher" else (module.student if stage == "distill" else module).ema.net
    with torch.no_grad():
        assert float((other(X, T, TEXT) - average(X, T, TEXT)).abs().max()) < 1e-5
        assert float((other(X, T, TEXT) - random_net()(X, T, TEXT)).abs().max()) > 1e-4, "what is written has learnt"


@pytest.mark.slow
def test_a_checkpoint_holds_adapters_and_resumes_exactly(base: str, tmp_path: Path) -> None:
    def run(iterations: int, done: int = 0, checkpoint: Path | None = None) -> Distill:
        module = tiny_distill(base, iterations=iterations)
        options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=-1, enable_model_summary=False, **options)
        trainer.fit(module, datamodule=From(4, done, flown=0), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{iterations}.ckpt")
        return module

    run(1)
    file = tmp_path / "1.ckpt"
    state = torch.load(file, weights_only=True)["state_dict"]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    assert all(is_adapter(k) or k.endswith(".alpha") for k in tensors) and names(tensors)
    module = tiny_distill(base)
    found = open_weights(file, base=base).require()
    assert found.report.key == "student.ema.net" and "alpha 6" in found.report.notes[-1]
    module.on_load_checkpoint(checkpoint := torch.load(file, weights_only=True))
    module.load_state_dict(checkpoint["state_dict"])
    for name, tensor in fold(module.student.ema.net, module.student.ema.net.state_dict()).items():
        assert torch.allclose(found.entries[name].read(), tensor, atol=1e-6), name
    resumed, straight = run(2, 1, file), run(2)
    for name, value in resumed.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, straight.state_dict()[name]), name
    assert resumed.iteration == straight.iteration == 2
    with pytest.raises(ValueError, match="was written with lora, and this run is without"):
        tiny_distill(base, lora=None).on_load_checkpoint(torch.load(file, weights_only=True))
    whole = {"state_dict": tiny_distill(base, lora=None).state_dict()}
    with pytest.raises(ValueError, match="was written without lora, and this run is with"):
        tiny_distill(base).on_load_checkpoint(whole)


def test_checkpointing_on_and_off_have_equal_gradients(base: str) -> None:
    steps = []
    for checkpointing in (False, True):
        seen, module = Gradients(), tiny_distill(base, checkpointing)
        stirred(module.student.net), stirred(module.critic.net, seed=5)
        fit(module, Prompts(), seen)
        steps.append(seen.steps)
    assert len(steps[0]) == 2
    for (a, _), (b, _) in zip(*steps, strict=True):
        assert distance(a, b) < 1e-5
        assert all(float(g.norm()) > 0 for g in a.values())


def test_bf16_passes(base: str) -> None:
    """Weights that are cast once a pass take their adapters with them."""
    exact, half = stirred(with_adapters(base)), stirred(with_adapters(base, compute_dtype="bfloat16"))
    with torch.no_grad():
        a, b = exact(X, T, TEXT), half(X, T, TEXT)
    assert 0 < float((a - b).norm() / a.norm()) < 3e-2
    half.checkpointing = True
    half(X, T, TEXT).square().mean().backward()
    assert all((p.grad is not None) == is_adapter(n) for n, p in half.named_parameters())


def test_a_run_folder_gives_its_student_without_adapters(base: str, tmp_path: Path) -> None:
    """As generate, evaluate and compare load it: what the run wrote is merged already."""
    net = stirred(with_adapters(base))
    save_weights(net, tmp_path / "student.safetensors")
    codec = {"class_path": "adastate.encoders.TinyCodec", "init_args": {"weights": None, "channels": SIZE.channels}}
    width = {"tokens": SIZE.text_tokens, "width": SIZE.text_width}
    student = {
        "size": asdict(SIZE), "codec": codec, "text": {"class_path": "adastate.encoders.TinyText", "init_args": width},
        "stream": {"chunk_frames": 3, "denoising_steps": [1000, 500]}, "latent_size": list(GRID),
        "rollout_frames": 6, "weights": "gone",
        "lora": {"rank": 4, "alpha": 6.0},
    }  # fmt: skip
    config = {
        "model": {"init_args": {"student": {"class_path": "adastate.training.student.Student", "init_args": student}}}
    }
    (tmp_path / "distill").mkdir()
    (tmp_path / "distill" / "config.yaml").write_text(json.dumps(config, default=list))
    found = load_student(tmp_path)
    assert not adapted(found.net) and not adapted(found.ema.net)
    for name, tensor in fold(net, net.state_dict()).items():
        assert torch.allclose(found.ema.net.state_dict()[name], tensor, atol=1e-6), name


def test_a_plan_is_not_made_of_adapters() -> None:
    names = ("base", "sizes/wan_1_3b", "stages/distill", "recipes/distill_lora")
    config = compose([ROOT / "conf" / f"{name}.yaml" for name in names])
    with pytest.raises(
        ConfigError, match="the student is trained through adapters, and only full training can be planned"
    ):
        configured.configured_run(config)


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rank": 0}, "lora rank 0: .* at least 1"),
        ({"alpha": 0.0}, "lora alpha 0.0"),
        ({"dropout": 1.0}, r"lora dropout 1.0: .* \[0, 1\)"),
        ({"targets": ()}, "lora targets are empty"),
    ],
)
def test_impossible_settings(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Lora(**{"rank": 4, **change})


def test_what_cannot_be_adapted(base: str) -> None:
    with pytest.raises(ValueError, match="lora needs a network with weights from a file, but none are given"):
        Critic(SIZE, lora=LORA)
    with pytest.raises(ValueError, match="replay runs passes again, in which lora's dropout would draw otherwise"):
        tiny_distill(base, lora=Lora(4, dropout=0.1), replay=True)
    for target in ("query", "norm_q", "patch_embedding"):
        with pytest.raises(
            ValueError, match=f"lora target '{target}' matches the end of no linear layer's name; available are .*q"
        ):
            with_adapters(base, Lora(4, targets=(target,)))


# ---- several processes


@pytest.mark.slow
def test_adapters_learn_the_same_under_every_strategy(base: str, tmp_path: Path) -> None:
    """Two processes with each strategy against one: two iterations, and the average with its base."""
    kinds = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
    port = free_port()
    env = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.lora_worker", str(rank), "2", str(tmp_path), *kinds],
            env={**env, "LOCAL_RANK": str(rank)}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=600)[0][-3000:] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(told)
    from tests.support.lora_worker import RESUMED, run

    one = run("ddp", 1, Path(base))
    assert {len(one[part]) for part in ("student", "critic")} == {40} and not any(map(is_adapter, one["average"]))
    resumed = [kind for kind in kinds if kind in RESUMED]
    for rank in (0, 1):
        runs = torch.load(tmp_path / f"rank{rank}.pt")
        assert set(runs) == {*kinds, *(f"{kind} resumed" for kind in resumed)}
        for kind, found in runs.items():
            for part, weights in found.items():
                assert weights.keys() == one[part].keys(), (kind, part)
                assert max(float((w - one[part][k]).abs().max()) for k, w in weights.items()) < 1e-5, (kind, part)
    for kind in resumed:
        saved = torch.load(tmp_path / f"{kind}.saved.pt")
        found = open_weights(tmp_path / f"{kind}.ckpt", base=base, lora_alpha=6.0).require()
        assert found.report.key == "student.ema.net"
        assert all(torch.allclose(found.entries[k].read(), v, atol=1e-5) for k, v in saved.items()), kind
    for kind in kinds:
        other = random_net(seed=7)
        load_weights(other, str(tmp_path / f"{kind}.safetensors"))
        assert all(torch.allclose(v, one["average"][k], atol=1e-5) for k, v in other.state_dict().items()), kind
