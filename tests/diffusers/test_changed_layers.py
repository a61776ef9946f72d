"""What users of diffusers put into a transformer (LoRA, offloading hooks, quantised layers) holds in a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")

from adastate.diffusers import StreamingWanPipeline
from adastate.models.video_network import Size
from adastate.weights import open_weights, save_weights
from adastate.weights.pipeline_folder import PipelineParts, export_pipeline
from tests.support.tiny import random_net
from tests.support.wan_parts import TEXT_WIDTH, write_parts

SIZE = Size(width=48, layers=2, heads=2, ffn=64, text_width=TEXT_WIDTH, text_tokens=6, time_embedding_dim=32)
CALL: dict[str, Any] = {"prompt": "a ball", "seed": 3, "max_sequence_length": 6, "num_frames": 21, "output_type": "pt"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pipeline")
    parts = write_parts(base / "wan")
    save_weights(random_net(SIZE), base / "student.safetensors", stream={"anchor": "state", "state_frames": 1})
    export_pipeline(open_weights(base / "student.safetensors"), base / "out", PipelineParts(parts, {}, (4, 6)))
    return base / "out"


@pytest.fixture
def pipe(folder: Path) -> StreamingWanPipeline:
    made = StreamingWanPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def test_a_lora_is_loaded_fused_and_taken_off(pipe: StreamingWanPipeline, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[lora]'")
    from diffusers import WanPipeline
    from safetensors.torch import save_file

    plain = pipe(**CALL).frames
    generator = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (4, SIZE.width), "lora_B": (SIZE.width, 4)}
    adapter = {
        f"transformer.blocks.{block}.{attention}.{layer}.{part}.weight": 0.5 * torch.randn(shape, generator=generator)
        for block in range(SIZE.layers)
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
        for part, shape in shapes.items()
    }
    save_file(adapter, tmp_path / "lora.safetensors")
    assert WanPipeline.lora_state_dict(tmp_path / "lora.safetensors").keys() == adapter.keys()
    pipe.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="style")
    changed = pipe(**CALL).frames
    assert off(changed, plain) > 1e-3
    pipe.fuse_lora()
    assert off(pipe(**CALL).frames, changed) < 2e-5
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert off(pipe(**CALL).frames, plain) < 2e-5


def test_layers_that_are_brought_to_the_device_one_by_one(pipe: StreamingWanPipeline) -> None:
    """As `enable_sequential_cpu_offload` has it: between its passes a layer has no weights."""
    from accelerate import cpu_offload

    plain = pipe(**CALL).frames
    for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
        cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    assert pipe.transformer.blocks[0].attn1.to_q.weight.device.type == "meta"
    assert torch.equal(pipe(**CALL).frames, plain)


def test_whole_parts_that_are_brought_to_the_device_in_turn(pipe: StreamingWanPipeline) -> None:
    """As `enable_model_cpu_offload` has it, which asks for an accelerator in one sentence where there is none."""
    from accelerate import cpu_offload_with_hook

    plain = pipe(**CALL).frames
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="requires accelerator, but not found"):
            pipe.enable_model_cpu_offload()
    hook = None
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        _, hook = cpu_offload_with_hook(part, torch.device("cpu"), prev_module_hook=hook)
    assert torch.equal(pipe(**CALL).frames, plain)


def test_quantised_layers(pipe: StreamingWanPipeline) -> None:
    plain = pipe(**{**CALL, "output_type": "latent"}).frames
    torch.ao.quantization.quantize_dynamic(pipe.transformer.blocks, {nn.Linear}, dtype=torch.qint8, inplace=True)
    found = pipe(**{**CALL, "output_type": "latent"}).frames
    error = float((found - plain).norm() / plain.norm())
    assert 1e-5 < error < 0.2, error
