"""All replays, by the fixtures' `system`."""

from __future__ import annotations

from adastate.parity import networks, sampling, scores, streams
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, unknown_keys
from adastate.parity.tolerances import Compared, not_comparable

REPLAYS: dict[str, Replay] = {**networks.REPLAY, **scores.REPLAY, **sampling.REPLAY, **streams.REPLAY}


def replay(fixture: Fixture) -> list[Compared]:
    """Every output of a fixture compared; what this project does not know is named by a FixtureError."""
    system = fixture.setting("system")
    if system not in REPLAYS:
        raise FixtureError(f"no replay for system {system!r}; there are {', '.join(REPLAYS)}")
    settings, figures = unknown_keys(fixture, REPLAYS[system])
    if settings:
        raise FixtureError(f"does not know the key {', '.join(map(repr, settings))} of system {system!r}")
    found = REPLAYS[system].run(fixture)
    left = sorted(fixture.outputs.keys() - {c.output for c in found})
    if left:
        raise FixtureError(f"does not know the output {', '.join(map(repr, left))} of system {system!r}")
    if not any(c.reason == "" for c in found):
        raise FixtureError("nothing of it can be compared")
    return found + [not_comparable(f"meta.{name}", "unknown key") for name in figures]
