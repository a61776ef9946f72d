"""The dtype that passes compute in, if the configuration leaves the choice to the device."""

from __future__ import annotations

from functools import lru_cache

import torch

AUTO = "auto"
"""Instead of a dtype's name: bfloat16 if the device has instructions for it, else float32."""


@lru_cache
def fast_dtype(device_type: str) -> torch.dtype:
    """bfloat16 on devices with instructions for it; float32 on others, where bfloat16 would take 2 to 3 times as long.

    Args:
        device_type: "cuda", "cpu", ... For "meta", where nothing is computed, the result is that for a GPU.
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
    return torch.cpu._is_avx512_bf16_supported()  # older torch versions


def named_dtype(name: str | None, device_type: str) -> torch.dtype | None:
    """The dtype of a configuration's `compute_dtype`: None stays None, "auto" is the device's.

    Raises:
        ValueError: torch has no such dtype.
    """
    if name == AUTO:
        return fast_dtype(device_type)
    if not name:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"compute_dtype {name!r} is unknown: use auto, bfloat16, float16, float32 or float64")
    return dtype
