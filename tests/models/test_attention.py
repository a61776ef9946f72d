"""Attention: the formula, the frame mask, and the two ways to obey it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.models import attention
from adastate.models.attention import attend
from adastate.models.masks import block_causal, teacher_forcing
from adastate.types import FrameMask
from tests.support.tiny import normal

L = 3  # tokens a frame


def qkv(frames: int, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    keys = frames if keys is None else keys
    return normal(2, frames * L, 2, 8, seed=1), normal(2, keys * L, 2, 8, seed=2), normal(2, keys * L, 2, 8, seed=3)


def by_hand(q: Tensor, k: Tensor, v: Tensor, visible: FrameMask | None) -> Tensor:
    """Softmax over the visible keys, token by token in float64."""
    out = torch.zeros_like(q, dtype=torch.float64)
    for i in range(q.shape[1]):
        seen = [j for j in range(k.shape[1]) if visible is None or visible[i // L][j // L]]
        score = torch.einsum("bnk,bjnk->bnj", q[:, i].double(), k[:, seen].double()) / q.shape[-1] ** 0.5
        out[:, i] = torch.einsum("bnj,bjnk->bnk", score.softmax(-1), v[:, seen].double())
    return out


STREAMING: FrameMask = ((True,) * 6, (False, True, True, True, True, True), (False, True, True, True, True, True))
MASKS = {
    "causal": block_causal(6, 2),
    "window": block_causal(6, 2, 3),
    "teacher forcing": teacher_forcing(4, 2),
    "streaming": STREAMING,
    "first alone": block_causal(5, 2, first=1),
    "all": ((True,) * 3,) * 3,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("limit", [attention.DENSE_LIMIT, 0], ids=["dense", "groups"])
def test_a_masked_query_sees_its_row(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "DENSE_LIMIT", limit)
    mask = MASKS[name]
    q, k, v = qkv(len(mask), len(mask[0]))
    got = attend(q, k, v, mask, L)
    assert torch.allclose(got.double(), by_hand(q, k, v, mask), atol=1e-6)
    if name != "all":
        assert not torch.allclose(got.double(), by_hand(q, k, v, None), atol=1e-2), "the mask matters"


def test_without_a_mask_all_is_seen() -> None:
    q, k, v = qkv(2, 5)
    assert torch.allclose(attend(q, k, v).double(), by_hand(q, k, v, None), atol=1e-6)


@pytest.mark.parametrize("name", ["window", "teacher forcing", "streaming"])
def test_both_ways_have_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = MASKS[name]

    def gradients(limit: int) -> list[Tensor]:
        monkeypatch.setattr(attention, "DENSE_LIMIT", limit)
        parts = [x.requires_grad_() for x in qkv(len(mask), len(mask[0]))]
        attend(*parts, mask, L).square().sum().backward()
        return [x.grad for x in parts if x.grad is not None]

    dense, groups = gradients(2**21), gradients(0)
    assert len(dense) == 3
    for a, b in zip(dense, groups, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "window"])
def test_bf16_with_gradient_is_the_same_attention(name: str) -> None:
    """On a CPU it takes another path (spelled out), which must agree with the kernel's within bf16."""
    mask = MASKS[name]
    q, k, v = (x.bfloat16() for x in qkv(len(mask)))
    kernel = attend(q, k, v, mask, L)
    spelled = attend(q.requires_grad_(), k, v, mask, L)
    assert spelled.requires_grad and not kernel.requires_grad
    assert torch.allclose(spelled.float(), kernel.float(), atol=3e-2)
    assert torch.allclose(spelled.double(), by_hand(q, k, v, mask), atol=3e-2)


@pytest.mark.parametrize("keys", [2, 6], ids=["few keys", "many"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_gradients_of_bf16_are_those_of_float32_within_rounding(
    keys: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT_ROWS", 4 * L)
    mask = tuple(tuple(j <= i for j in range(keys)) for i in range(4)) if masked else None

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        parts = [x.to(dtype).requires_grad_() for x in qkv(4, keys)]
        return torch.autograd.grad(attend(*parts, mask, L), parts, normal(2, 4 * L, 2, 8, seed=4).to(dtype))

    for a, b in zip(gradients(torch.bfloat16), gradients(torch.float32), strict=True):
        assert (a.float() - b).norm() < 2e-2 * b.norm()


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    attention.use("sdpa")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", MASKS)
def test_flex_sees_what_the_mask_says(name: str) -> None:
    mask = MASKS[name]
    q, k, v = qkv(len(mask), len(mask[0]))
    assert attention.use("flex") == "attention: flex"
    got = attend(q, k, v, mask, L)
    assert torch.allclose(got.double(), by_hand(q, k, v, mask), atol=1e-5)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("flash_attn", "needs the package: pip install --no-build-isolation"),
        ("flash3", "needs the package flash-attn-3"),
        ("cudnn", "available are auto, sdpa, flash_attn, flash3, flash4 and flex"),
    ],
)
def test_what_is_not_there_is_told(backend: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    with pytest.raises(ValueError, match=message):
        attention.use(backend)
    q, k, v = qkv(2)
    assert torch.allclose(attend(q, k, v).double(), by_hand(q, k, v, None), atol=1e-5)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[torch.Size, bool]]]:
    """flash_attn as if it ran on this device; what it was asked for, and whether deterministically."""
    asked = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, deterministic: bool = False) -> Tensor:
        asked.append((q.shape, deterministic))
        return torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    made = SimpleNamespace(__version__="2", flash_attn_func=flash_attn_func)
    monkeypatch.setitem(sys.modules, "flash_attn", made)  # type: ignore[arg-type]
    monkeypatch.setattr(attention, "PACKAGE_DEVICE", "cpu")
    assert attention.use("flash_attn") == "attention: flash_attn 2"
    yield asked
    attention.use("sdpa")


def test_the_package_is_asked_where_nothing_is_masked_and_numbers_are_half(
    package: list[tuple[torch.Size, bool]],
) -> None:
    q, k, v = (x.bfloat16() for x in qkv(2))
    attend(q, k, v)
    attend(q, k, v, ((True, False), (True, True)), L)
    attend(q.float(), k.float(), v.float())
    assert package == [(q.shape, False)]


@pytest.mark.usefixtures("package")
def test_a_compiled_pass_does_not_import_the_package_on_its_way() -> None:
    torch._dynamo.reset()
    q, k, v = (x.bfloat16() for x in qkv(2))
    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attend(q, k, v))


def test_the_package_is_deterministic_where_torch_has_to_be(package: list[tuple[torch.Size, bool]]) -> None:
    q, k, v = (x.bfloat16() for x in qkv(2))
    try:
        torch.use_deterministic_algorithms(True)
        attend(q, k, v)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [deterministic for _, deterministic in package] == [True]


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("capability", "installed", "told", "taken"),
    [
        ((9, 0), ("FA3", "FA4"), "attention: flash3, the fastest", "FA3"),
        ((9, 0), ("FA4",), "attention: flash4, the fastest", "FA4"),
        ((9, 0), (), "attention: sdpa .this device also supports flash-attn-3 or flash-attn-4, not installed", None),
        ((10, 0), ("FA3", "FA4"), "attention: flash4", "FA4"),
        ((12, 0), ("FA3", "FA4"), "attention: sdpa$", None),
        ((8, 0), ("FA3", "FA4"), "attention: sdpa$", None),
        (None, ("FA3", "FA4"), "attention: sdpa$", None),
    ],
)
def test_the_fastest_kernels_that_a_device_has_are_chosen(
    capability: tuple[int, int] | None,
    installed: tuple[str, ...],
    told: str,
    taken: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    active: list[str] = []

    def activate(name: str) -> None:
        if name not in installed:
            raise ModuleNotFoundError(name)
        active.append(name)

    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", activate)
    monkeypatch.setattr(torch.nn.attention, "restore_flash_attention_impl", active.clear)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert re.match(told, attention.use("auto"))
    assert active == ([] if taken is None else [taken])
    attention.use("sdpa")
    assert not active, "and torch has its own back"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels need a CUDA device")
@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("backend", ["flash_attn", "flash3", "flash4"])
def test_flash_kernels_on_a_gpu(backend: Any) -> None:
    q, k, v = (x.cuda().bfloat16().repeat(1, 1, 1, 8) for x in qkv(2, 6))
    expected = attend(q, k, v).float()
    try:
        attention.use(backend)
    except ValueError as error:
        pytest.skip(str(error))
    assert (attend(q, k, v).float() - expected).norm() / expected.norm() < 2e-2


@torch.no_grad()
def test_bf16_on_a_cpu_by_rows_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.bfloat16() for x in qkv(4))
    whole = attend(q, k, v)
    monkeypatch.setattr(attention, "DENSE_LIMIT", 40)
    assert torch.allclose(attend(q, k, v), whole, atol=1e-2)
    assert torch.allclose(whole.double(), by_hand(q, k, v, None), atol=3e-2)
