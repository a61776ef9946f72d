"""Mistakes of further kinds and in further places than those of `test_seeded_mistakes`, all in one run."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from adastate.config.command_line import read_command
from adastate.config.overrides import override
from adastate.diffusion import flow
from adastate.models.wan import dit
from adastate.optim.ema import EMA
from adastate.rehearsal.rehearse import rehearse
from adastate.training.distill import Distill

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")]

FILES = ("conf/base.yaml", "conf/sizes/tiny.yaml", "conf/stages/distill.yaml", "conf/stages/distill_tiny.yaml")
TABLE = torch.ones(64)


def line_of(function: Callable[..., Any]) -> str:
    """Of the last line of a function in this file."""
    lines, first = inspect.getsourcelines(function)
    return f"tests/rehearsal/test_other_mistakes.py:{first + len(lines) - 1}: "


def a_round_trip_through_numpy(x: Tensor) -> Any:
    np.tanh(x.detach().float().cpu().numpy())


def a_list_of_the_device_s_numbers(x: Tensor) -> Any:
    torch.tensor([x.mean(), x.amax()])


def a_table_that_is_no_buffer(x: Tensor) -> Any:
    return x[..., :64] * TABLE


def places_that_lie_on_the_host(x: Tensor) -> Any:
    return x[:, torch.arange(3)]


def float32_where_all_is_half(x: Tensor) -> Any:
    return nnf.linear(x.float(), x.new_zeros(512, x.shape[-1], dtype=torch.float32))


def angles_in_double(x: Tensor) -> Any:
    return torch.polar(x[0].double().abs(), x[0].double())


def repeated_by_a_tensor(x: Tensor) -> Any:
    return torch.repeat_interleave(torch.ones(4, dtype=torch.int64, device=x.device))


def filled_in_where_it_is_true(x: Tensor) -> Any:
    x.detach().clone()[x > 0] = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)


def printed(x: Tensor) -> Any:
    return str(x[0, 0, :3])


def whether_all_is_well(x: Tensor) -> Any:
    bool(x.isnan().any())


def a_level_as_a_number(x: Tensor) -> Any:
    return range(int(x.flatten()[0]))


def the_allocator_emptied(x: Tensor) -> Any:
    torch.cuda.empty_cache()


def sent_without_being_pinned(x: Tensor) -> Any:
    return torch.linspace(0, 1, 5).to(x.device, non_blocking=True)


def noise_of_another_generator(x: Tensor) -> Any:
    return torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(11))


def a_mask_of_all_pairs_in_a_loss(x: Tensor) -> Any:
    return torch.ones(2**15, 2**15, device=x.device).triu()


def averages_that_stay_on_the_host(p: Tensor) -> Any:
    return torch.zeros(p.shape).lerp_(p.detach(), 0.1)


class WatchesWeights(pl.Callback):
    """As users write them."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        for p in pl_module.student.net.parameters():
            seen(p)


def seen(p: Tensor) -> Any:
    return p.detach().float().cpu()


IN_A_LAYER = [
    a_round_trip_through_numpy, a_list_of_the_device_s_numbers, a_table_that_is_no_buffer, places_that_lie_on_the_host,
    float32_where_all_is_half, angles_in_double, repeated_by_a_tensor, filled_in_where_it_is_true,
]  # fmt: skip
IN_EVERY_PASS = [
    printed, whether_all_is_well, a_level_as_a_number, the_allocator_emptied, sent_without_being_pinned,
    noise_of_another_generator,
]  # fmt: skip
ELSEWHERE = [a_mask_of_all_pairs_in_a_loss, averages_that_stay_on_the_host, seen]


def planted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, slips: list[Any]) -> None:
    true = getattr(owner, name)

    def slipping(*args: Any, **kwargs: Any) -> Any:
        x = next((a for a in args if isinstance(a, Tensor) and a.is_cuda and a.dim() > 2), None)
        for slip in slips if x is not None else ():
            slip(x)
        return true(*args, **kwargs)

    monkeypatch.setattr(owner, name, slipping)


def test_each_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, dit.Block, "forward", IN_A_LAYER)
    planted(monkeypatch, flow, "add_noise", IN_EVERY_PASS)
    loss, update = Distill.student_sample, EMA.update

    def with_a_mask(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = loss(self, *args, **kwargs)
        a_mask_of_all_pairs_in_a_loss(next(self.student.net.parameters()))
        return made

    def on_the_host(self: Any, net: nn.Module, *args: Any, **kwargs: Any) -> Any:
        averages_that_stay_on_the_host(next(net.parameters()))
        return update(self, net, *args, **kwargs)

    monkeypatch.setattr(Distill, "student_sample", with_a_mask)
    monkeypatch.setattr(EMA, "update", on_the_host)
    command = [word for file in FILES for word in ("--config", file)]
    config, rest = read_command([*command, "--size.layers=3", "--rollout.frames=3", "--training.batch=2"])
    override(config, rest, "adastate rehearse")
    config.lightning["trainer"]["callbacks"].append({"class_path": f"{__name__}.WatchesWeights"})
    verdict = rehearse(config, "h100")
    missing = [s.__name__ for s in (*IN_A_LAYER, *ELSEWHERE) if not _named(s, verdict.errors)]
    assert not missing, verdict.errors
    listed = [f"{event.line}: {event.what}" for event in (*verdict.waits, *verdict.copies)]
    missing = [s.__name__ for s in IN_EVERY_PASS if not _named(s, verdict.errors + listed)]
    assert not missing, "a rollout as short as this one has few passes, and what is in each is listed at least"


def _named(slip: Callable[..., Any], errors: list[str]) -> bool:
    return any(error.startswith(line_of(slip)) for error in errors)
