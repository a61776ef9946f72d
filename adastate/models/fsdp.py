"""FSDP2: each block's weights are sharded over the processes and gathered only for its own pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from adastate.models.compute_dtype import named_dtype
from adastate.models.video_network import VideoNetwork


def shard(net: VideoNetwork, mesh: DeviceMesh) -> None:
    """Shards `net` in place over the one-dimensional `mesh`; call it before an optimiser takes the parameters.

    If the net has a compute_dtype, weights are gathered in it; gradients are reduced in float32.
    """
    refuse_compiled(net, "FSDP")
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    dtype = named_dtype(net.compute_dtype_name, mesh.device_type)  # the net itself may still be on meta
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module in (*net.blocks, net):
        fully_shard(module, mesh=mesh, mp_policy=policy)
        # a second forward method: without this, text keys would be computed from shards
        register_fsdp_forward_method(module, "text_keys")


def refuse_compiled(net: VideoNetwork, strategy: str) -> None:
    """Raises ValueError if a compiled network would be sharded."""
    if net.compiled:
        raise ValueError(
            f"compiled blocks need unsharded weights, but {strategy} shards them: leave out precision.compiled=true"
        )


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor; any other tensor unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def piece_of(held: Tensor, whole: Tensor) -> Tensor:
    """The part of the tensor `whole` that this process stores in `held`, which may be sharded along its first axis."""
    if not isinstance(held, DTensor):
        return whole
    shape, offset = compute_local_shape_and_global_offset(held.shape, held.device_mesh, held.placements)
    return whole[offset[0] : offset[0] + shape[0]]


def is_sharded(net: nn.Module) -> bool:
    return any(hasattr(p, "full_tensor") for p in net.parameters())


def whole_weights(net: nn.Module) -> dict[str, Tensor]:
    """The full weights of a sharded net by name, on every process; all of them must call it."""
    return {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in net.state_dict().items()}
