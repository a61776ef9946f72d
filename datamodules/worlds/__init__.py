"""Built-in worlds whose every frame is known."""
