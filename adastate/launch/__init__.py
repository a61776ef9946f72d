"""The pipeline, its stages, groups of processes, and the SLURM job."""
