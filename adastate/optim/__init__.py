"""AdamW, averages, the spike guard, accumulation, and manual optimisation."""
