"""Network weights in and out of files: our own, Wan2.1's, diffusers' and those of released students.

Names are imported as they are asked for: a command line is checked before anything imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adastate.weights.builtin import BUILTIN
    from adastate.weights.exporting import export, import_
    from adastate.weights.files import WeightsError
    from adastate.weights.native import header_facts, load_network, load_weights, mismatch, save_weights
    from adastate.weights.network_weights import NetworkWeights, open_weights

__all__ = [
    "BUILTIN",
    "NetworkWeights",
    "WeightsError",
    "export",
    "header_facts",
    "import_",
    "load_network",
    "load_weights",
    "mismatch",
    "open_weights",
    "save_weights",
]

_HOMES = {
    "BUILTIN": "builtin",
    "NetworkWeights": "network_weights",
    "WeightsError": "files",
    "export": "exporting",
    "header_facts": "native",
    "import_": "exporting",
    "load_weights": "native",
    "mismatch": "native",
    "load_network": "native",
    "open_weights": "network_weights",
    "save_weights": "native",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
