"""Experiments on what a stream remembers: they show causes, where a comparison of arms shows correlations.

`occlusion` drives all streams through one known bank of fog: until it lifts, the true flight's latents replace the
content, so the hue before the bank, the distance flown and the length of the bank are known, and banks may be longer
than any in training. In the middle the anchor is exchanged or dropped, or it is frozen from the start of the bank.
`coupled`, `injection` and `memory_reach` need no fog: they compare streams that differ in one thing only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from adastate import metrics
from adastate.diffusion.noise import PlacedNoise
from adastate.metrics import MemoryFigures, Passages, apart, chunk_distance, forgetting_curve
from adastate.study.stepped_stream import CoupledNoise, SteppedStream, disturbed, exchanged
from adastate.study.world_truth import WorldTruth, hues_of
from adastate.training.student import Student
from datamodules.worlds.fog import BRIGHTNESS, CLEAR, Foggy

Deed = Literal["nothing", "swap", "drop", "freeze"]
DEEDS: tuple[Deed, ...] = get_args(Deed)

BEGIN, MIDDLE_OF_BANK = (CLEAR[1] - BRIGHTNESS[0]) / (BRIGHTNESS[1] - BRIGHTNESS[0]) / 2, 0.5
"""Fraction of a period from which on only fog is visible, and that of its middle; the fog is symmetric around it, so a
bank lasts `1 - 2 BEGIN` of a period."""


@dataclass(frozen=True)
class BankPlan:
    """Position of a bank of fog in a stream that begins under a clear sky, in chunks of `pictures` pictures.

    Attributes:
        period: pictures from one bank to the next in the rendered flight.
        begin, middle: chunks before which the anchor is frozen, and exchanged or dropped.
        end: the first chunk whose content is the stream's own again.
    """

    period: int
    begin: int
    middle: int
    end: int

    @classmethod
    def of(cls, hidden: int, pictures: int) -> BankPlan:
        """For a bank that hides `hidden` pictures; it follows another bank of the same length."""
        period = math.ceil(hidden / (1 - 2 * BEGIN))
        begin, middle, end = (math.floor((1 + at) * period / pictures) for at in (BEGIN, MIDDLE_OF_BANK, 1 - BEGIN))
        return cls(period, begin, middle, end)


@dataclass(frozen=True)
class OcclusionResult:
    """Hues after the bank, over the rows in which the ground appeared.

    Attributes:
        memory: relative to the row's own flight.
        donor_error: distance, in turns, from the hue due in the flight that the anchor came from; only after a swap.
        appeared: share of the rows in which the ground appeared.
    """

    memory: MemoryFigures
    donor_error: float
    appeared: float

    @property
    def row(self) -> dict[str, Any]:
        m = asdict(self.memory)
        return {**m, "relative": self.memory.relative, "donor_error": self.donor_error, "appeared": self.appeared}


def twins(world: WorldTruth, pairs: int, seed: int) -> list[Foggy]:
    """`pairs` flights, then others with the same headings and speeds: rows i and i + pairs may exchange anchors."""
    found = [f for s in (seed, seed + 1) for f in world.even(pairs, s)]
    if not all(isinstance(f, Foggy) for f in found):
        raise ValueError("an occlusion needs a world with fog: mist or fog")
    return [f for f in found if isinstance(f, Foggy)]


def occlusion(
    student: Student, world: WorldTruth, flights: Sequence[Foggy], hidden: int, deed: Deed, seed: int, after: int = 6
) -> OcclusionResult:
    """Runs streams through a bank that hides `hidden` pictures, and `after` further chunks."""
    codec, size = student.codec, student.chunk_frames
    pictures, half = codec.video_frames(size), len(flights) // 2
    plan = BankPlan.of(hidden, pictures)
    flown = [replace(f, period=plan.period, phase=0.0, mover="nothing else moves") for f in flights]
    video = world.render(flown, (plan.end + after) * pictures)
    truth = codec.encode(video)
    other = [(i + half) % len(flown) for i in range(len(flown))]
    stream = SteppedStream(student, [f.caption for f in flights], PlacedNoise(seed, range(len(flown))))
    held, made = None, []
    for chunk in range(plan.end + after):
        anchor = stream.cache.anchor
        if chunk == plan.begin and deed == "freeze":
            held = anchor
        if chunk == plan.middle and anchor is not None and deed == "swap":
            stream.cache.anchor = exchanged(anchor, other)  # type: ignore[arg-type]
        if chunk == plan.middle and deed == "drop":
            stream.cache.anchor = None
        free = chunk >= plan.end
        shown = stream.step(None if free else truth[:, chunk * size : (chunk + 1) * size]).content
        if held is not None:
            stream.cache.anchor = held
        made += [shown] if free else []
    out = hues_of(codec.decode(torch.cat(made, 1)), flown)
    return came_out(out, hues_of(codec.decode(truth), flown), flown, other if deed == "swap" else None, plan, pictures)


def came_out(
    out: Tensor, due: Tensor, flown: Sequence[Foggy], other: Sequence[int] | None, plan: BankPlan, pictures: int
) -> OcclusionResult:
    """Compares the first visible hue of every row `[B, T]` with the hues of the true flights `[B, all pictures]`."""
    first = plan.end * pictures
    begin = math.ceil((1 + BEGIN) * plan.period)  # from here only fog
    rows, change, flight, donor = [], [], [], []
    for row, line in enumerate(out):
        seen = (~line.isnan()).nonzero()[:, 0].tolist()
        before = (~due[row, :begin].isnan()).nonzero()[:, 0].tolist()
        if not seen or not before:
            continue
        at, entry = first + seen[0], before[-1]
        rows.append((row, at))
        change.append(float(line[seen[0]] - due[row, entry]))
        flight.append(flown[row].turning * (at - entry))
        if other is not None:
            theirs = due[other[row], entry] + flown[row].turning * (at - entry)
            donor.append(float(apart(line[seen[0]], theirs)))
    row_at = torch.tensor(rows, dtype=torch.long).view(-1, 2)
    doubles = [torch.tensor(x, dtype=torch.float64) for x in (change, flight)]
    passages = Passages(doubles[0], doubles[1], row_at[:, 0], row_at[:, 1])
    return OcclusionResult(
        _memory(passages), sum(donor) / len(donor) if donor else float("nan"), len(rows) / max(1, len(out))
    )


def _memory(passages: Passages) -> MemoryFigures:
    """Memory figures; without a slope where distances differ so much that it is ambiguous."""
    if len(passages) and float((passages.due - passages.due.mean()).abs().max()) >= 0.5:
        slow = passages.due <= passages.due.median()
        part = Passages(passages.change[slow], passages.due[slow], passages.row[slow], passages.at[slow])
        return _memory(part)
    return metrics.memory(passages)


# ---- streams that differ in one thing


def coupled(student: Student, prompts: Sequence[str], chunks: int, seed: int) -> Tensor:
    """The forgetting curve `[chunks]`: the distance between streams with the same prompts and noise but different first
    chunks, over that between streams with entirely different noise. What remains long after the first chunk has left
    the window is what the anchor keeps.
    """
    rows = range(len(prompts))
    noises = (PlacedNoise(seed, rows), CoupledNoise(seed, seed + 1, rows), PlacedNoise(seed + 2, rows))
    made = [_contents(SteppedStream(student, prompts, noise), chunks) for noise in noises]
    distances = [chunk_distance(made[0], other, student.chunk_frames) for other in made[1:]]
    return forgetting_curve(*distances)


def injection(
    student: Student, prompts: Sequence[str], where: str, at: int, chunks: int, seed: int, strength: float = 1.0
) -> dict[str, list[float]]:
    """Root mean squared change of content and state in each of `chunks` chunks after noise was added to the memory.

    Args:
        where: `window`, the newest chunk's keys and values, or `anchor`.
        at: chunk before which the noise is added.
        strength: standard deviation of the noise, relative to that of what it is added to.
    """
    rows = range(len(prompts))
    clean, noisy = (SteppedStream(student, prompts, PlacedNoise(seed, rows)) for _ in range(2))
    content, state = [], []
    for chunk in range(at + chunks):
        if chunk == at:
            _disturb(noisy, where, strength, seed)
        a, b = clean.step(), noisy.step()
        if chunk >= at:
            content.append(_change(a.content, b.content))
            state.append(float("nan") if a.state is None or b.state is None else _change(a.state, b.state))
    return {"content": content, "state": state}


def memory_reach(student: Student, prompts: Sequence[str], at: int, chunks: int, seed: int) -> list[float]:
    """How long memories from before chunk `at` have an effect while both streams are given the same content.

    The rows of one stream exchange their windows at `at`. From then on both cache the contents of the other stream, so
    any difference in what they denoise came through cached keys of deeper layers, or through the state; keys can carry
    over layers times window at most.
    """
    rows = range(len(prompts))
    plain, mixed = (SteppedStream(student, prompts, PlacedNoise(seed, rows)) for _ in range(2))
    found = []
    for chunk in range(at + chunks):
        if chunk == at and mixed.cache.window is not None:
            order = [(i + 1) % len(prompts) for i in rows]
            mixed.cache.window = exchanged(mixed.cache.window, order)  # type: ignore[arg-type]
        shown = plain.step().content
        felt = mixed.step(shown).content
        if chunk >= at:
            found.append(_change(shown, felt))
    return found


def _disturb(stream: SteppedStream, where: str, strength: float, seed: int) -> None:
    cache = stream.cache
    if where == "window" and cache.window is not None:
        newest = min(stream.student.chunk_frames, cache.window.count)
        cache.window = disturbed(cache.window, strength, seed, newest)  # type: ignore[arg-type]
    elif where == "anchor" and cache.anchor is not None:
        cache.anchor = disturbed(cache.anchor, strength, seed)  # type: ignore[arg-type]


def _contents(stream: SteppedStream, chunks: int) -> Tensor:
    return torch.cat([stream.step().content for _ in range(chunks)], 1)


def _change(a: Tensor, b: Tensor) -> float:
    """Root mean squared difference, in standard deviations of `a`."""
    return float((a - b).float().square().mean().sqrt() / a.float().std().clamp_min(1e-9))
