"""DeepSpeed's configuration."""

from __future__ import annotations

from typing import Any, Literal

import torch

Offload = Literal["none", "cpu", "nvme"]


def settings(
    stage: int,
    shard_frozen: bool,
    offload_optimizer: Offload,
    offload_parameters: Offload,
    nvme_path: str | None,
    config: dict[str, Any],
) -> dict[str, Any]:
    """DeepSpeed's config for these arguments of ZeroStrategy, overridden by `config`.

    Raises:
        ValueError: for incompatible arguments.
    """
    if stage not in (1, 2, 3):
        raise ValueError(f"stage {stage}: ZeRO has stages 1, 2 and 3")
    if stage != 3 and (shard_frozen or offload_parameters != "none"):
        raise ValueError(f"shard_frozen and offload_parameters need stage 3, not {stage}")
    if stage != 3 and offload_optimizer == "nvme":
        raise ValueError(f"offload_optimizer: nvme needs stage 3, not {stage}")
    if "nvme" in (offload_optimizer, offload_parameters) and nvme_path is None:
        raise ValueError("offload to nvme needs nvme_path, a folder on that disk")
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": torch.cuda.is_available() and offload_optimizer == "none",
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
    }
    for key, device in (("offload_optimizer", offload_optimizer), ("offload_param", offload_parameters)):
        if device != "none":
            pinned = torch.cuda.is_available()
            zero[key] = {"device": device, "pin_memory": pinned} | ({"nvme_path": nvme_path} if nvme_path else {})
    return merge_blocks(
        {
            "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's own throughput log
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
            "zero_optimization": zero,
        },
        config,
    )


def merge_blocks(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` merged over `below`, block by block; neither is changed."""
    merged = {k: merge_blocks(v, {}) if isinstance(v, dict) else v for k, v in below.items()}
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_blocks(merged[key], value) if both else value
    return merged
