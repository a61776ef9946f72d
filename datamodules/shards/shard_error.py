"""What is raised of shards; here, so that it is known without torch."""

from __future__ import annotations


class ShardError(ValueError):
    """Shards that cannot be used; the sentence names the shard and the remedy."""
