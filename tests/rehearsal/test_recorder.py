"""What real code does on a pretended device is written down, with the line that did it; mistakes are sentences."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.pretended_machine import Cluster, pretended_machine
from adastate.rehearsal.recorder import DeviceRecorder

pytestmark = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")


@pytest.fixture
def record() -> Iterator[DeviceRecorder]:
    with pretended_machine(Cluster(ACCELERATORS["h100"])) as recorder:
        yield recorder


def line_of(function: Callable[..., object]) -> str:
    """Of the last line of a function in this file."""
    lines, first = inspect.getsourcelines(function)
    return f"tests/rehearsal/test_recorder.py:{first + len(lines) - 1}"


def reads_a_number(x: Tensor) -> None:
    x.sum().item()


def asks_a_question(x: Tensor) -> None:
    bool((x > 0).any())


def picks_by_truth(x: Tensor) -> None:
    x[x > 0]


def copies_back(x: Tensor) -> None:
    x.cpu()


@pytest.mark.parametrize("wait", [reads_a_number, asks_a_question, picks_by_truth, copies_back])
def test_a_wait_is_told_with_its_line(record: DeviceRecorder, wait: Callable[[Tensor], None]) -> None:
    wait(torch.zeros(3, device="cuda"))
    assert [line for _, _, line in record.waits] == [line_of(wait)]


def test_numbers_of_the_host_come_back_as_they_were(record: DeviceRecorder) -> None:
    """DeepSpeed compares the order of all modules so, which are thousands at 1.3B."""
    order = [*range(5000)]
    assert torch.tensor(order, device="cuda").cpu().tolist() == order


def leaves_one_on_the_host(x: Tensor) -> None:
    x + torch.ones(3)


def draws_elsewhere(x: Tensor) -> None:
    torch.randn(3, generator=torch.Generator().manual_seed(1), device=x.device)


def multiplies_wide(x: Tensor) -> None:
    x[None].double() @ torch.zeros(3, 3, dtype=torch.float64, device=x.device)


def masks_too_much(x: Tensor) -> None:
    torch.gt(x.new_zeros(2**15, 1), x.new_zeros(2**15))


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (leaves_one_on_the_host, "on the host is combined with device tensors in add"),
        (draws_elsewhere, "a generator of the host draws on the device"),
        (multiplies_wide, "in float64 on the device"),
        (masks_too_much, "truth values of 32768 x 32768 are 1.0 GiB"),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line(
    record: DeviceRecorder, slip: Callable[[Tensor], None], said: str
) -> None:
    slip(torch.zeros(3, device="cuda"))
    (told,) = record.mistakes.values()
    assert told.startswith(f"{line_of(slip)}: ") and said in told


def test_a_step_computes_and_holds_what_it_says(record: DeviceRecorder) -> None:
    net = nn.Linear(256, 512, bias=False).to("cuda")
    record.enter("step")
    loss = net(torch.zeros(128, 256, device="cuda")).square().mean()
    loss.backward()
    product = 2 * 128 * 256 * 512
    assert record.work["step"].flop["product"] == 2 * product  # the input takes no gradient
    assert net.weight.grad is not None and net.weight.grad.is_cuda
    held = record.memory.now
    net.weight.grad = None
    assert held - record.memory.now == 4 * 256 * 512


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])  # which takes no operation apart
def test_attention_is_one_kernel_and_keeps_no_square(record: DeviceRecorder, quiet: Callable[[], Any]) -> None:
    q = torch.zeros(1, 2, 4096, 64, device="cuda", dtype=torch.bfloat16)
    record.enter("attention")
    with quiet():
        nnf.scaled_dot_product_attention(q, q, q)
    assert record.work["attention"].kernels == 1
    assert record.memory.peaks["attention"] < 4096 * 4096


def test_products_in_inference_mode_are_counted(record: DeviceRecorder) -> None:
    x = torch.zeros(2, 3, 4, device="cuda")
    record.enter("product")
    with torch.inference_mode():
        nnf.linear(x @ x.transpose(1, 2), torch.zeros(5, 3, device="cuda"))
    assert record.work["product"].flop["product"] == 2 * (2 * 3 * 3 * 4 + 6 * 3 * 5)


def test_memory_that_is_given_up_does_not_count(record: DeviceRecorder) -> None:
    before, x = record.memory.now, torch.zeros(2**20, device="cuda")
    x.untyped_storage().resize_(0)
    assert record.memory.now == before
    x.untyped_storage().resize_(2**22)
    assert record.memory.now == before + 2**22


def test_what_is_known_is_made_again_as_torch_makes_it(record: DeviceRecorder) -> None:
    x = torch.zeros(4, 6, device="cuda")
    for _ in range(3):
        rows, held = x.t()[1:], record.memory.now
        assert rows.shape == (5, 4) and rows.stride() == (1, 6) and rows.storage_offset() == 1
        assert rows.untyped_storage()._cdata == x.untyped_storage()._cdata
        total = x.add(rows.sum())
        assert record.memory.now == held + 512 and total.is_cuda  # the least that is handed out
        assert x.add_(1) is x
        assert [part.shape for part in x.split(3)] == [(3, 6), (1, 6)]
        del total


def test_afterwards_torch_is_as_it_was() -> None:
    before = torch.cuda.is_available(), torch.Generator, torch.accelerator.current_accelerator()
    with pretended_machine(Cluster(ACCELERATORS["a100"], gpus=2)):
        assert torch.cuda.is_available() and torch.cuda.device_count() == 2
    assert (torch.cuda.is_available(), torch.Generator, torch.accelerator.current_accelerator()) == before
    assert (torch.ones(2) @ torch.ones(2)).item() == 2
