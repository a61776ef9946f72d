"""Videos from prompts, and teacher trajectories."""
