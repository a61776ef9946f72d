"""Atomic checkpoints, resuming from them, and preemption."""
