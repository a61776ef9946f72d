"""Reads, writes and checks WebDataset shards."""
