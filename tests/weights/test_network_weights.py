"""One network out of whatever holds it, exactly, or a sentence that says what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.weights import WeightsError, open_weights, save_weights
from adastate.weights import geometry as geo
from tests.support.rig import Prompts, fit, tiny_distill, tiny_student
from tests.support.tiny import SIZE, random_net
from tests.support.weights_rig import diffusers_names, folder, prefixed, same, state, wrapped


def put(path: Path, content: Any) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model.", "module.model."])
def test_wan_s_names_behind_any_prefix(tmp_path: Path, net: DiT, suffix: str, prefix: str) -> None:
    found = open_weights(put(tmp_path / f"x{suffix}", prefixed(state(net), prefix)), heads=4).require()
    same(found, net)
    assert found.report.prefix == prefix.replace("module.", "")
    assert found.report.origin == ("a released student" if prefix else "Wan2.1's names")


@pytest.mark.parametrize("key", ["generator", "generator_ema", "model", "state_dict", "critic"])
def test_one_network_under_a_key(tmp_path: Path, net: DiT, key: str) -> None:
    found = open_weights(put(tmp_path / "x.pt", {key: wrapped(state(net)), "step": 7, "optimizer": [torch.ones(1)]}))
    same(found, net)
    assert found.report.key == (key if key != "state_dict" else "model")
    assert found.report.fit.whole and found.report.fit.matched == len(net.state_dict())


def test_the_average_is_preferred_and_another_is_chosen(tmp_path: Path, net: DiT) -> None:
    nets = {"generator": random_net(seed=1), "generator_ema": net, "critic": random_net(seed=3)}
    path = put(tmp_path / "x.pt", {key: prefixed(state(n), "model.") for key, n in nets.items()})
    for key in (None, *nets):
        found = open_weights(path, key)
        same(found, nets[key or "generator_ema"])
        assert found.report.key == (key or "generator_ema")
        assert len(found.report.beside) == 2
    with pytest.raises(WeightsError, match="no network 'student'; it holds generator, generator_ema, critic"):
        open_weights(path, "student")


def test_without_an_average_the_critic_is_left_alone(tmp_path: Path, net: DiT) -> None:
    both = {"critic": wrapped(state(random_net(seed=3))), "generator": wrapped(state(net))}
    same(open_weights(put(tmp_path / "x.pt", both)), net)


def test_several_that_are_alike_must_be_chosen_from(tmp_path: Path, net: DiT) -> None:
    path = put(tmp_path / "x.pt", {"high": state(net), "low": state(random_net(seed=1))})
    with pytest.raises(WeightsError, match="several networks, high, low; choose one with --key"):
        open_weights(path)
    same(open_weights(path, "high"), net)


def test_the_state_of_an_optimiser_is_no_network(tmp_path: Path, net: DiT) -> None:
    moments = {name: {"exp_avg": torch.ones(1)} for name in prefixed(state(net), "model.")}
    content = {"generator": prefixed(state(net), "model."), "generator_optimizer": {"state": moments}}
    same(open_weights(put(tmp_path / "x.pt", content)), net)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("pipeline", [True, False])
def test_diffusers_layout(tmp_path: Path, net: DiT, shards: int, pipeline: bool) -> None:
    at = tmp_path / "transformer" if pipeline else tmp_path
    folder(at, diffusers_names(state(net)), geo.diffusers_config(SIZE), shards)
    found = open_weights(tmp_path).require()
    same(found, net)
    assert found.report.origin == "diffusers' layout"
    assert geo.size_of(found.report.geometry).heads == 4 and found.report.heads_from == geo.SAID


@pytest.mark.parametrize("shards", [1, 2])
def test_wan_s_folder(tmp_path: Path, net: DiT, shards: int) -> None:
    found = open_weights(folder(tmp_path, state(net), geo.wan_config(SIZE), shards)).require()
    same(found, net)
    assert geo.size_of(found.report.geometry) == SIZE


def test_a_config_of_another_network_is_not_used_and_told(tmp_path: Path, net: DiT) -> None:
    found = open_weights(folder(tmp_path, state(net), {**geo.wan_config(SIZE), "num_layers": 3, "num_heads": 8}))
    assert found.report.notes == ("config.json beside it describes another network (layers 3, not 2) and is not used",)
    assert "heads" not in found.report.geometry


# ---- our own checkpoints


def test_a_distillation_checkpoint(tmp_path: Path) -> None:
    module = tiny_distill()
    with torch.no_grad():
        for p in module.student.ema.net.parameters():
            p.add_(0.5)
    path = checkpoint_of(module, tmp_path)
    found = open_weights(path).require()
    same(found, module.student.ema.net)
    assert found.report.origin == "a Lightning checkpoint" and found.report.key == "student.ema.net"
    same(open_weights(path, "student.net"), module.student.net)
    same(open_weights(path, "critic.net"), module.critic.net)
    with pytest.raises(WeightsError, match="has no network 'teacher'"):
        open_weights(path, "teacher")


def test_a_student_checkpoint(tmp_path: Path) -> None:
    module = tiny_student()
    with torch.no_grad():
        for p in module.ema.net.parameters():
            p.add_(0.5)
    path = checkpoint_of(module, tmp_path)
    same(open_weights(path), module.ema.net)
    same(open_weights(path, "net"), module.net)


def checkpoint_of(module: Any, folder: Path) -> Path:
    """As the Trainer writes it: weights, optimisers, loops and callbacks."""
    import lightning.pytorch as pl

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    module.trainer = trainer
    path = folder / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_of_a_run_is_read_without_running_anything(tmp_path: Path) -> None:
    """With the states of optimisers and callbacks that training puts in."""
    module = tiny_distill()
    trainer = fit(module, Prompts())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    same(open_weights(tmp_path / "last.ckpt").require(), module.student.ema.net)


# ---- what is refused


def test_an_unknown_origin_lists_what_it_holds_and_what_was_looked_for(tmp_path: Path) -> None:
    alien = {f"blocks.{i}.attn.q.weight": torch.ones(1) for i in range(4)} | {"token_embedding.weight": torch.ones(1)}
    with pytest.raises(WeightsError) as error:
        open_weights(put(tmp_path / "x.pth", alien))
    for part in (
        "x.pth is of unknown origin: it holds blocks.*.attn.q.weight (4), token_embedding.weight;",
        "blocks.N.self_attn.q (Wan's names) or blocks.N.attn1.to_q (diffusers')",
        "LoRA",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)]])
def test_no_tensor_at_all(tmp_path: Path, content: Any) -> None:
    with pytest.raises(WeightsError, match="unknown origin: it holds no tensor at all"):
        open_weights(put(tmp_path / "x.pt", content))


@pytest.mark.parametrize(
    "name",
    [
        "img_emb.proj.1.weight",
        "blocks.0.cross_attn.k_img.weight",
        "condition_embedder.image_embedder.norm1.weight",
        "blocks.0.attn2.add_k_proj.weight",
    ],
)
def test_image_to_video_is_refused(tmp_path: Path, net: DiT, name: str) -> None:
    theirs = "attn2" in name or "embedder" in name
    weights = (diffusers_names if theirs else dict)(state(net)) | {name: torch.ones(2)}
    with pytest.raises(WeightsError, match=r"image-to-video network \(it has .*\); .* text-to-video"):
        open_weights(put(tmp_path / "x.safetensors", weights))


def test_image_to_video_by_its_channels(tmp_path: Path, net: DiT) -> None:
    weights = state(net)
    weights["patch_embedding.weight"] = torch.ones(64, 9, 1, 2, 2)
    with pytest.raises(WeightsError, match="it takes 9 channels and makes 4"):
        open_weights(put(tmp_path / "x.safetensors", weights))


def test_what_is_amiss_is_counted_and_named(tmp_path: Path, net: DiT) -> None:
    weights = prefixed(state(net), "model.")
    weights["model.extra.weight"] = weights.pop("model.blocks.1.ffn.2.bias")
    weights["model.norm.weight"] = torch.ones(1)
    weights["model.blocks.0.norm3.bias"] = torch.ones(3)
    found = open_weights(put(tmp_path / "x.pt", {"generator": weights}))
    assert found.report.fit.missing == ("blocks.1.ffn.2.bias",)
    assert found.report.fit.unexpected == ("extra.weight", "norm.weight")
    assert found.report.fit.wrong == ("blocks.0.norm3.bias (3,) in the file, (64,) here",)
    with pytest.raises(WeightsError, match=r"1 of another shape .* 1 missing .*ffn\.2\.bias.* 2 unexpected \(extra"):
        found.require()


def test_a_whole_layer_short(tmp_path: Path, net: DiT) -> None:
    weights = {name: t for name, t in state(random_net(replace(SIZE, layers=3))).items() if "blocks.1." not in name}
    missing = open_weights(put(tmp_path / "x.pt", weights)).report.fit.missing
    assert list(missing) == sorted(name for name in state(net) if name.startswith("blocks.1."))


def test_what_tells_the_size_is_missing(tmp_path: Path, net: DiT) -> None:
    weights = state(net)
    del weights["patch_embedding.weight"]
    with pytest.raises(WeightsError, match=r"does not give its size: .*1 missing \(patch_embedding.weight\)"):
        open_weights(put(tmp_path / "x.pt", weights)).require()


def test_two_weights_of_one_name(tmp_path: Path, net: DiT) -> None:
    weights = state(net) | {"module.head.modulation": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"holds head.modulation twice"):
        open_weights(put(tmp_path / "x.pt", weights))


@pytest.mark.parametrize("header", ['{"width": "x"}', "[", "3", '{"width": 64, "layers": 1000000}'])
def test_a_header_that_makes_no_sense(tmp_path: Path, net: DiT, header: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(state(net), path, metadata={"size": header})
    with pytest.raises(WeightsError, match=r"header whose size cannot be read|these weights"):
        open_weights(path)


def test_tensors_are_read_when_asked_for(tmp_path: Path, net: DiT) -> None:
    """14 billion weights are inspected without reading one."""
    path = put(tmp_path / "x.safetensors", state(net))
    found = open_weights(path)
    assert found.report.parameters == sum(p.numel() for p in net.parameters())
    assert found.report.dtypes == {"float32": len(found.entries)}


def test_a_diffusers_folder_of_ti2v_of_another_size_is_named(tmp_path: Path) -> None:
    size = Size(width=256, heads=2, layers=1, ffn=64, channels=48, text_width=4096, backbone="wan22")
    net = random_net(size)
    folder(tmp_path / "ti2v" / "transformer", diffusers_names(state(net)), geo.diffusers_config(size))
    report = open_weights(tmp_path / "ti2v").require().report
    assert report.geometry["backbone"] == "wan22"
    assert any(note.startswith("48 latent channels are those of Wan2.2 TI2V, so") for note in report.notes)
    save_weights(net, tmp_path / "own.safetensors")
    assert open_weights(tmp_path / "own.safetensors").report.notes == (), "a file of our own says what it is"
