"""Checkpoints that are whole or absent, resuming from them, and preemption."""
