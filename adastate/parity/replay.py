"""All replays, by the fixtures' `system`."""

from __future__ import annotations

from adastate.parity import networks, sampling, scores, streams, training_rollouts
from adastate.parity.fixture import Fixture, FixtureError
from adastate.parity.keys import Replay, unknown_keys
from adastate.parity.tolerances import Compared

REPLAYS: dict[str, Replay] = {**networks.REPLAY, **scores.REPLAY, **sampling.REPLAY, **streams.REPLAY}


def replay(fixture: Fixture) -> list[Compared]:
    """Compares every output of a fixture; raises FixtureError for unsupported content."""
    system = fixture.setting("system")
    replays, what = REPLAYS, "system"
    if training_rollouts.is_training(fixture):
        replays, what = training_rollouts.REPLAY, "training rollouts of system"
    if system not in replays:
        raise FixtureError(f"no replay for {what} {system!r}; available are {', '.join(replays)}")
    strange = unknown_keys(fixture, replays[system])
    if strange:
        raise FixtureError(f"unknown key {', '.join(map(repr, strange))} of system {system!r}")
    _check_shapes(fixture)
    found = replays[system].run(fixture)
    left = sorted(fixture.outputs.keys() - {c.output for c in found})
    if left:
        raise FixtureError(f"unknown output {', '.join(map(repr, left))} of system {system!r}")
    if not found:
        raise FixtureError("it has no outputs to compare")
    return found


def _check_shapes(f: Fixture) -> None:
    """Raises FixtureError if meta.json gives other shapes than the tensors have."""
    x = f.inputs.get("noise", f.inputs.get("x"))
    if x is None or x.dim() != 5:
        return
    height, width = x.shape[-2:]
    found = {"batch": len(x), "latent_hw": [height, width]}
    if "config" in f.meta:
        _, down, right = f.size.patch
        found["frame_seqlen"] = (height // down) * (width // right)
    for key, value in found.items():
        if f.setting(key, value) != value:
            raise FixtureError(f"{key} is {f.meta[key]!r} in meta.json, but {value} by the tensors")
