"""The error of shards, in a module of its own that does not import torch."""

from __future__ import annotations


class ShardError(ValueError):
    """Shards that cannot be used; the message names the shard and the remedy."""
