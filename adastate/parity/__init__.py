"""`adastate parity`: replays recorded runs of the reference implementations and compares all recorded tensors."""
