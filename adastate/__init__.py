"""AdaState: streaming video generation with self-evolving anchors, in PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adastate.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is asked for: the command line answers without torch where it can."""
    if name in __all__:
        from adastate import api

        return getattr(api, name)
    raise AttributeError(f"module 'adastate' has no attribute {name!r}")
