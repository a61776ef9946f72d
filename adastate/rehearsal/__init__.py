"""`adastate rehearse`: an iteration of a run on a pretended cluster, before it costs a real one."""
