"""`adastate rehearse`: one iteration of a run on a simulated cluster, before it runs on a real one."""
