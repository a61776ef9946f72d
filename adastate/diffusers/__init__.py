"""Streams in diffusers: a pipeline on its own transformer, scheduler, VAE and text encoder."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("diffusers") is None:
    raise ImportError("adastate.diffusers needs diffusers and transformers: pip install -e '.[wan]'")

from adastate.diffusers.streamed_chunk import StreamedChunk
from adastate.diffusers.streaming_pipeline import StreamingWanPipeline

__all__ = ["StreamedChunk", "StreamingWanPipeline"]
