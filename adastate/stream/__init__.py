"""The heart: what a stream keeps (cache), where it stands (positions), and the loop that makes it (rollout).

The network comes as a callable: nothing here imports it.
"""

from adastate.stream.cache import StateCache
from adastate.stream.rollout import prefill, rollout
from adastate.stream.spec import StreamSpec

__all__ = ["StateCache", "StreamSpec", "prefill", "rollout"]
