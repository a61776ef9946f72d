"""AdaState: streaming video generation with self-evolving anchors, in PyTorch Lightning."""

__version__ = "0.1.0"
