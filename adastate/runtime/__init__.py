"""What every part of the program may lean on: files and processes, and nothing of networks or training."""
