"""Measures rollouts, and compares systems."""
