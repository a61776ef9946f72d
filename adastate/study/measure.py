"""`adastate study measure` and `real`: a run's rollouts, or real flights, into one file of numbers and a few pictures.

Every run is rolled out with the same prompts and the same noise, given by its place in the stream, so that two arms are
compared pair by pair. What is written: `measures.npz` with curves `[rollouts, horizons]`, moments of features and the
pictures of the strips; `measures.json` with the protocol and the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adastate.config.systems import TRAINED, System
from adastate.encoders import Codec, TinyCodec
from adastate.evaluation.compare import roll
from adastate.evaluation.evaluate import even_flights
from adastate.media.video import to_uint8
from adastate.metrics.quality import VERSION as FEATURES
from adastate.runtime import atomic
from adastate.study import attention_by_place, measures
from adastate.study.arm_stages import HORIZON
from adastate.study.measures import Curves, curves, feature_moments, hidden
from adastate.training.load_run import load_student
from datamodules.worlds import flyover, fog, journey
from datamodules.worlds.flyover import Flight

EVEN: dict[str, Callable[[int, int], Sequence[Flight]]] = {
    "plain": even_flights,
    "journey": journey.even_journeys,
    "fog": fog.even_foggy,
}
"""The true flights of a world that runs are measured against, of a count and a seed."""

RENDER: dict[str, Callable[..., Tensor]] = {"plain": flyover.render, "journey": journey.render, "fog": fog.render}
"""Pictures `[B, T, 3, 32, 32]` of flights of a world: their number, and that of the first."""

BATCH = 16
SHOWN = 2
"""Rollouts whose pictures are kept."""

STRIP = 4
"""Chunks of a stretch that are kept as pictures."""

WINDOWS = (1, 2, 3, 4, 6)
"""Window sizes for which attention is measured."""

APART = 5000
"""Pictures between the real flights that are measured and those that they are measured against."""


def write(out: Path, arrays: dict[str, np.ndarray], told: dict[str, Any]) -> None:
    """`measures.npz` and, when that is complete, `measures.json`."""
    with atomic.replacing(out / "measures.npz") as part, part.open("wb") as file:  # savez adds .npz to a bare name
        np.savez_compressed(file, allow_pickle=False, **arrays)
    atomic.write_json(out / "measures.json", told)


def arrays(found: Sequence[Curves], moments: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Of several batches of rollouts, curves as `curve/<name>`."""
    joined = {f"curve/{name}": torch.cat([f[name] for f in found]).float().numpy() for name in found[0]}
    return {**joined, "moments": torch.cat(list(moments)).numpy()}


def stretches(chunks: Sequence[Any], horizons: Sequence[int], chunks_a_horizon: int) -> dict[str, list[Any]]:
    """The first chunks of a rollout and the last ones of each told horizon."""
    found = {"start": list(chunks[:STRIP])}
    for h in horizons:
        end = h * chunks_a_horizon
        found[f"{h}x"] = list(chunks[max(0, end - STRIP) : end])
    return found


def measure_run(run: Path, kind: str, rollouts: int, horizons: Sequence[int], seed: int) -> None:
    """Rolls the student of a run out and writes what is measured of it."""
    student = load_student(run)
    codec, frames = student.codec, student.rollout_frames
    truth = list(EVEN[kind](rollouts, seed))
    once, chunk = codec.video_frames(frames), codec.video_frames(student.chunk_frames)
    system = System(TRAINED, "", student.spec, 0)
    made = roll(student, system, [f.caption for f in truth], horizons[-1] * frames, seed, BATCH)
    video, found, moments = made.video, list[Curves](), list[Tensor]()
    states = [s for s in made.states if s is not None]
    whole = len(states) == len(made.chunks)
    middles = torch.stack([s[:, s.shape[1] // 2] for s in states], 1) if whole else None
    for first in range(0, rollouts, BATCH):
        some = video[first : first + BATCH]
        flown = truth[first : first + BATCH]
        behind = hidden(some, None if middles is None else middles[first : first + BATCH], flown, once)
        found.append({**curves(some, flown, once, chunk, codec.fps), **behind})
        moments.append(feature_moments(some, once))
    kept = arrays(found, moments)
    per = frames // student.chunk_frames
    for name, part in stretches([c[:SHOWN] for c in made.chunks], horizons, per).items():
        kept[f"shown/{name}"] = to_uint8(torch.cat(part, 1)).numpy()
    if whole:
        for name, part in stretches([s[:SHOWN] for s in states], horizons, per).items():
            kept[f"states/{name}"] = to_uint8(torch.cat(part, 1)).numpy()
    looked = attention_by_place.measure(student, [f.caption for f in truth[:4]], WINDOWS, 2 * per, seed)
    trained = student.spec.past_frames
    if trained is not None and trained not in WINDOWS:
        looked += attention_by_place.measure(student, [f.caption for f in truth[:4]], [trained], 2 * per, seed)
    told = _protocol(kind, truth, horizons, seed, codec, once)
    told["attention"] = [
        {"past_frames": a.past_frames, "places": a.places, "shares": a.shares.round(5).tolist()} for a in looked
    ]
    told["trained_window"] = trained
    told["pictures_s"] = round(video.shape[0] * video.shape[1] / made.seconds, 1)
    write(run, kept, told)


@torch.no_grad()
def measure_real(out: Path, weights: str, kind: str, rollouts: int, horizons: Sequence[int], seed: int) -> None:
    """The same of the true flights, as the codec gives them back, and the moments that distances are taken from."""
    codec = TinyCodec(weights).eval().requires_grad_(False)
    truth = list(EVEN[kind](rollouts, seed))
    once, found, moments, reference, shown = codec.video_frames(HORIZON), [], [], [], dict[str, np.ndarray]()
    for first in range(0, rollouts, BATCH):
        some = truth[first : first + BATCH]
        video = _decoded(codec, kind, some, horizons[-1], once, 0)
        found.append({**curves(video, some, once, codec.video_frames(1), codec.fps), **hidden(video, None, some, once)})
        moments.append(feature_moments(video, once))
        reference.append(feature_moments(_decoded(codec, kind, some, horizons[-1], once, APART), once).sum((0, 1)))
        if first == 0:
            parts = [to_uint8(c[:SHOWN]).numpy() for c in video.split(codec.video_frames(1), 1)]
            for name, chunks in stretches(parts, horizons, HORIZON).items():
                shown[f"shown/{name}"] = np.concatenate(chunks, 1)
    kept = {**arrays(found, moments), **shown, "reference": torch.stack(reference).sum(0).numpy()}
    write(out, kept, _protocol(kind, truth, horizons, seed, codec, once))


def _decoded(codec: TinyCodec, kind: str, some: Sequence[Flight], horizons: int, once: int, first: int) -> Tensor:
    """Real flights through the codec, rendered a horizon at a time: a whole flight's ground would be large."""
    parts = []
    for h in range(horizons):
        at = first + h * once
        parts.append(codec.decode(codec.encode(RENDER[kind](some, once, at))))
    return torch.cat(parts, 1)


def _protocol(
    kind: str, truth: Sequence[Flight], horizons: Sequence[int], seed: int, codec: Codec, once: int
) -> dict[str, Any]:
    return {
        "world": kind,
        "rollouts": len(truth),
        "horizons": list(horizons),
        "seed": seed,
        "pictures": once,
        "fps": codec.fps,
        "measures": measures.VERSION,
        "features": FEATURES,
        "flow": "block matching",
        "prompts": [f.caption for f in truth],
    }
