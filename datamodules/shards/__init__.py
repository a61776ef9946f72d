"""Reading, writing and checking WebDataset shards."""
