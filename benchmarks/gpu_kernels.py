"""Phase of `make gpu-check`: compares every attention kernel and every fast path with the plain implementation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adastate.models import attention
from adastate.models.masks import teacher_forcing
from adastate.models.video_network import Engine, Size
from adastate.models.wan.fused import Passes
from adastate.types import FrameMask
from benchmarks.clock import DeviceClock
from benchmarks.gpu_report import PhaseReport
from benchmarks.shapes import SHAPES, STREAMS, random_network
from benchmarks.stream import distance, ours, simple

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Relative norm of a difference that rounding explains; for FP8 ten times that of bfloat16."""

TORCH = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's own kernels, each on its own."""


def kernels(report: PhaseReport) -> None:
    """Attention at the shapes of a stream's pass and of its prompt, with and without gradient, then masked."""
    tokens, heads, width = (6, 2, 16) if report.tiny else (1560, 12, 128)
    for name, queries, keys in (("window", 4 * tokens, 8 * tokens), ("prompt", 4 * tokens, 8 if report.tiny else 512)):
        drawn = _drawn(report.device, queries, keys, heads, width)
        expected = _reference(*drawn)
        for backend in ("sdpa", *TORCH, "flash_attn", "flash3", "flash4"):
            _one(report, f"{name}, {backend}", backend, drawn, expected)
    _masked(report, tokens if report.tiny else 390, heads, width)
    attention.use("sdpa")


def _drawn(device: str, queries: int, keys: int, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(n: int) -> Tensor:
        return torch.randn(1, n, heads, width, generator=generator).to(device, torch.bfloat16).requires_grad_()

    return normal(queries), normal(keys), normal(keys)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """The output, and its gradients with respect to all three, in float32."""
    parts = [x.detach().float().requires_grad_() for x in (q, k, v)]
    with sdpa_kernel(SDPBackend.MATH):
        out = attention.attend(*parts)
    return out.detach(), *torch.autograd.grad(out.square().mean(), parts)


def _one(report: PhaseReport, name: str, backend: str, drawn: Any, expected: tuple[Tensor, ...]) -> None:
    try:
        attention.use(backend if backend not in TORCH else "sdpa")  # type: ignore[arg-type]
        limited = sdpa_kernel(TORCH[backend]) if backend in TORCH else nullcontext()
        with limited:
            out = attention.attend(*drawn)
            found = (out.detach(), *torch.autograd.grad(out.float().square().mean(), drawn))
            with torch.no_grad():
                ms = median_ms(lambda: attention.attend(*drawn), report.device)
    except Exception as error:  # a package, device or shape that is not supported
        report.skip(name, error)
        return
    off = max(off_by(a, b) for a, b in zip(found, expected, strict=True))
    flop = 4 * drawn[0].shape[1] * drawn[1].shape[1] * drawn[0].shape[2] * drawn[0].shape[3]
    report.row(what=name, off=off, ms=ms, tflops=flop / ms / 1e9)
    judge_kernel(report, name, off, CLOSE[torch.bfloat16])


def _masked(report: PhaseReport, tokens: int, heads: int, width: int) -> None:
    """The teacher-forcing mask: groups of equal rows, flex_attention, and every pair of tokens."""
    visible: FrameMask = teacher_forcing(6, 3, past=3)
    q, k, v = (x.detach() for x in _drawn(report.device, 12 * tokens, 12 * tokens, heads, width))
    token_mask = attention._token_mask(visible, tokens, q.device)
    parts = [x.float().transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=token_mask).transpose(1, 2)
    for backend in ("sdpa", "flex"):
        try:
            attention.use(backend)  # type: ignore[arg-type]
            with torch.no_grad():
                found = attention.attend(q, k, v, visible, tokens)
                ms = median_ms(lambda: attention.attend(q, k, v, visible, tokens), report.device)
        except Exception as error:
            report.skip(f"masked, {backend}", error)
            continue
        off = off_by(found, expected)
        report.row(what=f"masked, {backend}", off=off, ms=ms)
        judge_kernel(report, f"masked, {backend}", off, CLOSE[torch.bfloat16])


# ---- fast paths


def fast_paths(report: PhaseReport) -> None:
    """Streams of a network of the real width with few layers: every engine, with and without FP8, against its forward.

    The second stream of each is reported separately: it has to reuse what the first one has created.
    """
    attention.use("auto")
    shape = (
        SHAPES["tiny"] if report.tiny else replace(SHAPES["wan_1_3b"], size=replace(SHAPES["wan_1_3b"].size, layers=2))
    )
    chunks, device = 6, report.device
    dtypes = (torch.float32, torch.bfloat16)
    for stream, dtype in product(("adastate", "self_forcing, window 6"), dtypes):
        spec = STREAMS[stream]
        net, text = random_network(shape, device)
        expected = simple(net, text, shape, spec, chunks, device)[1]
        engines: tuple[Engine, ...] = ("eager", "compile", "graph")
        for engine, fp8 in product(engines, (False, True)):
            name = f"{stream}, {engine}{' fp8' * fp8} {str(dtype).removeprefix('torch.')}"
            if (fp8 and dtype != torch.bfloat16) or (engine == "compile" and dtype == torch.float32):
                continue
            if device == "cpu" and (engine != "eager" or fp8):
                report.skip(name, "compiling takes minutes on a CPU, graphs and FP8 need a GPU")
                continue
            try:
                began = time.perf_counter()
                passes = Passes(net, dtype, engine, fp8)
                made = ours(passes, text, shape, spec, chunks, device)[1]
                first = time.perf_counter() - began
                seconds, again = ours(passes, text, shape, spec, chunks, device)
            except Exception as error:
                report.skip(name, error)
                continue
            off = max(distance(made, expected), distance(again, expected))
            ms = 1e3 * statistics.median(seconds[-2:]) / (len(spec.denoising_steps) + 1)
            report.row(what=name, off=off, ms_a_pass=ms, first_stream_s=first, second_stream_s=sum(seconds))
            judge_kernel(report, name, off, CLOSE[dtype] * (10 if fp8 else 1))
    _whole_clips(report)
    _on_the_host(report)
    _vae(report)


def _whole_clips(report: PhaseReport) -> None:
    """Blocks with torch.compile, as run by teacher and critic with precision.compiled."""
    if report.device == "cpu":
        report.skip("compiled blocks", "compiling takes minutes on a CPU")
        return
    from adastate.models.wan import DiT

    size = Size(width=1536, layers=2, heads=12, ffn=8960, text_width=4096, text_tokens=512, time_embedding_dim=256)
    torch.manual_seed(0)
    net = DiT(size).to(report.device, torch.bfloat16)
    torch.nn.init.normal_(net.head.head.weight, std=0.02)
    x = torch.randn(1, 6, 16, 60, 104, device=report.device, dtype=torch.bfloat16)
    t, text = torch.full((1,), 500.0, device=report.device), torch.randn(1, 512, 4096, device=report.device).bfloat16()
    try:
        plain = net(x, t, text)
        net.compiled = True
        off = off_by(net(x, t, text), plain)
    except Exception as error:
        report.skip("compiled blocks", error)
        return
    report.row(what="compiled blocks", off=off)
    judge_kernel(report, "compiled blocks", off, CLOSE[torch.bfloat16])


def _on_the_host(report: PhaseReport) -> None:
    """The same tiny network on the GPU and on the CPU, which uses operations of its own."""
    shape, spec = SHAPES["tiny"], STREAMS["adastate"]
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    made = {}
    for device in ("cpu", report.device):
        net, text = random_network(shape, device)
        made[device] = ours(Passes(net), text, shape, spec, 4, device)[1]
    torch.backends.cuda.matmul.allow_tf32 = allowed
    off = distance(made[report.device], made["cpu"])
    report.row(what="float32 on the GPU and on the CPU", off=off)
    judge_kernel(report, "float32 on the GPU and on the CPU", off, 1e-3)


def _vae(report: PhaseReport) -> None:
    """Wan's VAE with random weights: bfloat16, in which it decodes, compared with float32."""
    try:
        made = {dtype: random_vae(report.tiny, dtype, report.device) for dtype in ("bfloat16", None)}
        latents = torch.randn(1, 4, 16, *((4, 6) if report.tiny else (60, 104)), device=report.device)
        pictures = {dtype: codec.decode(latents) for dtype, codec in made.items()}
        ms = {
            dtype: median_ms(lambda codec=codec: codec.decode(latents), report.device) for dtype, codec in made.items()
        }
    except Exception as error:
        report.skip("VAE", error)
        return
    error = (pictures["bfloat16"] - pictures[None]).square().mean()
    psnr = float(10 * torch.log10(4 / error))
    report.row(what="VAE, bfloat16 against float32", psnr=psnr, ms=ms["bfloat16"], float32_ms=ms[None])
    if not psnr > 30:
        report.wrong(f"VAE: pictures in bfloat16 differ from those in float32 by {psnr:.1f} dB, below 30")


def random_vae(tiny: bool, dtype: str | None, device: str) -> Any:
    """Wan's VAE at its real size, or a small one, with random weights."""
    import tempfile

    from diffusers import AutoencoderKLWan

    from adastate.encoders import WanVAE

    torch.manual_seed(0)
    made = AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1) if tiny else AutoencoderKLWan()
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return WanVAE(folder, subfolder=None, dtype=dtype).to(device)


# ---- measures


def off_by(a: Tensor, b: Tensor) -> float:
    """Relative norm of the difference."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))


def judge_kernel(report: PhaseReport, name: str, off: float, close: float) -> None:
    if not off <= close:
        report.wrong(f"{name}: {off:.1e} off, but rounding explains only {close:.0e}")


def median_ms(work: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """Milliseconds, the median after one warm-up call."""
    clock, took = DeviceClock(device), []
    for turn in range(rounds + 1):
        began = clock()
        work()
        if turn:
            took.append(1e3 * (clock() - began))
    return statistics.median(took)
