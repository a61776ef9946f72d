"""Wan's VAE and UMT5 behind our interfaces, on tiny random weights in the layout of the real repositories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.encoders import UMT5, WanVAE

FRAMES = 4


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> WanVAE:
    from diffusers import AutoencoderKLWan

    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1).save_pretrained(folder / "vae")
    return WanVAE(str(folder))


@pytest.fixture(scope="module")
def latents(vae: WanVAE) -> torch.Tensor:
    return vae.encode(torch.rand(1, vae.pictures(FRAMES), 3, 32, 48, generator=torch.manual_seed(1)) * 2 - 1)


def test_latents_have_a_frame_for_every_four_pictures_and_one_for_the_first(vae: WanVAE, latents: torch.Tensor) -> None:
    assert vae.pictures(FRAMES) == 13
    assert latents.shape == (1, FRAMES, 16, 4, 6)
    with pytest.raises(ValueError, match="4F - 3 pictures, got 12"):
        vae.encode(torch.zeros(1, 12, 3, 32, 48))


def test_streaming_equals_decoding_the_clip_as_diffusers_does(vae: WanVAE, latents: torch.Tensor) -> None:
    raw = latents.transpose(1, 2) * vae.std + vae.mean
    whole = vae.vae.decode(raw).sample.transpose(1, 2).clamp(-1, 1)
    stream = vae.stream()
    parts = [stream.decode(part) for part in latents.split([1, 2, 1], 1)]
    assert [p.shape[1] for p in parts] == [1, 8, 4]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_two_streams_do_not_disturb_each_other(vae: WanVAE, latents: torch.Tensor) -> None:
    alone = vae.decode(latents)
    video, parts = vae.stream(), []
    for frame in latents.split(1, 1):
        parts.append(video.decode(frame))
        vae.decode(frame)  # a hidden state, decoded as a clip of its own in between
    assert torch.equal(torch.cat(parts, 1), alone)


def test_umt5_pads_with_zero_rows_and_encodes_each_prompt_once(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = {"<pad>": 0, "<unk>": 1, "a": 2, "ball": 3, "bounces": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(tmp_path / "text_encoder")
    text = UMT5(str(tmp_path), tokens=6, dtype="float32")
    found = text.embed(["a  ball\nbounces", "a ball", ""])
    assert found.shape == (3, 6, 16)
    assert found[0, :3].abs().sum() > 0 and found[0, 3:].abs().sum() == 0
    assert found[1, 2:].abs().sum() == 0 and found[2].abs().sum() == 0
    text.model = None  # known prompts need no model any more
    assert torch.equal(text.embed(["a ball"])[0], found[1])
