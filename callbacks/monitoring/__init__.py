"""Progress, speed, heartbeats and skipped samples."""
