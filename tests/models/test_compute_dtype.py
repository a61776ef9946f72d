"""A dtype that the device chooses is the one that it computes in quickly."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from adastate.models.compute_dtype import fast_dtype, named_dtype
from adastate.models.fsdp import shard
from adastate.models.wan import DiT
from adastate.models.wan.fused import Passes
from tests.support.tiny import SHAPE, SIZE, normal, random_net


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    fast_dtype.cache_clear()
    yield
    fast_dtype.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, **told: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(told), raising=False)


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16"])
def test_a_processor_with_instructions_for_bfloat16_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, instruction: str
) -> None:
    pretend(monkeypatch, **{instruction: True})
    assert named_dtype("auto", "cpu") is torch.bfloat16


def test_a_processor_without_them_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, avx2=True, avx512_f=True, avx512_bf16=False)
    assert named_dtype("auto", "cpu") is torch.float32


def test_a_gpu_is_asked_for_what_it_does_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert named_dtype("auto", "cuda") is torch.float32 and asked == [False]


def test_names_mean_themselves_and_none_is_none() -> None:
    assert named_dtype("float64", "cuda") is torch.float64 and named_dtype(None, "cpu") is None
    with pytest.raises(ValueError, match="'half4' is unknown: use auto, bfloat16"):
        random_net(compute_dtype="half4")


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_network_computes_as_its_device_would(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    pretend(monkeypatch, avx512_bf16=bfloat16)
    x, t, text = normal(1, 2, *SHAPE), torch.tensor([500.0]), normal(1, SIZE.text_tokens, SIZE.text_width, seed=3)
    flow = random_net(compute_dtype="auto")(x, t, text)
    for name in ("float32", "bfloat16"):
        assert torch.equal(flow, random_net(compute_dtype=name)(x, t, text)) == ((name == "bfloat16") == bfloat16)


def test_fp8_asks_for_bfloat16_where_the_device_was_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    net = random_net(compute_dtype="auto")
    assert Passes(net, fp8=True).dtype is torch.bfloat16 and Passes(net).dtype is torch.float32


@pytest.mark.parametrize("bfloat16", [True, False])
def test_weights_in_pieces_are_gathered_in_what_their_devices_compute_in(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    """Which the network cannot know yet: it is cut while it is on the meta device."""
    pretend(monkeypatch, avx512_bf16=bfloat16)
    with torch.device("meta"):
        net = DiT(SIZE, compute_dtype="auto")
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shard(net, init_device_mesh("cpu", (2,)))
    finally:
        torch.distributed.destroy_process_group()
    group = net.blocks[0]._get_fsdp_state()._fsdp_param_group  # type: ignore[operator]
    assert group.mp_policy.param_dtype == (torch.bfloat16 if bfloat16 else torch.float32)
