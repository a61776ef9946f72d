"""Alpha, wherever it stands: what is merged is W + scale B A, as peft and diffusers have it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adastate.models.adapters import fold
from adastate.models.lora import Lora, adapt
from adastate.models.wan import DiT
from adastate.weights import WeightsError, export, load_weights, open_weights, save_weights
from adastate.weights.key_maps import to_diffusers
from adastate.weights.lora_scale import scaling
from adastate.weights.sources import Stored
from tests.support.tiny import SIZE, normal, random_net
from tests.support.weights_rig import State, lora, peft, state

RANK, FFN, HEADER = 3, "blocks.1.ffn.0", "lora_adapter_metadata"
Factors = dict[str, tuple[Tensor, Tensor]]
Scale = Callable[[str], float]


@pytest.fixture
def base(tmp_path: Path, net: DiT) -> Path:
    path = tmp_path / "base" / "base.safetensors"
    path.parent.mkdir()
    save_weights(net, path)
    return path


def merged(net: DiT, factors: Factors, scale: Scale) -> State:
    """By the formula."""
    weights = state(net)
    for module, (down, up) in factors.items():
        weights[f"{module}.weight"] += scale(module) * (up @ down)
    return weights


def check(path: Path, base: Path, want: State, told: str, alpha: float | None = None) -> None:
    found = open_weights(path, base=base, lora_alpha=alpha).require()
    for name, tensor in want.items():
        torch.testing.assert_close(found.entries[name].read(), tensor, atol=1e-5, rtol=1e-5)
    assert told in found.report.notes[-1], found.report.notes


def pipeline(**config: Any) -> dict[str, str]:
    return {HEADER: json.dumps({f"transformer.{name}": value for name, value in config.items()})}


def underscored(factors: Factors, prefix: str, diffusers: bool = False) -> State:
    out = {}
    for module, (down, up) in factors.items():
        there = str(to_diffusers(module)) if diffusers else module
        stem = f"{prefix}{there.replace('.', '_')}"
        out |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    return out


def named(factors: Factors, prefix: str = "transformer.") -> State:
    return peft({str(to_diffusers(module)): pair for module, pair in factors.items()}, prefix)


# ---- every place, and which is heard first

WHOLE = {"r": RANK, "lora_alpha": 6}
RS = {**WHOLE, "use_rslora": True}
PATTERN = {**WHOLE, "alpha_pattern": {"ffn.net.0.proj": 1.5, r"^blocks\.0\.attn1\.to_q": 12}}
SPECIAL: dict[str, float] = {"blocks.0.ffn.0": 0.5, FFN: 0.5, "blocks.0.self_attn.q": 4.0}
PLACES: dict[str, tuple[dict[str, str], dict[str, Any] | None, Scale, str]] = {
    "diffusers' header": (pipeline(**WHOLE), None, lambda _: 2.0, "alpha 6, scale 2 (alpha of lora_adapter_metadata"),
    "of a network": ({HEADER: json.dumps(WHOLE)}, None, lambda _: 2.0, "scale 2 (alpha of lora_adapter_metadata"),
    "its rsLoRA": (pipeline(**RS), None, lambda _: 6 / math.sqrt(RANK), "scale 3.4641"),
    "its patterns": (pipeline(**PATTERN), None, lambda m: SPECIAL.get(m, 2.0), "rank 3, alpha 12, scale 4"),
    "kohya's header": ({"ss_network_alpha": "1.5", "ss_network_dim": "3"}, None, lambda _: 0.5, "ss_network_alpha in"),
    "the file beside": ({}, WHOLE, lambda _: 2.0, "(alpha of adapter_config.json)"),
    "rsLoRA beside": ({}, RS, lambda _: 6 / math.sqrt(RANK), "(alpha of adapter_config.json)"),
    "patterns beside": ({}, PATTERN, lambda m: SPECIAL.get(m, 2.0), "(alpha of adapter_config.json)"),
    "header and file": (pipeline(**WHOLE), {"r": RANK, "lora_alpha": 9}, lambda _: 2.0, "lora_adapter_metadata"),
    "both headers": ({"ss_network_alpha": "9"} | pipeline(**WHOLE), None, lambda _: 2.0, "lora_adapter_metadata"),
    "kohya and file": ({"ss_network_alpha": "6"}, {"lora_alpha": 9}, lambda _: 2.0, "ss_network_alpha"),
    "a header that tells nothing": ({"ss_network_alpha": "Dynamic"}, WHOLE, lambda _: 2.0, "adapter_config.json"),
    "another part's": (
        {HEADER: '{"text_encoder.lora_alpha": 9}'},
        None,
        lambda _: 1.0,
        "not found, assumed to equal the",
    ),
    "nowhere": (
        {},
        None,
        lambda _: 1.0,
        "rank 3, alpha 3, scale 1 (alpha not found, assumed to equal the rank; --lora-al",
    ),
}


@pytest.mark.parametrize(("header", "beside", "scale", "told"), PLACES.values(), ids=PLACES)
def test_alpha_is_found(
    tmp_path: Path, net: DiT, base: Path, header: dict[str, str], beside: dict[str, Any] | None, scale: Scale, told: str
) -> None:
    factors, path = lora(net), tmp_path / "adapter_model.safetensors"
    save_file(named(factors), path, metadata=header)
    if beside is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **beside}))
    check(path, base, merged(net, factors, scale), told)
    check(path, base, merged(net, factors, lambda _: 5.0), "alpha 15, scale 5 (alpha as asked for)", alpha=15)
    own = named(factors) | {f"transformer.{to_diffusers(m)}.alpha": torch.tensor(1.2) for m in factors}
    save_file(own, path, metadata=header)
    check(path, base, merged(net, factors, lambda _: 0.4), "alpha 1.2, scale 0.4 (alpha of the file's tensors)")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_"])
@pytest.mark.parametrize("diffusers", [False, True])
def test_kohya_s_names(tmp_path: Path, net: DiT, base: Path, prefix: str, diffusers: bool) -> None:
    factors = lora(net) | {"head.head": (normal(RANK, 64), normal(16, RANK, seed=2))}
    named, path = underscored(factors, prefix, diffusers), tmp_path / "x.safetensors"
    save_file(named, path, metadata={"ss_network_alpha": "6", "ss_network_dim": "3"})
    check(path, base, merged(net, factors, lambda _: 2.0), "LoRA of 21 layers merged: rank 3, alpha 6, scale 2")
    alphas = {name.replace("lora_up.weight", "alpha"): torch.tensor(1.5) for name in named if "lora_up" in name}
    save_file(named | alphas | {"lora_te1_layers_0_q.lora_down.weight": torch.ones(1)}, path)
    check(path, base, merged(net, factors, lambda _: 0.5), "scale 0.5 (alpha of the file's tensors)")
    assert open_weights(path, base=base).report.beside == ("lora_te1_layers_0_q.lora_down.weight",)


@pytest.mark.parametrize(
    ("stem", "module"),
    [("blocks_0_ffn_7", "blocks.0.ffn_7"), ("blocks_0_norm9", "blocks.0.norm9"), ("controlnet_1", "controlnet_1")],
)
def test_a_module_of_no_network_is_not_passed_over(
    tmp_path: Path, net: DiT, base: Path, stem: str, module: str
) -> None:
    more = {f"lora_unet_{stem}.lora_{kind}.weight": torch.ones(3, 3) for kind in ("down", "up")}
    save_file(underscored(lora(net), "lora_unet_") | more, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=f"the LoRA changes {module}, which its base has not"):
        open_weights(tmp_path / "x.safetensors", base=base)


def test_kohya_s_image_to_video_is_refused(tmp_path: Path, net: DiT, base: Path) -> None:
    pair = (torch.ones(3, 64), torch.ones(64, 3))
    save_file(underscored(lora(net) | {"blocks.0.cross_attn.k_img": pair}, "lora_unet_"), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"is an image-to-video network \(it has blocks.0.cross_attn.k_img"):
        open_weights(tmp_path / "x.safetensors", base=base)


# ---- as the libraries write it


class Holder(nn.Module):
    """What peft wraps; its prefix is then base_model.model.net."""

    def __init__(self, net: DiT) -> None:
        super().__init__()
        self.net = net


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_s_own_folder(tmp_path: Path, net: DiT, base: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, target_modules=["self_attn.q", "ffn.0", "head.head"],
        alpha_pattern={"blocks.1.ffn.0": 3, "^blocks.0.ffn.0": 9, "self_attn.q": 10}, rank_pattern={"ffn.0": 2},
        init_lora_weights=False,
    )  # fmt: skip
    wrapped = get_peft_model(Holder(random_net()), config)  # type: ignore[arg-type]
    wrapped.save_pretrained(tmp_path / "adapters")
    told = [open_weights(tmp_path / "adapters", base=base).report.notes[-1]]
    theirs = wrapped.merge_and_unload().net.state_dict()  # type: ignore[operator, union-attr]
    assert not torch.equal(theirs["head.head.weight"], net.state_dict()["head.head.weight"])
    check(tmp_path / "adapters", base, theirs, "(alpha of adapter_config.json)")
    assert [part in told[0] for part in ("rank 2, alpha 3,", "rank 2, alpha 6,", "rank 4, alpha 10,")] == [True] * 3


@torch.no_grad()
def test_diffusers_own_header(tmp_path: Path, net: DiT, base: Path) -> None:
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig

    export(open_weights(base), tmp_path / "out", "diffusers")
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "out")
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "proj"], init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path / "lora", adapter_name="default")
    (file,) = (tmp_path / "lora").iterdir()
    theirs.fuse_lora()
    theirs.unload_lora()
    want = {name: theirs.state_dict()[str(to_diffusers(name))] for name in net.state_dict()}
    check(file, base, want, "rank 4, alpha 7, scale 1.75 (alpha of lora_adapter_metadata in its header)")


@torch.no_grad()
def test_our_own_adapters_come_back_through_the_header(tmp_path: Path, base: Path) -> None:
    """Ours, diffusers', and those of a reader that adds B A and looks nowhere: all the same."""
    from diffusers import WanTransformer3DModel

    net = DiT(SIZE)
    load_weights(net, str(base))
    adapt(net, Lora(rank=4, alpha=6.0), str(base))
    for i, (name, p) in enumerate(net.named_parameters()):
        if ".lora_B." in name:
            p.copy_(0.1 * normal(*p.shape, seed=i))
    want = fold(net, net.state_dict())
    save_weights(net, tmp_path / "x.safetensors")
    file = tmp_path / "x.lora.safetensors"
    check(file, base, want, "rank 4, alpha 4, scale 1 (alpha of lora_adapter_metadata in its header)")
    tensors = load_file(file)
    for name in (n for n in tensors if ".lora_A." in n):
        module = name.split(".lora_A.")[0]
        plain = state(random_net())
        ours = next(k for k in want if f"transformer.{to_diffusers(k)}" == f"{module}.weight")
        delta = tensors[f"{module}.lora_B.weight"] @ tensors[name]
        torch.testing.assert_close(plain[ours] + delta, want[ours], atol=1e-5, rtol=1e-5)
    export(open_weights(base), tmp_path / "out", "diffusers")
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "out")
    theirs.load_lora_adapter(file.parent, weight_name=file.name, prefix="transformer")
    theirs.fuse_lora()
    theirs.unload_lora()
    for name, tensor in want.items():
        torch.testing.assert_close(theirs.state_dict()[str(to_diffusers(name))], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("student.ema.net.", (8.0, 2.0)), ("critic.net.", (4.0, 1.0)), ("net.", (2.0, 0.5)), ("teacher.net.", None)],
)
def test_a_sharded_checkpoint_s_alpha_is_the_run_s(tmp_path: Path, prefix: str, expected: Any) -> None:
    parts = {
        "student": {"init_args": {"lora": {"rank": 4, "alpha": 8}}},
        "critic": {"init_args": {"lora": {"rank": 4, "alpha": None}}},
        "teacher": {"init_args": {"lora": None}},
        "lora": {"rank": 4, "alpha": 2.0},
    }
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"init_args": parts}}))
    found = scaling(Stored(tmp_path, {}, {}, {}), prefix, None)
    if expected is None:
        assert found.told is None
    else:
        assert found.of("blocks.0.ffn.0", 4, None) == (*expected, "of config.yaml in its folder")
        with pytest.raises(WeightsError, match=r"has rank 8, and config\.yaml in its folder says 4"):
            found.of("blocks.0.ffn.0", 8, None)
    (tmp_path / "config.yaml").write_text("model: 3")
    assert scaling(Stored(tmp_path, {}, {}, {}), prefix, None).told is None, "a config of something else"


# ---- what is refused


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("lora_unet_blocks_0_ffn_0.dora_scale", "DoRA"),
        ("base_model.model.blocks.0.ffn.0.lora_magnitude_vector.weight", "DoRA"),
        ("lycoris_blocks_0_ffn_0.hada_w1_a", "LoHa"),
        ("diffusion_model.blocks.0.ffn.0.lokr_w1", "LoKr"),
        ("lora_unet_blocks_0_ffn_0.oft_blocks", "OFT"),
    ],
)
def test_adapters_that_are_no_lora_are_refused_by_name(
    tmp_path: Path, net: DiT, base: Path, tensor: str, kind: str
) -> None:
    for others in ({}, peft(lora(net))):
        save_file({tensor: torch.ones(2), **others}, tmp_path / "x.safetensors")
        with pytest.raises(WeightsError, match=f"is of a {kind} adapter .*only LoRA is known here: merge it"):
            open_weights(tmp_path / "x.safetensors", base=base)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "LOKR"}, "adapter_config.json is of a LOKR adapter"),
        ({"use_dora": True, "lora_alpha": 3}, "is of a DoRA adapter"),
        ({"init_lora_weights": "pissa_niter_4", "lora_alpha": 3}, "which changed the weights below the adapters, too"),
        ({"init_lora_weights": "lora_ga", "lora_alpha": 3}, "which changed the weights below the adapters, too"),
        ({"kasa_config": {"beta": 1}, "lora_alpha": 3}, "is of a KaSA adapter"),
        ({"alora_invocation_tokens": [1], "lora_alpha": 3}, "is of a aLoRA adapter"),
        ({"lora_alpha": 6, "r": 8}, "has rank 3, and adapter_config.json says 8: it belongs to another file"),
        ({"lora_alpha": 6, "r": 3, "rank_pattern": {"ffn.0": 4}}, "LoRA of blocks.0.ffn.0 has rank 3, and .* says 4"),
        ({"lora_alpha": "much"}, "adapter_config.json cannot be read"),
        ({"lora_alpha": 6, "alpha_pattern": {"(": 3}}, r"the pattern '\(' of a LoRA cannot be read"),
    ],
)
def test_a_config_that_is_not_of_this_lora(
    tmp_path: Path, net: DiT, base: Path, config: dict[str, Any], sentence: str
) -> None:
    save_file(peft(lora(net)), tmp_path / "x.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=sentence):
        open_weights(tmp_path / "x.safetensors", base=base)


def test_headers_that_make_no_sense(tmp_path: Path, net: DiT, base: Path) -> None:
    path = tmp_path / "x.safetensors"
    for text in ("{", "3"):
        save_file(peft(lora(net)), path, metadata={HEADER: text})
        with pytest.raises(WeightsError, match="a header whose lora_adapter_metadata cannot be read"):
            open_weights(path, base=base)
    save_file(peft(lora(net)), path, metadata={"ss_network_alpha": "4", "ss_network_dim": "16"})
    with pytest.raises(WeightsError, match=r"has rank 3, and ss_network_alpha in its header says 16: .*--lora-alpha"):
        open_weights(path, base=base)
    open_weights(path, base=base, lora_alpha=3).require()
