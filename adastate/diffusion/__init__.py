"""Flow matching: noise, solvers, losses. The maths and nothing else."""
