"""Network weights in and out of files: our own, Wan2.1's, diffusers' and those of released students."""

from adastate.weights.export import export, import_
from adastate.weights.files import WeightsError
from adastate.weights.native import BUILTIN, facts, load, mismatch, network, save
from adastate.weights.network_weights import NetworkWeights, read

__all__ = [
    "BUILTIN",
    "NetworkWeights",
    "WeightsError",
    "export",
    "facts",
    "import_",
    "load",
    "mismatch",
    "network",
    "read",
    "save",
]
