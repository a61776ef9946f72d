"""`adastate parity`: replays recorded runs of the reference implementations and compares every tensor of theirs."""
