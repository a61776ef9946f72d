"""The heart: what a stream keeps (cache), where it stands (positions), and the loop that makes it (rollout).

The network comes as a callable: nothing here imports it.
"""

from adastate.stream.cache import StateCache
from adastate.stream.exits import Exits
from adastate.stream.prompt_switch import prefill
from adastate.stream.rollout import rollout
from adastate.stream.spec import StreamSpec
from adastate.stream.switches import PromptSwitch, SwitchPolicy

__all__ = ["Exits", "PromptSwitch", "StateCache", "StreamSpec", "SwitchPolicy", "prefill", "rollout"]
