"""What a run saves and shows while it trains: checkpoints and preemption; previews with decoded states, a gallery, an
overview; throughput, heartbeats, a progress line.

Callbacks call public methods of the LightningModule (see `callbacks.protocols`) and never touch nets or caches.
"""

from callbacks.checkpointing.checkpoints import Checkpoints
from callbacks.checkpointing.preempt import Preempt
from callbacks.monitoring.curve_logger import CurveLogger
from callbacks.monitoring.heartbeat import Heartbeat
from callbacks.monitoring.progress import Progress
from callbacks.monitoring.skipped_samples import Skipped
from callbacks.monitoring.throughput import Throughput
from callbacks.previews.rollouts import Rollouts
from callbacks.previews.tensorboard_layout import Layout

__all__ = [
    "Checkpoints",
    "CurveLogger",
    "Heartbeat",
    "Layout",
    "Preempt",
    "Progress",
    "Rollouts",
    "Skipped",
    "Throughput",
]
