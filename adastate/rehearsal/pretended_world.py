"""A process group in which only this process exists: collectives have shapes, but no other process takes part."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextlib.contextmanager
def pretended_world(rank: int, world: int, gpus: int) -> Iterator[None]:
    """In this context this process is rank `rank` of `world`, with `gpus` per machine, as if started by torchrun."""
    told = {
        "RANK": rank, "LOCAL_RANK": rank % gpus, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": gpus,
        "GROUP_RANK": rank // gpus, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29999, "DS_ACCELERATOR": "cuda",
        "TORCHELASTIC_RUN_ID": "rehearsal", "NODE_RANK": rank // gpus,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {name: str(value) for name, value in told.items()}))
        if world > 1:
            from torch.testing._internal.distributed.fake_pg import FakeStore

            dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
            stack.callback(_leave)
            for name in ("broadcast_object_list", "barrier", "monitored_barrier"):
                stack.enter_context(mock.patch.object(dist, name, lambda *a, **k: None))
            stack.enter_context(mock.patch.object(dist, "all_gather_object", _gathered))
            stack.enter_context(mock.patch("torch.nn.parallel.DistributedDataParallel", PretendedReplica))
            from lightning.pytorch.strategies import ddp

            stack.enter_context(mock.patch.object(ddp, "DistributedDataParallel", PretendedReplica))
        yield


def _leave() -> None:
    """Destroys the process group, and makes DeepSpeed forget its groups."""
    dist.destroy_process_group()
    if "deepspeed" in sys.modules:
        from deepspeed.comm import comm
        from deepspeed.utils import groups

        comm.cdb = None
        importlib.reload(groups)


def _gathered(into: list[Any], mine: Any, group: Any = None) -> None:
    into[:] = [mine] * len(into)


class PretendedReplica(nn.Module):
    """torch's DistributedDataParallel: buckets as large as the gradients, sent when a gradient is complete."""

    def __init__(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.module = module
        self.require_backward_grad_sync = True
        # used by Lightning before a backward pass, and at the end of a fit
        self.static_graph = self.find_unused_parameters = False
        self.reducer = mock.Mock(spec=["_rebuild_buckets", "prepare_for_backward"])
        learning = [p for p in module.parameters() if p.requires_grad]
        self.buckets = [torch.empty_like(p) for p in learning]
        for p, bucket in zip(learning, self.buckets, strict=True):
            p.register_post_accumulate_grad_hook(self._send(bucket))

    def _send(self, bucket: Tensor) -> Any:
        def send(p: Tensor) -> None:
            if self.require_backward_grad_sync:
                dist.all_reduce(bucket)

        return send

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.require_backward_grad_sync, before = False, self.require_backward_grad_sync
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    def register_comm_hook(self, *args: Any, **kwargs: Any) -> None: ...

    def _set_ddp_runtime_logging_sample_rate(self, *args: Any) -> None: ...

    def _get_ddp_logging_data(self) -> dict[str, Any]:
        return {}
