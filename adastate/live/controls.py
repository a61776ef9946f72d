"""What may be asked of a running stream: {"kind": "prompt", "text", "switch", "anchor"} and {"kind": "act", "keys"}.

Controls come from anyone: each is checked for itself before it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor

from adastate.stream import StreamSpec
from adastate.stream.action_schedule import columns_of, held_keys
from adastate.stream.switches import Fate, Kind, SwitchPolicy


def check_control(told: Mapping[str, Any], spec: StreamSpec, actions: int) -> None:
    """Raises ValueError for what is no control of this stream.

    Args:
        actions: columns of the network.
    """
    kind = told.get("kind")
    if kind == "prompt":
        check_prompt(told.get("text"))
        spec.check_switch(policy_of(told, spec))
    elif kind == "act":
        columns_held(told, actions)
    else:
        raise ValueError(f"a control is a prompt or an act, and not {kind!r}")


def check_scripted(told: Mapping[str, Any], spec: StreamSpec, actions: int) -> None:
    """The same of one of a script, which has the number of its chunk."""
    at = told.get("chunk")
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        raise ValueError(f"a control of a script has the number of its chunk, 0 or above, and not {at!r}")
    check_control(told, spec, actions)


def check_prompt(prompt: Any) -> str:
    """The prompt; raises ValueError for what is none."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"a prompt is a text, and not {prompt!r}")
    return prompt


def policy_of(told: Mapping[str, Any], spec: StreamSpec) -> SwitchPolicy:
    """What becomes of the past when this prompt comes in."""
    kind, anchor = told.get("switch"), told.get("anchor")
    if kind not in (None, *get_args(Kind)):
        raise ValueError(f"no kind of switch {kind!r}; there are {', '.join(get_args(Kind))}")
    if anchor not in (None, *get_args(Fate)):
        raise ValueError(f"an anchor is kept or reset, so anchor is {' or '.join(get_args(Fate))}, not {anchor!r}")
    return spec.switch.turned(kind, anchor)


def columns_held(told: Mapping[str, Any], actions: int) -> Tensor:
    """The columns `[1, 1, A]` of an act."""
    if not actions:
        raise ValueError("this network cannot be steered: its size has no `actions`")
    return columns_of(held_keys(told.get("keys", "")), actions)
