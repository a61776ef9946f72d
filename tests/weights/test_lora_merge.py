"""LoRA: base + B A scale, and nothing silently."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from adastate.models.wan import DiT
from adastate.weights import WeightsError, open_weights
from adastate.weights.key_maps import to_diffusers
from tests.support.weights_rig import State, lora, peft, prefixed, state


@pytest.fixture
def base(tmp_path: Path, net: DiT) -> Path:
    path = tmp_path / "base.pt"
    torch.save({"generator": prefixed(state(net), "model.")}, path)
    return path


def put(tmp_path: Path, content: dict[str, object]) -> Path:
    torch.save(content, tmp_path / "lora.pt")
    return tmp_path / "lora.pt"


def expected(net: DiT, factors: dict[str, tuple[Tensor, Tensor]], scale: float) -> State:
    out = state(net)
    for module, (a, b) in factors.items():
        out[f"{module}.weight"] = out[f"{module}.weight"] + b @ a * scale
    return out


def check(path: Path, base: Path | None, want: State, alpha: float | None = None) -> str:
    found = open_weights(path, base=base, lora_alpha=alpha).require()
    assert found.entries.keys() == want.keys()
    for name, entry in found.entries.items():
        assert torch.equal(entry.read(), want[name]), name
    return found.report.notes[-1]


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (3.0, 1.0), (6.0, 2.0)])
@pytest.mark.parametrize(
    "prefix", ["base_model.model.", "base_model.model.model.", "base_model.model._fsdp_wrapped_module."]
)
@pytest.mark.parametrize("adapter", ["", "default."])
def test_longlive_s_is_merged_exactly(
    tmp_path: Path, net: DiT, base: Path, alpha: float | None, scale: float, prefix: str, adapter: str
) -> None:
    factors = lora(net)
    assert len(factors) == 2 * 10, "eight projections and two of the feed-forward in either layer"
    path = put(tmp_path, {"generator_lora": peft(factors, prefix, adapter), "step": 3})
    note = check(path, base, expected(net, factors, scale), alpha)
    assert f"LoRA of 20 layers merged: rank 3, alpha {alpha or 3:g}, scale {scale:g}" in note
    assert ("assumed to equal the rank" in note) == (alpha is None)


def test_the_report_names_both(tmp_path: Path, net: DiT, base: Path) -> None:
    path = put(tmp_path, {"generator_lora": peft(lora(net)), "critic_lora": peft(lora(net, seed=9))})
    report = open_weights(path, base=base).report
    assert report.key == "generator_lora" and report.origin == f"LoRA over {base} (a released student)"
    assert report.beside == ("critic_lora (40)",)
    assert report.fit.whole and report.source == str(path)


@pytest.mark.parametrize(
    ("asked", "scale", "said"),
    [
        (None, 0.5, "alpha 1.5, scale 0.5 (alpha of the file's tensors)"),
        (6.0, 2.0, "alpha 6, scale 2 (alpha as asked for)"),
    ],
)
def test_diffusers_names_and_the_file_s_own_alpha(
    tmp_path: Path, net: DiT, base: Path, asked: float | None, scale: float, said: str
) -> None:
    """Which holds unless another is asked for."""
    factors = lora(net)
    named: dict[str, object] = {}
    for module, (a, b) in factors.items():
        there = f"transformer.{to_diffusers(module)}"
        named |= {f"{there}.lora_down.weight": a, f"{there}.lora_up.weight": b, f"{there}.alpha": torch.tensor(1.5)}
    assert said in check(put(tmp_path, named), base, expected(net, factors, scale), asked)


def test_a_lora_within_its_base(tmp_path: Path, net: DiT) -> None:
    """As PEFT saves the whole model: the base layers beside the factors."""
    factors = lora(net)
    whole: State = {}
    for name, tensor in state(net).items():
        module = name.rsplit(".", 1)[0]
        name = f"{module}.base_layer.{name.rsplit('.', 1)[1]}" if module in factors else name
        whole[f"base_model.model.{name}"] = tensor
    check(put(tmp_path, {**whole, **peft(factors)}), None, expected(net, factors, 1.0))


def test_half_precision_factors_are_merged_in_float32(tmp_path: Path, net: DiT, base: Path) -> None:
    factors = {module: (a.bfloat16(), b.bfloat16()) for module, (a, b) in lora(net).items()}
    want = expected(net, {module: (a.float(), b.float()) for module, (a, b) in factors.items()}, 1.0)
    check(put(tmp_path, {"generator_lora": peft(factors)}), base, want)


def test_a_lora_without_base_is_told(tmp_path: Path, net: DiT) -> None:
    found = open_weights(put(tmp_path, {"generator_lora": peft(lora(net))}))
    assert found.report.origin == "LoRA, a released student"
    assert found.report.notes == ("rank 3, 20 layers; it needs the weights that it changes: --base",)
    with pytest.raises(WeightsError, match=r"lora.pt is a LoRA, not a network: give its base weights .* --base"):
        found.require()


def test_a_base_without_lora_is_told(base: Path) -> None:
    with pytest.raises(WeightsError, match="a whole network, not a LoRA: leave --base out"):
        open_weights(base, base=base)


def test_a_lora_is_no_base(tmp_path: Path, net: DiT) -> None:
    path = put(tmp_path, {"generator_lora": peft(lora(net))})
    with pytest.raises(WeightsError, match="is a LoRA, not a network"):
        open_weights(path, base=path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"blocks.7.ffn.0": (torch.ones(3, 64), torch.ones(96, 3))},
            "changes blocks.7.ffn.0, which its base has not",
        ),
        ({"blocks.0.ffn.0": (torch.ones(3, 32), torch.ones(96, 3))}, r"is \(96, 32\) of rank 3, .* base \(96, 64\)"),
        ({"blocks.0.ffn.0": (torch.ones(2, 64), torch.ones(96, 3))}, "of rank 2"),
    ],
)
def test_a_lora_of_another_base(
    tmp_path: Path, net: DiT, base: Path, change: dict[str, tuple[Tensor, Tensor]], sentence: str
) -> None:
    with pytest.raises(WeightsError, match=f"{sentence}.*give the base it was made for"):
        open_weights(put(tmp_path, {"generator_lora": peft({**lora(net), **change})}), base=base)


@pytest.mark.parametrize(
    "factors", [(torch.ones(3, 4, 1, 2, 2), torch.ones(64, 3)), (torch.ones(0, 64), torch.ones(96, 0))]
)
def test_factors_that_are_not_of_a_linear_layer(
    tmp_path: Path, net: DiT, base: Path, factors: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(WeightsError, match="only those of linear layers are known"):
        open_weights(put(tmp_path, {**peft({**lora(net), "blocks.0.ffn.0": factors})}), base=base)


def test_an_alpha_that_is_no_number(tmp_path: Path, net: DiT, base: Path) -> None:
    more = {"base_model.model.blocks.0.ffn.0.alpha": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"alpha of blocks.0.ffn.0 is \(2,\) and no number"):
        open_weights(put(tmp_path, {**peft(lora(net)), **more}), base=base)


def test_half_a_lora_and_more_than_one(tmp_path: Path, net: DiT, base: Path) -> None:
    factors = peft(lora(net))
    with pytest.raises(WeightsError, match=r"with more than low-rank factors: blocks.*ffn.*diff; merge it"):
        open_weights(put(tmp_path, {**factors, "base_model.model.blocks.0.ffn.0.diff": torch.ones(1)}), base=base)
    del factors["base_model.model.blocks.0.ffn.0.lora_A.weight"]
    with pytest.raises(WeightsError, match=r"LoRA of blocks.0.ffn.0 is a half: it has up"):
        open_weights(put(tmp_path, {**factors}), base=base)
