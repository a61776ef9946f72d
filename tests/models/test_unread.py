"""Networks whose weights are read when it is known where they go."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from adastate.models import unread
from adastate.models.wan import DiT
from adastate.optim.ema import EMA
from adastate.training.distill import Distill
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.weights import WeightsError, load_network, save_weights
from tests.support.tiny import SIZE, random_net


def same(net: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def kept(tmp_path: Path) -> DiT:
    """The network of `net.safetensors`."""
    net = random_net()
    save_weights(net, tmp_path / "net.safetensors")
    return net


def later(folder: Path) -> DiT:
    with unread.reading_later():
        net = load_network(SIZE, str(folder / "net.safetensors"), checkpointing=True)
    assert isinstance(net, DiT)
    return net


def test_it_takes_no_memory_until_it_is_brought_and_is_the_same_then(kept: DiT, tmp_path: Path) -> None:
    net = later(tmp_path)
    assert all(p.is_meta for p in net.parameters())
    frozen = later(tmp_path).requires_grad_(False)
    for brought in (net, frozen):
        unread.bring(brought, "cpu")
        assert same(brought, kept)
    assert all(p.requires_grad for p in net.parameters()) and not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        net.head.head.weight.add_(1)
    unread.bring(net, "cpu")
    assert not same(net, kept), "a network that has its weights is left alone"


def test_it_is_brought_in_the_dtype_asked_for(kept: DiT, tmp_path: Path) -> None:
    net = later(tmp_path)
    unread.bring(net, "cpu", torch.bfloat16)
    assert net.weight_dtype is torch.bfloat16 and same(net, kept.to(torch.bfloat16))


def test_its_average_is_read_as_well(kept: DiT, tmp_path: Path) -> None:
    module = nn.Module()
    module.net = later(tmp_path)
    module.ema = EMA(module.net, 0.9)
    assert torch.equal(unread.whole_weight(module.ema.net, "head.head.weight"), kept.head.head.weight)
    unread.bring_all(module, "cpu")
    assert same(module.net, kept) and same(module.ema.net, kept)
    assert module.net.head.head.weight.data_ptr() != module.ema.net.head.head.weight.data_ptr()
    assert torch.equal(unread.whole_weight(module.ema.net, "head.head.weight"), kept.head.head.weight)


def test_one_whose_weights_others_hold_has_none(kept: DiT, tmp_path: Path) -> None:
    net = later(tmp_path)
    unread.give_up(net)
    assert sum(p.numel() for p in net.to("cpu").parameters()) == 0
    unread.give_up(kept)
    assert sum(p.numel() for p in kept.parameters()) > 0, "only what is unread"


def test_the_file_is_looked_through_at_once_and_is_the_one_that_is_read(kept: DiT, tmp_path: Path) -> None:
    with unread.reading_later(), pytest.raises(WeightsError, match="another size: width 64 in the file, 32 here"):
        load_network(SIZE.__class__(**{**vars(SIZE), "width": 32}), str(tmp_path / "net.safetensors"))
    net = later(tmp_path)
    save_weights(random_net(seed=7), tmp_path / "net.safetensors")
    unread.bring(net, "cpu")
    assert same(net, kept), "not what has taken its place since"


def test_elsewhere_networks_are_read_at_once(kept: DiT, tmp_path: Path) -> None:
    later(tmp_path)
    assert same(load_network(SIZE, str(tmp_path / "net.safetensors")), kept)
    with unread.reading_later():
        assert not any(p.is_meta for p in load_network(SIZE).parameters()), "a network without a file"


def test_a_run_that_ends_before_it_has_read_its_networks_ends_as_it_would(kept: DiT, tmp_path: Path) -> None:
    class Run(unread.MayEndUnread, pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = later(tmp_path)

    run = Run()
    assert run.cpu() is run and all(p.is_meta for p in run.parameters())
    unread.bring(run.net, "cpu")
    assert run.cpu() is run and same(run.net, kept)
    for module in (Teacher, Student, Distill):
        assert issubclass(module, unread.MayEndUnread)
