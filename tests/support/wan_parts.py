"""A tiny random VAE, tokenizer and text encoder in the layout of Wan's repositories for diffusers."""

from __future__ import annotations

from pathlib import Path

import torch

TEXT_WIDTH = 16


def write_parts(folder: Path) -> Path:
    """`vae`, `tokenizer` and `text_encoder` of 16 latent channels and embeddings of width `TEXT_WIDTH`."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1).save_pretrained(folder / "vae")
    words = {"<pad>": 0, "<unk>": 1, "a": 2, "ball": 3, "bounces": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder / "tokenizer")
    config = UMT5Config(vocab_size=8, d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder
