"""Pixels <-> latents and prompts -> embeddings, behind two small interfaces.

The built-in codec and text encoder need no download and serve the tiny size. WanVAE and UMT5 wrap diffusers'
and transformers' classes, which are imported where they are used: they cost seconds to import. TAEHV stands in for
Wan's VAE where decoding is the bottleneck.
"""

from adastate.encoders.group_codec import PRETRAINED, GroupCodec
from adastate.encoders.hub import EncoderError
from adastate.encoders.interfaces import Codec, StreamDecoder, TextEncoder, embedded, starts_with_a_picture
from adastate.encoders.residual_codec import ResidualCodec
from adastate.encoders.taehv import TAEHV
from adastate.encoders.tiny import TinyCodec, TinyText
from adastate.encoders.wan_vae import UMT5, WanVAE

__all__ = [
    "PRETRAINED",
    "TAEHV",
    "UMT5",
    "Codec",
    "EncoderError",
    "GroupCodec",
    "ResidualCodec",
    "StreamDecoder",
    "TextEncoder",
    "TinyCodec",
    "TinyText",
    "WanVAE",
    "embedded",
    "starts_with_a_picture",
]
