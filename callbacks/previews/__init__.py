"""Long rollouts with decoded hidden states, for TensorBoard and the run folder."""
