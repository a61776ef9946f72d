"""What makes a causal student of a bidirectional network, before it is distilled.

A config names an initialisation by its class path and its arguments; any class that has the methods of
adastate.training.initializations.initialization.Initialization can take their place.
"""

from adastate.training.initializations.consistency import Consistency
from adastate.training.initializations.flow_matching import DiffusionForcing, TeacherForcing
from adastate.training.initializations.initialization import Initialization, StudentNetworks
from adastate.training.initializations.ode_regression import OdeRegression

__all__ = [
    "Consistency",
    "DiffusionForcing",
    "Initialization",
    "OdeRegression",
    "StudentNetworks",
    "TeacherForcing",
]
