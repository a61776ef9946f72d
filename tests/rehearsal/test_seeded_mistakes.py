"""Mistakes that end a run on a GPU, or make it crawl, planted one by one: each is named with its file and line."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adastate.config.command_line import read_command
from adastate.models.wan import dit
from adastate.rehearsal import device_memory
from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.rehearsal_verdict import RehearsalVerdict
from adastate.rehearsal.rehearse import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")]

FILES = ("conf/base.yaml", "conf/sizes/tiny.yaml", "conf/stages/teacher.yaml")
KEPT: list[Tensor] = []


def rehearsed(*words: str) -> RehearsalVerdict:
    command = [word for file in FILES for word in ("--config", file)]
    config, _ = read_command([*command, "--size.layers=3", "--training.batch=2", "--preview.every=0", *words])
    return rehearse(config, "h100")


def line_of(function: Callable[..., Any]) -> str:
    """Of the last line of a function in this file."""
    lines, first = inspect.getsourcelines(function)
    return f"tests/rehearsal/test_seeded_mistakes.py:{first + len(lines) - 1}: "


def left_on_the_host(x: Tensor) -> Any:
    return x + torch.zeros(x.shape[-1])


def one_number(x: Tensor) -> Any:
    return x.mean().item()


def a_question(x: Tensor) -> Any:
    return bool(torch.isnan(x).any())


def a_list(x: Tensor) -> Any:
    return x[0, 0, :4].tolist()


def a_text(x: Tensor) -> Any:
    return f"{x.mean():.2f}"


def truth_as_an_index(x: Tensor) -> Any:
    return x[x > 0]


def where_it_is(x: Tensor) -> Any:
    return torch.nonzero(x)


def chosen_by_a_mask(x: Tensor) -> Any:
    return torch.masked_select(x, x > 0)


def back_to_the_host(x: Tensor) -> Any:
    return x.detach().cpu()


def the_whole_device(x: Tensor) -> Any:
    torch.cuda.synchronize()


def from_the_host_each_time(x: Tensor) -> Any:
    return x * torch.tensor([1.0] * x.shape[-1], device=x.device)


def doubles_multiplied(x: Tensor) -> Any:
    return x.double() @ x.double().transpose(-1, -2)


def doubles_in_a_layer(x: Tensor) -> Any:
    return x.double().square().mean()


def a_host_s_generator(x: Tensor) -> Any:
    return torch.randn(3, generator=torch.Generator().manual_seed(7), device=x.device)


def a_device_s_generator(x: Tensor) -> Any:
    return torch.randn(3, generator=torch.Generator(x.device).manual_seed(8))


def half_in_eight_bits(x: Tensor) -> Any:
    return torch._scaled_mm(x[0].half(), x[0].half().t(), x.new_ones(()), x.new_ones(()), out_dtype=torch.bfloat16)


def two_kinds_of_numbers(x: Tensor) -> Any:
    return x.float() @ x.bfloat16().transpose(-1, -2)


def widths_that_differ(x: Tensor) -> Any:
    return x @ x.new_zeros(x.shape[-1] + 1, 2)


def as_an_array(x: Tensor) -> Any:
    return x.detach().numpy()


def truths_of_all_pairs(x: Tensor) -> Any:
    return torch.gt(x.new_zeros(40_000, 1), x.new_zeros(40_000))


SLIPS = [
    left_on_the_host, one_number, a_question, a_list, a_text, truth_as_an_index, where_it_is, chosen_by_a_mask,
    back_to_the_host, the_whole_device, from_the_host_each_time, doubles_multiplied, doubles_in_a_layer,
    a_host_s_generator, a_device_s_generator, half_in_eight_bits, two_kinds_of_numbers, widths_that_differ,
    as_an_array, truths_of_all_pairs,
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_mistake_in_a_layer_is_named_with_its_line(
    slip: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = dit.Block.forward

    def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        slip(x)
        return true(self, x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(dit.Block, "forward", forward)
    errors = rehearsed().errors
    assert [error for error in errors if error.startswith(line_of(slip))], errors


def test_nothing_is_wrong_where_nothing_is_planted() -> None:
    assert rehearsed().errors == []


def test_a_batch_that_does_not_fit_is_told_with_the_largest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(ACCELERATORS["h100"], memory_gib=0.02)  # the clips themselves are made, on the host
    monkeypatch.setitem(ACCELERATORS, "h100", small)
    monkeypatch.setattr(device_memory, "TOLD", 2**16)  # of pieces that are as small as these no line is kept
    (error,) = rehearsed("--training.batch=64").errors
    assert "GiB per rank" in error and "adastate/models/" in error


def test_memory_that_grows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    true = dit.Block.forward

    def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        KEPT.append(x.new_zeros(2**20))
        return true(self, x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(dit.Block, "forward", forward)
    try:
        (error,) = rehearsed().errors
    finally:
        KEPT.clear()
    assert "memory on the device grows" in error
