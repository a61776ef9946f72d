"""Look away and return: how much of a landmark that has left the view remains when the camera looks at it again.

A stream begins with given frames of a rendered flight in which a landmark is visible. Then the camera looks left, right
or back for a number of latent frames, and forward again. It flies slowly, and banks for a moment while it looks away,
so that the landmark is elsewhere in the view when it comes back. The pictures after the return are compared with the
exact render of the same poses: position and colour of the landmark. With `drifting` it is a balloon that the wind has
moved in the meantime, and the camera hovers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adastate.encoders.batching import portions
from adastate.media.video import to_float, to_uint8
from adastate.metrics.flight_landmarks import FOUND, spotted
from adastate.metrics.flight_return import HALF_VIEW
from adastate.stream import StreamSpec
from adastate.training.student import Student
from datamodules.worlds.flight.atmosphere import WEATHERS
from datamodules.worlds.flight.camera_path import KEYS, PICTURES, path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.landmarks import drifted, sight
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import Rules, Voyage, voyage

GIVEN, AFTER = 4, 2
"""Latent frames of a rendered flight that precede a stream, and those that are measured after the return."""

RETURN = 6
"""Latent frames in which the slowest head turns from back to front."""

LOOKS = {"left": "j", "right": "l", "back": "jl"}
"""Where the camera looks, and the keys for it."""

NEAR, FAR, INNER = 9.0, 50.0, 0.42
"""Units ahead between which a landmark is large enough, and maximum radians from the middle of the view."""

CLOSE = 0.06
"""Maximum radians between the landmark spotted in the exact render and its true direction."""

MOST_TRIED = 400
"""Flights that are tried for each one that is wanted."""

CLEAR = [name for name in WEATHERS if name != "thick haze"]


@dataclass(frozen=True)
class Outing:
    """One flight that looks away and returns.

    Attributes:
        flight, prompt, look: the flight, its prompt and a key of LOOKS.
        actions: keys of the latent frames after the given ones `[F, 8]`.
        poses: of all its pictures `[T, 8]`, the given ones first.
        first: index of the first picture after the return, counted from the first given one.
        hidden: number of pictures in which the landmark is out of view.
        kept: bearing of the landmark in the pictures after the return if it had not moved, in radians.
        given, true: pictures before, `[3 GIVEN, 3, 64, 64]`, and exact ones after, `[3 AFTER, 3, 64, 64]`.
    """

    flight: Voyage
    prompt: str
    look: str
    actions: Tensor
    poses: Tensor
    first: int
    hidden: int
    kept: Tensor
    given: Tensor
    true: Tensor


def script(look: str, away: int, bank: str) -> Tensor:
    """Keys `[GIVEN + away + RETURN + AFTER, 8]`: a look aside for `away` latent frames after the given ones.

    Args:
        look: key of LOOKS.
        bank: a or d, held in the first frame that looks aside; without either the camera hovers all the time.
    """
    frames = torch.zeros(GIVEN + away + RETURN + AFTER, len(KEYS))
    frames[:, [KEYS.index(k) for k in ("s" if bank else "ws")]] = 1
    frames[GIVEN : GIVEN + away, [KEYS.index(k) for k in LOOKS[look]]] = 1
    frames[GIVEN, [KEYS.index(k) for k in bank]] = 1
    return frames


def turned_head(flight: Voyage, keys: Tensor, poses: Tensor) -> Tensor:
    """Radians between the viewing direction and the flight direction, at each of `poses` [T, 8]."""
    ahead = keys.clone()
    ahead[:, [KEYS.index(k) for k in "jl"]] = 0
    return poses[:, 3] - path(flight, ahead)[:, 3]


def outings(seed: int, count: int, away: int, drifting: bool = False) -> list[Outing]:
    """`count` flights of the world `seed`, a third of them looking each way, with a landmark before and after.

    Raises:
        ValueError: too few flights have a landmark in view again after so long a time.
    """
    if count < 1 or away < 1:
        raise ValueError(f"{count} flights that look away for {away} latent frames: give 1 or more of both")
    found, tried, looks = list[Outing](), 0, list(LOOKS)
    while len(found) < count:
        if tried == MOST_TRIED * count:
            raise ValueError(
                f"of {tried} flights only {len(found)} have a landmark before and after {away} latent frames: look "
                "away for less"
            )
        made = outing(seed, tried, looks[len(found) % len(looks)], away, drifting)
        tried += 1
        if made is not None:
            found.append(made)
    return found


def outing(seed: int, index: int, look: str, away: int, drifting: bool) -> Outing | None:
    """Flight number `index`, looking away; None if no landmark is well in view both before and after."""
    own = {"landmark": "nothing else" if drifting else "hot-air balloons", "weather": CLEAR[index % len(CLEAR)]}
    flight = voyage(seed, index, Rules(grain=False, drifting=drifting), **own)
    keys = script(look, away, "" if drifting else "ad"[index // len(LOOKS) % 2])
    poses = path(flight, keys)
    last = GIVEN * PICTURES - 1
    first = int((turned_head(flight, keys, poses).abs() > 1e-6).nonzero().max()) + 1
    after = torch.arange(first, first + AFTER * PICTURES)
    seen = sight(flight, poses)
    inside = (seen.ahead > NEAR) & (seen.ahead < FAR) & (seen.bearing.abs() < INNER)
    there = inside[last] & inside[after].all(0)
    if not there.any():
        return None
    shown = render_flight(flight, poses[torch.cat([torch.arange(last + 1), after])])
    marks = spotted(shown[None, last:])
    moments = torch.cat([torch.tensor([last]), after])
    for which in there.nonzero()[:, 0].tolist():
        off = (marks.bearing[0] - seen.bearing[moments, which]).abs()
        right = (marks.score[0] > FOUND) & (off < CLOSE) & (marks.colour[0] == seen.colour[which])
        if right.all():
            hidden = (seen.bearing[:, which].abs() > HALF_VIEW) | (seen.ahead[:, which] < 0)
            kept = _kept(flight, poses, last, after) if drifting else seen.bearing[after, which]
            told = replace(flight, landmark="hot-air balloons")  # the prompt says that there is one
            return Outing(
                flight, caption(told), look, keys[GIVEN:], poses, first, int(hidden[last:first].sum()), kept.float(),
                shown[: last + 1], shown[last + 1 :],
            )  # fmt: skip
    return None


def _kept(flight: Voyage, poses: Tensor, last: int, after: Tensor) -> Tensor:
    """Bearing, after the return, of the place where the drifting balloon was last seen, in radians."""
    away = drifted(flight, poses[last : last + 1, 7])[0, :2] - poses[after, :2]
    sin, cos = poses[after, 3].sin(), poses[after, 3].cos()
    return torch.atan2(away[:, 0] * cos - away[:, 1] * sin, away[:, 0] * sin + away[:, 1] * cos)


@torch.no_grad()
def stream_outings(student: Student, tasks: Sequence[Outing], spec: StreamSpec | None = None, seed: int = 0) -> Tensor:
    """A student's pictures after the return, `[B, 3 AFTER, 3, 64, 64]`: one stream per outing."""
    return torch.cat(list(_streamed(student, tasks, spec or student.spec, seed)))


def _streamed(student: Student, tasks: Sequence[Outing], spec: StreamSpec, seed: int) -> Iterator[Tensor]:
    codec, chunk = student.codec, spec.chunk_frames
    for part in portions(len(tasks), student.latent_size):
        some = [tasks[i] for i in part]
        ends = max(task.first + AFTER * PICTURES for task in some) - GIVEN * PICTURES
        frames = math.ceil(math.ceil(ends / PICTURES) / chunk) * chunk
        given = codec.encode(torch.stack([task.given for task in some]).to(student.device))
        actions = torch.stack([task.actions for task in some])
        decoder, made = codec.stream(), list[Tensor]()
        for step in student.stream(
            [task.prompt for task in some], frames, seed, given, spec=spec, index=part, actions=actions
        ):
            made.append(to_uint8(decoder.decode(step.content)))
        video = torch.cat(made, 1)
        starts = [task.first - GIVEN * PICTURES for task in some]
        yield to_float(torch.stack([v[s : s + AFTER * PICTURES] for v, s in zip(video, starts, strict=True)]))


def standing_still(student: Student, tasks: Sequence[Outing]) -> Tensor:
    """The baseline: the last picture before the camera looks away, held, after the codec."""
    kept = torch.stack([task.given[-PICTURES:] for task in tasks])
    shown = torch.cat([student.codec.decode(student.codec.encode(v.to(student.device))).cpu() for v in kept.split(8)])
    return shown[:, -1:].expand(-1, AFTER * PICTURES, -1, -1, -1)


def rendered(student: Student, tasks: Sequence[Outing]) -> Tensor:
    """The ceiling: the exact render after the return, after the codec."""
    true = torch.stack([task.true for task in tasks])
    return torch.cat([student.codec.decode(student.codec.encode(v.to(student.device))).cpu() for v in true.split(8)])
