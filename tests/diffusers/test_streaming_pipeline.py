"""The pipeline on diffusers' own classes makes what a student makes of the same weights and noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")

from adastate.config.systems import read_system, system_names
from adastate.diffusers import StreamingWanPipeline
from adastate.diffusion.noise import SampleNoise
from adastate.encoders import UMT5, WanVAE
from adastate.inference import conditioning
from adastate.models.video_network import Size
from adastate.stream import StreamSpec
from adastate.training.student import Student
from adastate.weights import open_weights, save_weights
from adastate.weights.pipeline_folder import PipelineParts, export_pipeline
from tests.support.tiny import random_net
from tests.support.wan_parts import TEXT_WIDTH, write_parts

SIZE = Size(
    width=48, layers=2, heads=2, ffn=64, text_width=TEXT_WIDTH, text_tokens=6, time_embedding_dim=32, rope_max_frames=64
)
GRID, SPEC, CLOSE = (4, 6), StreamSpec(), 2e-5
CALL: dict[str, Any] = {"prompt": "a ball", "seed": 3, "max_sequence_length": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student beside Wan's other parts, exported as a pipeline."""
    base = tmp_path_factory.mktemp("pipeline")
    parts = write_parts(base / "wan")
    save_weights(random_net(SIZE), base / "student.safetensors", stream={"anchor": "state", "state_frames": 1})
    export_pipeline(open_weights(base / "student.safetensors"), base / "out", PipelineParts(parts, {}, GRID))
    return base / "out"


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    codec, text = WanVAE(str(folder), dtype=None), UMT5(str(folder), tokens=6, dtype="float32")
    made = Student(SIZE, codec, text, SPEC, GRID, weights=str(folder.parent / "student.safetensors")).eval()
    made.requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def pipe(folder: Path) -> StreamingWanPipeline:
    made = StreamingWanPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def streamed(student: Student, frames: int, **options: Any) -> Tensor:
    made = student.stream(options.pop("prompts", ["a ball"]), frames, 3, **options)
    return torch.cat([chunk.content for chunk in made], 1)


def off(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


FAST = ("adastate",)
"""The one with a state; those of the others are slow tests."""


@pytest.mark.parametrize(
    "system", [s if s in FAST else pytest.param(s, marks=pytest.mark.slow) for s in system_names()]
)
def test_every_system_makes_the_latents_of_a_student(pipe: StreamingWanPipeline, student: Student, system: str) -> None:
    told = read_system(system, 3)
    rows = max(SIZE.rope_max_frames, told.rope_max_frames)
    for net in (student.net, student.ema.net):
        net.size = replace(SIZE, rope_max_frames=rows)
    frames = told.spec.frames_of(0) + (2 if system in FAST else 5) * told.spec.chunk_frames
    expected = streamed(student, frames, spec=told.spec)
    seconds = student.codec.video_frames(frames) / student.codec.fps
    found = pipe(**CALL, seconds=seconds, system=system, output_type="latent").frames
    assert found.shape == expected.transpose(1, 2).shape
    assert off(found.transpose(1, 2), expected) < CLOSE


@pytest.mark.slow
def test_pictures_are_those_of_a_student_and_chunks_make_the_whole(
    pipe: StreamingWanPipeline, student: Student
) -> None:
    expected = student.codec.decode(streamed(student, 9))
    whole = pipe(**CALL, num_frames=33).frames
    assert whole.shape == (1, 33, 32, 48, 3)
    assert off(2 * torch.tensor(whole).movedim(-1, 2) - 1, expected) < CLOSE
    parts = list(pipe.stream(**CALL, num_frames=30, output_type="pt", decode_state=True))
    assert [part.frames.shape[1] for part in parts] == [9, 12, 9] and [part.index for part in parts] == [0, 1, 2]
    assert off(torch.cat([part.frames for part in parts], 1).movedim(2, -1), whole[:, :30]) == 0
    assert all(part.state.shape[2:] == (3, 32, 48) for part in parts), "the state is decoded as a clip of its own"
    pictures = pipe(**CALL, num_frames=9, output_type="pil").frames[0]
    assert len(pictures) == 9 and pictures[0].size == (48, 32)


@torch.no_grad()
def test_diffusers_own_scheduler_steps_through_the_same_latents(pipe: StreamingWanPipeline) -> None:
    """The first chunk once more, by hand: the transformer as it is, and the scheduler's own steps."""
    spec, _ = pipe.spec("self_forcing")
    found = pipe(**CALL, num_frames=9, system="self_forcing", output_type="latent").frames
    assert pipe.scheduler.timesteps.tolist() == pytest.approx(list(spec.timesteps))
    noise = SampleNoise(3, 0, [0], "stream")
    x, text = noise.normal(3, 16, *GRID).transpose(1, 2), pipe.encode_prompt("a ball", 6)
    for t in pipe.scheduler.timesteps:
        velocity = pipe.transformer(x, t[None], text, return_dict=False)[0]
        sigma = pipe.scheduler.sigmas[pipe.scheduler.step_index or 0]
        fresh = noise.normal(3, 16, *GRID).transpose(1, 2)
        told = pipe.scheduler.step(velocity, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        after = pipe.scheduler.sigmas[pipe.scheduler.step_index]
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        assert float(sigma) == pytest.approx(float(t) / 1000)
        x = told + after * (fresh - drawn)  # its step with the stream's noise in the place of its own
    assert off(found, x) < CLOSE


def test_a_prompt_is_turned_by_a_schedule_or_by_a_callback(pipe: StreamingWanPipeline, student: Student) -> None:
    call = {**CALL, "num_frames": 33, "output_type": "latent"}
    plain = pipe(**call).frames
    schedule = pipe(**{**call, "prompt": ["0s: a ball", "0.5s recache: a bounces"]}).frames
    seen: list[int] = []

    def turn(told: Any, index: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
        assert told is pipe and tensors["latents"].shape == (1, 16, 3, *GRID)
        assert tensors["prompt_embeds"].shape == (1, 6, TEXT_WIDTH)
        seen.append(index)
        return {"prompt": "a bounces", "switch": "recache"} if index == 0 else {}

    names = ("latents", "prompt_embeds")
    steered = pipe(**call, callback_on_chunk_end=turn, callback_on_chunk_end_tensor_inputs=names).frames
    assert seen == [0, 1, 2]
    assert off(steered, schedule) == 0 and off(plain[:, :, :3], steered[:, :, :3]) == 0
    assert off(plain[:, :, 3:], steered[:, :, 3:]) > 1e-3


@pytest.mark.slow
def test_a_callback_changes_latents_and_ends_a_stream(pipe: StreamingWanPipeline) -> None:
    call = {**CALL, "num_frames": 33, "output_type": "latent"}
    plain = pipe(**call).frames

    def mirror(pipe: Any, index: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = index == 1
        return {"latents": tensors["latents"].flip(-1)} if index == 0 else {}

    found = pipe(**call, callback_on_chunk_end=mirror).frames
    assert found.shape[2] == 6 and off(found[:, :, :3], plain[:, :, :3].flip(-1)) == 0
    assert off(found[:, :, 3:], plain[:, :, 3:6]) > 1e-3, "what follows remembers the latents that were put in"


@pytest.mark.slow
def test_a_first_picture_a_batch_and_generators(pipe: StreamingWanPipeline, student: Student) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8))
    given = conditioning.picture_prefix(picture, student.codec, GRID, 1, torch.device("cpu")).of(0)
    expected = student.codec.decode(torch.cat([given, streamed(student, 3, given=given)], 1))
    found = pipe(**CALL, num_frames=13, image=picture, output_type="pt").frames
    assert off(2 * found - 1, expected) < CLOSE
    both = pipe(**{**CALL, "prompt": ["a ball", "a bounces"]}, num_frames=9, output_type="latent").frames
    alone = streamed(student, 3, prompts=["a ball", "a bounces"]).transpose(1, 2)
    assert off(both, alone) < CLOSE
    one, other, again = (
        pipe(
            "a ball", num_frames=9, max_sequence_length=6, output_type="latent", generator=torch.manual_seed(seed)
        ).frames
        for seed in (1, 2, 1)
    )
    assert off(one, again) == 0 and off(one, other) > 1e-2
    embeds = pipe.encode_prompt("a ball", 6)
    assert off(pipe(prompt_embeds=embeds, seed=3, num_frames=9, output_type="latent").frames, both[:1]) < CLOSE


@pytest.mark.slow
def test_the_transformer_still_serves_other_pipelines(folder: Path) -> None:
    pipe = StreamingWanPipeline.from_pretrained(folder)
    x, t, text = torch.randn(1, 16, 3, *GRID), torch.tensor([500.0]), torch.randn(1, 6, TEXT_WIDTH)
    with torch.no_grad():
        before = pipe.transformer(x, t, text, return_dict=False)[0]
        pipe(**CALL, num_frames=9, output_type="latent")
        assert torch.equal(pipe.transformer(x, t, text, return_dict=False)[0], before)
    plain = pipe(**CALL, num_frames=9, output_type="latent").frames
    for block in pipe.transformer.blocks:
        block.attn1.fuse_projections()
        block.attn2.fuse_projections()
    assert off(pipe(**CALL, num_frames=9, output_type="latent").frames, plain) < CLOSE


def wrong() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"prompt": None}, "give prompt, or prompt_embeds"
    yield {"seconds": 1.0, "num_frames": 9}, "both give the length"
    yield {"output_type": "mp4"}, "there are np, pt, pil and latent"
    yield {"height": 30}, "height is 30; it has to be a multiple of 16"
    yield {"system": "self_forcin"}, "no system 'self_forcin'"
    yield {"generator": torch.Generator()}, "seed and generator both determine"
    yield {"callback_on_chunk_end_tensor_inputs": ["noise"]}, "there are"


@pytest.mark.parametrize(("change", "sentence"), wrong())
def test_what_is_wrong_is_told_before_anything_runs(
    pipe: StreamingWanPipeline, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        pipe.stream(**{**CALL, **change})


def test_what_cannot_be_streamed_is_refused(pipe: StreamingWanPipeline) -> None:
    from diffusers import WanTransformer3DModel

    made = dict(num_attention_heads=2, attention_head_dim=24, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=1)
    with pytest.raises(ValueError, match="36 channels and makes 16: it is an image-to-video network"):
        StreamingWanPipeline(WanTransformer3DModel(**made, in_channels=36))
    with pytest.raises(ValueError, match="takes a picture's embedding: it is an image-to-video network"):
        StreamingWanPipeline(WanTransformer3DModel(**made, image_dim=8, added_kv_proj_dim=48))
    with pytest.raises(ValueError, match="two experts"):
        StreamingWanPipeline(pipe.transformer, transformer_2=pipe.transformer)
    bare = StreamingWanPipeline(pipe.transformer)
    with pytest.raises(ValueError, match="give system=, one of adastate"):
        bare.stream("a ball")
    with pytest.raises(ValueError, match="this pipeline has no vae"):
        bare.stream("a ball", system="adastate")
