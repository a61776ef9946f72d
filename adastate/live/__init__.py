"""Live streams: sessions that can be steered, saved, forked and rolled back, with shared network passes."""
