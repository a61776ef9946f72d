"""Live streams: sessions that are steered, kept, forked and rolled back, several of them in one pass."""
