"""The heart: what a stream keeps (cache), where it stands (positions), and the loop that makes it (rollout).

The network comes as a callable: nothing here imports it. Names are imported as they are asked for, because a
configuration's `stream` is checked, by StreamSpec, before anything imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adastate.stream.cache import StateCache
    from adastate.stream.exits import Exits
    from adastate.stream.prompt_switch import prefill
    from adastate.stream.spec import StreamSpec
    from adastate.stream.switches import PromptSwitch, SwitchPolicy

__all__ = ["Exits", "PromptSwitch", "StateCache", "StreamSpec", "SwitchPolicy", "prefill"]

_HOMES = {
    "Exits": "exits",
    "PromptSwitch": "switches",
    "StateCache": "cache",
    "StreamSpec": "spec",
    "SwitchPolicy": "switches",
    "prefill": "prompt_switch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
