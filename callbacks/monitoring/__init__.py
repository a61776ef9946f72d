"""Progress, speed, heartbeats and what was skipped."""
