"""Data sheet values of the devices that a rehearsal supports. Everything computed from them is an estimate."""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Accelerator:
    """A GPU as specified by its manufacturer, with dense products (no sparsity).

    Attributes:
        memory_gib: memory that a process sees.
        bandwidth: of its memory, bytes/s.
        half, single, eight: FLOP/s of products in bfloat16, float32 (TF32 off) and FP8; 0: not supported.
        link: bytes/s to another GPU of its node, one way.
        capability: CUDA compute capability.
        processors: streaming multiprocessors.
        source: where the numbers come from.
    """

    name: str
    memory_gib: float
    bandwidth: float
    half: float
    single: float
    eight: float
    link: float
    capability: tuple[int, int]
    processors: int
    source: str


ACCELERATORS = {
    "a100": Accelerator(
        "NVIDIA A100 SXM 80GB", 79.2, 2039 * GB, 312e12, 19.5e12, 0.0, 300 * GB, (8, 0), 108,
        "NVIDIA A100 Tensor Core GPU datasheet, 2021",
    ),
    "h100": Accelerator(
        "NVIDIA H100 SXM", 79.1, 3350 * GB, 989e12, 67e12, 1979e12, 450 * GB, (9, 0), 132,
        "NVIDIA H100 Tensor Core GPU datasheet, 2023 (half of the figures with sparsity)",
    ),
    "h200": Accelerator(
        "NVIDIA H200 SXM", 139.7, 4800 * GB, 989e12, 67e12, 1979e12, 450 * GB, (9, 0), 132,
        "NVIDIA H200 Tensor Core GPU datasheet, 2023 (half of the figures with sparsity)",
    ),
    "b200": Accelerator(
        "NVIDIA B200 SXM", 178.3, 7700 * GB, 2250e12, 75e12, 4500e12, 900 * GB, (10, 0), 148,
        "NVIDIA DGX B200 datasheet, 2024, an eighth of the system (half of the figures with sparsity)",
    ),
}  # fmt: skip
"""By the name on the command line."""

USABLE = 0.92
"""Share of a GPU's memory to plan with; CUDA, NCCL and fragmentation take the rest."""

PRODUCTS, STREAMS = 0.75, 0.8
"""Fractions of these rates that large products and long copies are assumed to reach: 790 of an H200's 989 TFLOP/s were
measured with bfloat16 matrix products."""

LAUNCH = 4e-6
"""Seconds that the host takes per operation: faster operations make the device wait for the host."""

NODE_LINK = 50 * GB
"""Bytes/s between nodes: one 400 Gbit/s port per GPU."""
