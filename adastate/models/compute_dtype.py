"""The numbers that passes compute in, where a configuration leaves the choice to the device."""

from __future__ import annotations

from functools import lru_cache

import torch

AUTO = "auto"
"""In place of a dtype's name: bfloat16 where the device computes in it, float32 elsewhere."""


@lru_cache
def fast_dtype(device_type: str) -> torch.dtype:
    """bfloat16 on devices with instructions for it; float32 on others, which would take 2 to 3 times as long.

    Args:
        device_type: "cuda", "cpu", ... On "meta", where nothing is computed, what a GPU would take.
    """
    if device_type == "meta":
        return torch.bfloat16
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device_type == "cpu":
        return torch.bfloat16 if _processor_has_bfloat16() else torch.float32
    return torch.float32


def _processor_has_bfloat16() -> bool:
    # only these two were measured to be faster than float32
    if hasattr(torch.cpu, "get_capabilities"):
        told = torch.cpu.get_capabilities()
        return bool(told.get("avx512_bf16") or told.get("amx_bf16"))
    return torch.cpu._is_avx512_bf16_supported()  # torch before it had the public function


def named_dtype(name: str | None, device_type: str) -> torch.dtype | None:
    """The dtype of a configuration's `compute_dtype`: None without one, that of the device for "auto".

    Raises:
        ValueError: torch has no such dtype.
    """
    if name == AUTO:
        return fast_dtype(device_type)
    if not name:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"compute_dtype {name!r} is none of torch's: auto, bfloat16, float16, float32 and float64 are")
    return dtype
