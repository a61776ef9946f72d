"""Commands that turn videos and published pairs into shards."""
