"""What a run shows while it trains: previews, decoded states, a gallery, an overview, throughput, one line of progress.

Callbacks call public methods of the LightningModule (see `callbacks.streams`) and never touch nets or caches.
"""

from callbacks.checkpoints import Checkpoints
from callbacks.heartbeat import Heartbeat
from callbacks.layout import Layout
from callbacks.preempt import Preempt
from callbacks.progress import Progress
from callbacks.rollouts import Rollouts
from callbacks.skipped import Skipped
from callbacks.throughput import Throughput

__all__ = ["Checkpoints", "Heartbeat", "Layout", "Preempt", "Progress", "Rollouts", "Skipped", "Throughput"]
