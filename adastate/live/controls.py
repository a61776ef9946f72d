"""Controls of a running stream: {"kind": "prompt", "text", "switch", "anchor"} and {"kind": "act", "keys"}.

Controls come from untrusted clients: each is validated before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor

from adastate.stream import StreamSpec
from adastate.stream.action_schedule import columns_of, held_keys
from adastate.stream.switches import Fate, Kind, SwitchPolicy


def check_control(told: Mapping[str, Any], spec: StreamSpec, actions: int) -> None:
    """Raises ValueError for an invalid control of this stream.

    Args:
        actions: number of the network's action columns.
    """
    kind = told.get("kind")
    if kind == "prompt":
        check_prompt(told.get("text"))
        spec.check_switch(policy_of(told, spec))
    elif kind == "act":
        columns_held(told, actions)
    else:
        raise ValueError(f"a control is a prompt or an act, not {kind!r}")


def check_scripted(told: Mapping[str, Any], spec: StreamSpec, actions: int) -> None:
    """The same for a control of a script, which also has its chunk number."""
    at = told.get("chunk")
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        raise ValueError(f"a control of a script has the number of its chunk, 0 or above, not {at!r}")
    check_control(told, spec, actions)


def check_prompt(prompt: Any) -> str:
    """Returns the prompt; raises ValueError if it is empty or not a string."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"a prompt is a non-empty text, not {prompt!r}")
    return prompt


def policy_of(told: Mapping[str, Any], spec: StreamSpec) -> SwitchPolicy:
    """What happens to the cache when this prompt takes effect."""
    kind, anchor = told.get("switch"), told.get("anchor")
    if kind not in (None, *get_args(Kind)):
        raise ValueError(f"no kind of switch {kind!r}; the kinds are {', '.join(get_args(Kind))}")
    if anchor not in (None, *get_args(Fate)):
        raise ValueError(f"an anchor is kept or reset, so anchor is {' or '.join(get_args(Fate))}, not {anchor!r}")
    return spec.switch.turned(kind, anchor)


def columns_held(told: Mapping[str, Any], actions: int) -> Tensor:
    """The action columns `[1, 1, A]` of an act."""
    if not actions:
        raise ValueError("this network cannot be steered: its size has no `actions`")
    return columns_of(held_keys(told.get("keys", "")), actions)
