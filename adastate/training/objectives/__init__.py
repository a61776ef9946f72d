"""What teaches the student, from the scores of teacher and critic on its sample.

A config names an objective by its class path and its arguments; any class that has the methods of
adastate.training.objectives.objective.Objective can take their place.
"""

from adastate.training.objectives.dmd import DMD
from adastate.training.objectives.network_scores import ScoreLevels, Scores
from adastate.training.objectives.objective import Objective
from adastate.training.objectives.sid import SID

__all__ = ["DMD", "SID", "Objective", "ScoreLevels", "Scores"]
