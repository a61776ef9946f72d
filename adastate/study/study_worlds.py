"""The worlds of the study, as far as command lines need them: bundled weights, guidance of the teachers, length of a
horizon. What is true in a world is in `world_truth`, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from adastate.config.schema import ConfigError


@dataclass(frozen=True)
class StudyWorld:
    """Training settings of a world in the study.

    Attributes:
        weights: name of the bundled codec and teacher; "" if none are bundled: then a study trains them first.
        guidance: of the teacher; None for that of the tiny size.
        horizon: latent frames of a training rollout. Clips of 9 hold one or two complete banks of fog, of 7 often none.
    """

    weights: str
    guidance: float | None
    horizon: int = 7


STUDY_WORLDS: dict[str, StudyWorld] = {
    "mist": StudyWorld("", 0.5, 9),
    "circuit": StudyWorld("", 0.5, 9),
    # from the first study; with a guidance of 1.5 its teacher flies at 0.73 of the prompted speed, with 0.5 at 0.89
    # (docs/reference/pretrained.md)
    "journey": StudyWorld("journey", 0.5),
    "fog": StudyWorld("fog", 0.5),
    "plain": StudyWorld("builtin", None),
}


def study_world(name: str) -> StudyWorld:
    """
    Raises:
        ConfigError: there is no study of that world.
    """
    if name not in STUDY_WORLDS:
        raise ConfigError(
            f"there is no study of the world {name}: give --world {', '.join(STUDY_WORLDS)}, or train in it with "
            f"`make train WORLD={name}`"
        )
    return STUDY_WORLDS[name]
