"""`adastate study measure` and `real`: measures a run's rollouts, or real flights; writes numbers and a few pictures.

Every run is rolled out with the same prompts and the same noise, a function of the position in the stream, so arms are
compared pair by pair. Output: `measures.npz` with curves `[rollouts, horizons]`, moments of features and the pictures
of the strips; `measures.json` with the protocol and the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adastate.config.systems import TRAINED, System
from adastate.encoders import Codec, TinyCodec
from adastate.evaluation.compare import roll
from adastate.media.video import to_uint8
from adastate.metrics import Passages
from adastate.metrics.quality import VERSION as FEATURES
from adastate.runtime import atomic
from adastate.study import attention_by_place, measures
from adastate.study.measures import Curves, feature_moments, hidden_state_curves, measure_curves
from adastate.study.study_worlds import study_world
from adastate.study.table import read_table
from adastate.study.world_truth import passages_of, world_truth
from adastate.training.load_run import load_student
from datamodules.worlds.flyover import Flight

BATCH = 16
SHOWN = 2
"""Number of rollouts whose pictures are kept."""

STRIP = 4
"""Number of chunks of a stretch that are kept as pictures."""

WINDOWS = (1, 2, 3, 4, 6)
"""Window sizes for which attention is measured."""

APART = 5000
"""Pictures between the measured real flights and those that serve as the reference."""


def write_measures(out: Path, arrays: dict[str, np.ndarray], told: dict[str, Any]) -> None:
    """Writes `measures.npz` and, when that is complete, `measures.json`."""
    with atomic.replacing(out / "measures.npz") as part, part.open("wb") as file:  # savez adds .npz to a bare name
        np.savez_compressed(file, allow_pickle=False, **arrays)
    atomic.write_json(out / "measures.json", told)


def arrays(found: Sequence[Curves], moments: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Joins several batches of rollouts; curves are stored as `curve/<name>`."""
    joined = {f"curve/{name}": torch.cat([f[name] for f in found]).float().numpy() for name in found[0]}
    return {**joined, "moments": torch.cat(list(moments)).numpy()}


def chunks_of_stretches(chunks: Sequence[Any], horizons: Sequence[int], chunks_a_horizon: int) -> dict[str, list[Any]]:
    """The first chunks of a rollout, and the last ones of each given horizon."""
    found = {"start": list(chunks[:STRIP])}
    for h in horizons:
        end = h * chunks_a_horizon
        found[f"{h}x"] = list(chunks[max(0, end - STRIP) : end])
    return found


def passage_arrays(parts: Sequence[Passages | None]) -> dict[str, np.ndarray]:
    """Passages of several batches as `passages/<field>`, with rows numbered consecutively."""
    known = [p for p in parts if p is not None]
    if not known:
        return {}
    rows = torch.cat([p.row + i * BATCH for i, p in enumerate(known)])
    told = {name: torch.cat([getattr(p, name) for p in known]) for name in ("change", "due", "at")}
    return {f"passages/{name}": value.numpy() for name, value in {**told, "row": rows}.items()}


def measure_run(
    run: Path, kind: str, rollouts: int, horizons: Sequence[int], seed: int, out: Path | None = None, arm: str = ""
) -> None:
    """Rolls out the student of a run, measures the rollouts and writes the results.

    Args:
        out: folder to write to; default: the run's.
        arm: arm of the table whose stream is used for the rollouts; default: that of its training.
    """
    student = load_student(run)
    codec, frames = student.codec, student.rollout_frames
    truth = list(world_truth(kind).even(rollouts, seed))
    once, chunk = codec.video_frames(frames), codec.video_frames(student.chunk_frames)
    told_arm = read_table().arms[arm] if arm else None
    spec, rows = (told_arm.spec, told_arm.rope_max_frames) if told_arm else (student.spec, 0)
    system = System(TRAINED, "", spec, rows)
    made = roll(student, system, [f.caption for f in truth], horizons[-1] * frames, seed, BATCH)
    video, found, moments, passages = made.video, list[Curves](), list[Tensor](), list[Passages | None]()
    states = [s for s in made.states if s is not None]
    whole = len(states) == len(made.chunks)
    middles = torch.stack([s[:, s.shape[1] // 2] for s in states], 1) if whole else None
    for first in range(0, rollouts, BATCH):
        some = video[first : first + BATCH]
        flown = truth[first : first + BATCH]
        behind = hidden_state_curves(some, None if middles is None else middles[first : first + BATCH], flown, once)
        found.append({**measure_curves(some, flown, once, chunk, codec.fps), **behind})
        moments.append(feature_moments(some, once))
        passages.append(passages_of(some, flown))
    kept = {**arrays(found, moments), **passage_arrays(passages)}
    per = frames // student.chunk_frames
    for name, part in chunks_of_stretches([c[:SHOWN] for c in made.chunks], horizons, per).items():
        kept[f"shown/{name}"] = to_uint8(torch.cat(part, 1)).numpy()
    if whole:
        for name, part in chunks_of_stretches([s[:SHOWN] for s in states], horizons, per).items():
            kept[f"states/{name}"] = to_uint8(torch.cat(part, 1)).numpy()
    trained = student.spec.past_frames
    windows = (
        []
        if arm or spec.schedule != "uniform"
        else [*WINDOWS, *([trained] if trained is not None and trained not in WINDOWS else [])]
    )
    looked = attention_by_place.measure_attention_by_place(
        student, [f.caption for f in truth[:4]], windows, 2 * per, seed
    )
    told = _protocol(kind, truth, horizons, seed, codec, once)
    told["attention"] = [
        {"past_frames": a.past_frames, "places": a.places, "shares": a.shares.round(5).tolist()} for a in looked
    ]
    told["trained_window"] = trained
    told["pictures_s"] = round(video.shape[0] * video.shape[1] / made.seconds, 1)
    write_measures(out or run, kept, told)


@torch.no_grad()
def measure_real(out: Path, weights: str, kind: str, rollouts: int, horizons: Sequence[int], seed: int) -> None:
    """The same for the true flights, passed through the codec, plus the reference moments for the distances."""
    codec = TinyCodec(weights).eval().requires_grad_(False)
    world, frames = world_truth(kind), study_world(kind).horizon
    truth, once = list(world.even(rollouts, seed)), codec.video_frames(frames)
    found, moments, passages = list[Curves](), list[Tensor](), list[Passages | None]()
    reference, shown = list[Tensor](), dict[str, np.ndarray]()
    for first in range(0, rollouts, BATCH):
        some = truth[first : first + BATCH]
        video = _decoded(codec, kind, some, horizons[-1], once, 0)
        found.append(
            {
                **measure_curves(video, some, once, codec.video_frames(1), codec.fps),
                **hidden_state_curves(video, None, some, once),
            }
        )
        moments.append(feature_moments(video, once))
        passages.append(passages_of(video, some))
        reference.append(feature_moments(_decoded(codec, kind, some, horizons[-1], once, APART), once).sum((0, 1)))
        if first == 0:
            parts = [to_uint8(c[:SHOWN]).numpy() for c in video.split(codec.video_frames(1), 1)]
            for name, chunks in chunks_of_stretches(parts, horizons, frames).items():
                shown[f"shown/{name}"] = np.concatenate(chunks, 1)
    kept = {**arrays(found, moments), **passage_arrays(passages), **shown}
    kept["reference"] = torch.stack(reference).sum(0).numpy()
    write_measures(out, kept, _protocol(kind, truth, horizons, seed, codec, once))


def _decoded(codec: TinyCodec, kind: str, some: Sequence[Flight], horizons: int, once: int, first: int) -> Tensor:
    """Passes real flights through the codec, one horizon at a time: the ground of a whole flight would be large."""
    parts = []
    for h in range(horizons):
        at = first + h * once
        parts.append(codec.decode(codec.encode(world_truth(kind).render(some, once, at))))
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
