"""What a run shows while it trains: previews, decoded states, a gallery, an overview, throughput, one line of progress.

Callbacks call public methods of the LightningModule (see `callbacks.streams`) and never touch nets or caches.
"""

from callbacks.checkpoints import Checkpoints
from callbacks.layout import Layout
from callbacks.progress import Progress
from callbacks.rollouts import Rollouts
from callbacks.throughput import Throughput

__all__ = ["Checkpoints", "Layout", "Progress", "Rollouts", "Throughput"]
