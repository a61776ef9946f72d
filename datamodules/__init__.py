"""Where batches come from: WebDataset shards, prompts, teacher trajectories, and the built-in tiny world."""
