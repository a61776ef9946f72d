"""`adastate evaluate`: rollouts at once and six times the training horizon, measured against their prompts.

Protocol: every rollout streams from its own noise; all figures come from its decoded pictures. "1x" is the training
horizon from the first picture on; "last second" are the last `fps` pictures. Prompts are captions of the tiny world,
whose headings, speeds and palettes are spread evenly, so the truth is known. Prompts of one's own are rolled out
equally often and only what needs no truth is measured; real clips of the run's shards, through the codec, are the
reference. "Change" tells the dynamics then: from picture to picture, and over half a second, which is more for motion
and the same for flicker. "Scene" is the share of rollouts whose nearest real clip, by the mean picture, has their
prompt for its caption. "Optical flow" and "dynamic degree", the mean length of all flow vectors and of the largest
twentieth, in pixels a picture, are RAFT's, and left out where torchvision or its weights are not installed.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adastate import metrics
from adastate.encoders import Codec, StreamDecoder
from adastate.encoders.batching import portions
from adastate.media.video import to_float
from adastate.runtime import atomic
from adastate.runtime.arguments import Arguments
from adastate.training.load_run import load_student, load_teacher
from adastate.training.student import Student
from datamodules.prompts import read_prompts
from datamodules.shards.decode import decode
from datamodules.shards.index import read_shard
from datamodules.shards.safe_decode import read_words
from datamodules.worlds.flyover import HEADINGS, PALETTES, SPEEDS, Flight, flight, render
from datamodules.worlds.world_clips import vocabularies

Figures = dict[str, float]


@dataclass(frozen=True)
class Footage:
    """Real clips as the codec gives them back."""

    video: Tensor  # [N, T, 3, h, w]
    captions: list[str]


@dataclass(frozen=True)
class Truth:
    """What rollouts are measured against, row by row."""

    prompts: list[str]
    flights: list[Flight] | None = None  # of the tiny world
    footage: Footage | None = None


def even_flights(count: int, seed: int) -> list[Flight]:
    """Flights whose headings and speeds are spread evenly."""
    headings, speeds = list(HEADINGS), list(SPEEDS)
    return [
        flight(seed, i, heading=headings[i % 8], speed=speeds[(i // 8) % 2], palette=list(PALETTES)[i % len(PALETTES)])
        for i in range(count)
    ]


@dataclass(frozen=True)
class RolloutEnds:
    """What is measured of videos: a beginning and the last second. Long ones as a whole would fill a machine's memory.

    Attributes:
        first: `[B, T, 3, h, w]`, the horizon and at least a second.
        last: the last second, likewise.
        pictures: of each video.
    """

    first: Tensor
    last: Tensor
    pictures: int


def ends(parts: Iterable[Tensor], once: int, fps: int) -> RolloutEnds:
    """Of videos `[B, T, 3, h, w]` that come in parts, with a horizon of `once` pictures."""
    first, last, count, wanted = list[Tensor](), list[Tensor](), 0, max(once, fps)
    for part in parts:
        if count < wanted:
            first.append(part[:, : wanted - count])
        count += part.shape[1]
        last.append(part)
        while sum(p.shape[1] for p in last[1:]) >= fps:
            last.pop(0)
    return RolloutEnds(torch.cat(first, 1), torch.cat(last, 1)[:, -fps:], count)


@torch.no_grad()
def stream_ends(student: Student, prompts: Sequence[str], frames: int, seed: int, once: int) -> RolloutEnds:
    """Of streams of `frames` latent frames, decoded as they come; on the CPU."""
    found = list[RolloutEnds]()
    with Progress(transient=True) as progress:
        task = progress.add_task("rollouts", total=len(prompts) * frames)
        for part in portions(len(prompts), student.latent_size):
            some, decoder = [prompts[i] for i in part], student.codec.stream()

            def decoded(
                some: list[str] = some, decoder: StreamDecoder = decoder, first: int = part.start
            ) -> Iterator[Tensor]:
                for chunk in student.stream(some, frames, seed + first):
                    yield decoder.decode(chunk.content).cpu()
                    progress.advance(task, len(some) * chunk.frames)

            found.append(ends(decoded(), once, student.codec.fps))
    return RolloutEnds(torch.cat([e.first for e in found]), torch.cat([e.last for e in found]), found[0].pictures)


def choose(captions: Sequence[str], prompts: Sequence[str]) -> list[int]:
    """A clip for each prompt, spread evenly over the clips that have it for a caption, or over all if none has."""
    chosen: list[int] = []
    turn: Counter[str] = Counter()
    for prompt in prompts:
        mine = [i for i, caption in enumerate(captions) if caption == prompt] or list(range(len(captions)))
        chosen.append(mine[turn[prompt] * len(mine) // prompts.count(prompt)])
        turn[prompt] += 1
    return chosen


def read_footage(
    shards: Path, prompts: Sequence[str], pictures: int, codec: Codec, device: torch.device
) -> Footage | None:
    """A real clip for each prompt, through the codec, one at a time; None if the folder holds no video."""
    found = [sample for path in sorted(shards.glob("*.tar")) for sample in read_shard(path) if "mp4" in sample.members]
    if not found:
        return None
    captions = [" ".join(read_words(sample.read("txt")).split()) for sample in found]
    chosen = choose(captions, prompts)
    clips = (to_float(decode(found[i], "mp4", pictures).content)[None] for i in chosen)
    return Footage(torch.cat([through(codec, clip, device) for clip in clips]), [captions[i] for i in chosen])


def through(codec: Codec, video: Tensor, device: torch.device) -> Tensor:
    """Video `[B, T, 3, h, w]` as the codec, which is on `device`, gives it back; on the CPU."""
    return codec.decode(codec.encode(video.to(device))).cpu()


def measure(video: Tensor, fps: int, truth: Truth, flow: metrics.Flow | None = None) -> Figures:
    """Figures of one stretch of video; means over the clips, the residual's median. Those of `flow` with one only."""
    motion = metrics.displacement(video)
    found = {
        "displacement": motion.norm(dim=1).mean().item(),
        "change": metrics.change(video).mean().item(),
        "change_in_half_a_second": metrics.change(video, fps // 2).mean().item(),
        "contrast": metrics.contrast(video).mean().item(),
        "saturation": metrics.saturation(video).mean().item(),
        "sharpness": metrics.sharpness(video).mean().item(),
    }
    if flow is not None:
        moved = torch.cat([_lengths(flow(clip)) for clip in video.split(1)])
        found["optical_flow"], found["dynamic_degree"] = moved.mean(0).tolist()
    footage, flights = truth.footage, truth.flights
    if footage is not None and set(truth.prompts) <= set(footage.captions):
        like = [footage.captions[i] for i in metrics.nearest(video, footage.video).tolist()]
        found = {"scene": statistics.fmean(a == b for a, b in zip(like, truth.prompts, strict=True)), **found}
    if flights is None:
        return found
    velocity = torch.tensor([f.velocity for f in flights])
    colours = torch.tensor([PALETTES[p][0] for p in PALETTES]).float() / 127.5 - 1
    palettes = [list(PALETTES)[i] for i in metrics.ground(video, colours).tolist()]
    named = metrics.heading(motion)
    speed = velocity.float().norm(dim=1)
    return {
        "heading": statistics.fmean(a == f.heading for a, f in zip(named, flights, strict=True)),
        "speed": ((motion - velocity).abs().amax(1) < 0.6).float().mean().item(),
        "palette": statistics.fmean(a == f.palette for a, f in zip(palettes, flights, strict=True)),
        "residual": metrics.residual(video, velocity).median().item(),
        "dynamics": (motion.norm(dim=1) / speed).mean().item(),
        **found,
    }


def _lengths(flow: Tensor) -> Tensor:
    """Mean length of all vectors of `[B, T, 2, h, w]` and of the largest of each picture, `[B, 2]`."""
    return torch.stack([flow.norm(dim=2).mean((1, 2, 3)), metrics.dynamic_degree(flow).mean(1)], 1)


@dataclass(frozen=True)
class MetricsRow:
    """Figures of one stretch of what `name` made."""

    name: str
    stretch: str
    figures: Figures

    @property
    def title(self) -> str:
        return f"{self.name}, {self.stretch}"


def measures_of(rows: Iterable[MetricsRow]) -> list[str]:
    """All that any row has."""
    return list(dict.fromkeys(m for row in rows for m in row.figures))


def rows(
    video: RolloutEnds, name: str, once: int, fps: int, truth: Truth, flow: metrics.Flow | None = None
) -> list[MetricsRow]:
    """The 1x stretch and, of a longer rollout, its last second, with the drift from the first second to it."""
    found = [MetricsRow(name, "1x", measure(video.first[:, :once], fps, truth, flow))]
    if video.pictures > once:
        first, last = video.first[:, :fps], video.last
        drifts = {
            f"{quality.__name__}_drift": metrics.drift(quality(first), quality(last)).mean().item()
            for quality in (metrics.contrast, metrics.saturation, metrics.sharpness)
        }
        times = video.pictures / once
        found.append(MetricsRow(name, f"last second of {times:.0f}x", {**measure(last, fps, truth, flow), **drifts}))
    return found


def evaluate(
    run: Path,
    weights: Path | None,
    count: int,
    horizon: int,
    prompts: list[str] | None,
    seed: int,
    device: str = "cpu",
    flow: metrics.Flow | None = None,
) -> list[MetricsRow]:
    student = load_student(run, weights).to(device)

    def teacher(prompts: list[str]) -> Tensor:
        return load_teacher_clips(run, prompts, student.rollout_frames, seed, device)

    return evaluate_student(student, count, horizon, prompts, seed, flow, teacher, run / "shards")


def evaluate_student(
    student: Student,
    count: int,
    horizon: int,
    prompts: list[str] | None,
    seed: int,
    flow: metrics.Flow | None = None,
    teacher: Callable[[list[str]], Tensor] | None = None,
    shards: Path | None = None,
) -> list[MetricsRow]:
    """The figures of a student's streams, of its teacher's clips, and of real ones.

    Args:
        count: streams, at least; each prompt equally often.
        horizon: their length in training horizons.
        prompts: None: those of the tiny world, with truth.
        teacher: clips for prompts, a row each; None: it is left out.
        shards: folder of clips with the captions of `prompts`; None: there are none.
    """
    frames, codec = student.rollout_frames, student.codec
    once, fps = codec.video_frames(frames), codec.fps
    if prompts:
        texts = prompts * math.ceil(count / len(prompts))
        footage = None if shards is None else read_footage(shards, texts, once, codec, student.device)
        truth = Truth(texts, footage=footage)
        real = truth.footage.video if truth.footage else None
    else:
        flights = even_flights(count, seed)
        truth = Truth([f.caption for f in flights], flights)
        real = through(codec, render(flights, once), student.device)
    streams = stream_ends(student, truth.prompts, horizon * frames, seed, once)
    found = rows(streams, "student", once, fps, truth, flow)
    clips = None if teacher is None else teacher(truth.prompts)
    for name, video in (("teacher", clips), ("real clips", real)):
        if video is not None:
            found += rows(ends([video], once, fps), name, once, fps, truth, flow)
    return found


def load_teacher_clips(run: Path, prompts: list[str], frames: int, seed: int, device: str = "cpu") -> Tensor:
    """Decoded clips of the run's teacher, a row a prompt; on the CPU."""
    teacher = load_teacher(run).to(device)
    assert teacher.codec is not None
    out = []
    for some in portions(len(prompts), teacher.latent_size):
        clips = teacher.sample([prompts[i] for i in some], frames, seed=seed, index=some)
        out.append(teacher.codec.decode(clips).cpu())
    return torch.cat(out)


def show(found: list[MetricsRow], console: Console) -> None:
    """One column a stretch of video, one line a measure."""
    table = Table("", *(f"{row.name}\n{row.stretch}" for row in found))
    for measure_ in measures_of(found):
        table.add_row(measure_.replace("_", " "), *(spelt(measure_, row.figures.get(measure_)) for row in found))
    console.print(table)


def flow_or_why(file: Path | None, device: str) -> metrics.Flow | None:
    """RAFT on `device`; None, and a line that says why, where it is not to be had."""
    try:
        return metrics.raft_flow(file, device)
    except metrics.NoRaft as why:
        print(f"optical flow is left out: {why}")
        return None


def spelt(column: str, value: float | None) -> str:
    """A figure as people read it: shares in percent, nothing where it was not measured."""
    if value is None:
        return ""
    return f"{value:.0%}" if column in ("scene", "heading", "speed", "palette") else f"{value:.3f}"


def main(argv: list[str]) -> None:
    parser = Arguments("adastate evaluate", description=__doc__, epilog=vocabularies())
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    parser.add_argument("--weights", type=Path, help="safetensors to measure; default: the run's student.safetensors")
    parser.add_argument("--rollouts", type=int, default=32, help="at least so many, each of --prompts equally often")
    parser.add_argument("--horizon", type=int, default=6, help="length in training horizons")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line; default: the tiny world's, with truth"
    )
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where the figures go; default <run>/evaluation.json")
    parser.add_argument(
        "--raft", type=Path, help="torchvision's weights of raft_small, for optical flow; default: torch's hub folder"
    )
    args = parser.parse_args(argv)
    prompts = read_prompts(args.prompts) if args.prompts else None
    flow = flow_or_why(args.raft, args.device)
    found = evaluate(args.run, args.weights, args.rollouts, args.horizon, prompts, args.seed, args.device, flow)
    show(found, Console())
    out = args.json or args.run / "evaluation.json"
    protocol: dict[str, Any] = {"rollouts": args.rollouts, "horizon": args.horizon, "seed": args.seed}
    atomic.write_json(out, {"protocol": protocol, "rows": {r.title: r.figures for r in found}})
    print(f"figures in {out}")
