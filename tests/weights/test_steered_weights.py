"""Weights of networks that can be steered, in and out of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adastate import weights
from adastate.models.lora import Lora, adapt
from adastate.models.wan import DiT
from adastate.optim.ema import EMA
from tests.support.tiny import SIZE, normal, random_net
from tests.support.weights_rig import diffusers_names, folder, same, state, wrapped

STEERED = replace(SIZE, actions=3)


def test_they_come_back_from_our_own_file(tmp_path: Path) -> None:
    net, file = random_net(STEERED), tmp_path / "net.safetensors"
    weights.save_weights(net, file)
    assert weights.open_weights(file).report.geometry["actions"] == 3
    loaded = weights.load_network(STEERED, str(file))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in state(net).items())


@pytest.mark.parametrize("names", [lambda w: w, diffusers_names, wrapped])
def test_they_come_back_from_any_naming(names: Any, tmp_path: Path) -> None:
    net = random_net(STEERED)
    save_file(names(state(net)), tmp_path / "net.safetensors")
    found = weights.open_weights(tmp_path / "net.safetensors", heads=4).require()
    same(found, net)
    assert found.report.geometry["actions"] == 3


@pytest.mark.parametrize("layout", ["wan", "diffusers"])
def test_an_export_comes_back(layout: Any, tmp_path: Path) -> None:
    net, file = random_net(STEERED), tmp_path / "net.safetensors"
    weights.save_weights(net, file)
    weights.export(weights.open_weights(file), tmp_path / "out", layout)
    same(weights.open_weights(tmp_path / "out").require(), net)


def test_older_weights_begin_with_a_layer_of_zeros(tmp_path: Path) -> None:
    old, file = random_net(), tmp_path / "old.safetensors"
    weights.save_weights(old, file)
    net = random_net(STEERED)
    report = weights.load_weights(net, str(file))
    assert report.notes == ("steered by none of its 3 actions yet, whose layer the file has not: zeros",)
    assert not net.state_dict()["action_embedding.weight"].any()
    x, t, text = normal(1, 2, 4, 4, 6), torch.tensor([500.0]), normal(1, 4, 16)
    with torch.no_grad():
        assert torch.equal(net(x, t, text, actions=torch.ones(1, 2, 4)), old(x, t, text))
    made = weights.load_network(STEERED, str(file))
    assert not made.state_dict()["action_embedding.weight"].any(), "memory that nobody has written is no layer"


@pytest.mark.parametrize(("columns", "here"), [(0, "that cannot be steered"), (2, "of 2")])
def test_weights_of_other_actions_are_refused_in_a_sentence(columns: int, here: str, tmp_path: Path) -> None:
    weights.save_weights(random_net(STEERED), tmp_path / "net.safetensors")
    with pytest.raises(weights.WeightsError, match=rf"steered by 3 actions, this is one {here}: set actions: 3 in its"):
        weights.load_weights(random_net(replace(SIZE, actions=columns)), str(tmp_path / "net.safetensors"))


def test_no_other_weight_may_be_missing(tmp_path: Path) -> None:
    few = state(random_net())
    del few["head.head.bias"]
    folder(tmp_path / "few", few, None)
    with pytest.raises(weights.WeightsError, match=r"does not fit the network: .*head\.head\.bias"):
        weights.load_weights(random_net(STEERED), str(tmp_path / "few"))


def test_adapters_leave_the_layer_alone_or_learn_it(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain, flown = random_net(STEERED), torch.ones(1, 2, 4)
    x, t, text = normal(1, 2, 4, 4, 6), torch.tensor([500.0]), normal(1, 4, 16)
    for targets in (("q", "v"), ("q", "v", "action_embedding")):
        net = random_net(STEERED)
        adapt(net, Lora(2, targets=targets), "file")
        learnt = [n for n, p in net.named_parameters() if p.requires_grad and "action_embedding" in n]
        assert bool(learnt) == ("action_embedding" in targets)
        with torch.no_grad():
            assert torch.equal(net(x, t, text, actions=flown), plain(x, t, text, actions=flown))
            for p in net.parameters():
                if p.requires_grad:
                    p.normal_(std=0.3)
        weights.save_weights(net, tmp_path / "merged.safetensors")
        merged = weights.load_network(STEERED, str(tmp_path / "merged.safetensors"))
        with torch.no_grad():
            assert torch.allclose(merged(x, t, text, actions=flown), net(x, t, text, actions=flown), atol=1e-5)


def test_the_average_moves_the_layer_and_is_whole() -> None:
    net: DiT = random_net(STEERED)
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.action_embedding.weight += 1  # type: ignore[union-attr]
    ema.update(net)
    moved = ema.whole().state_dict()["action_embedding.weight"] - net.state_dict()["action_embedding.weight"]
    assert torch.allclose(moved, torch.full_like(moved, -0.5), atol=1e-6)
