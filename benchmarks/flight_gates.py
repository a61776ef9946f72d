"""Quality of a codec on flights; how a teacher and a student follow prompts and actions, compared with renders:

python -m benchmarks.flight_gates codec --codec flight --out gate1
python -m benchmarks.flight_gates teacher --codec flight --teacher teacher.safetensors --guidance 2 --out gate2
python -m benchmarks.flight_gates student --teacher flight --student runs/flight/student.safetensors --out gate3

The flights are from a separate world on which nothing is trained. Prints a table; writes all figures to OUT.json and
pictures to OUT.png (and without labels to OUT_blind.png: for a teacher every second row, for a student the same ten
streams of six horizons).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adastate.encoders import ResidualCodec, TinyText
from adastate.inference.student_source import student_source
from adastate.models.video_network import Size
from adastate.training.load_run import student_of
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from benchmarks import flight_codec_gate, flight_student_gate, flight_teacher_gate
from datamodules.worlds.flight.contact_sheet import sheet

SEED = 777


def gate_table(columns: dict[str, dict[str, Any]]) -> str:
    """Figures by name, with one column per compared item."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    wide = max(map(len, names)) + 2
    widths = [max(16, len(title) + 2) for title in columns]
    lines = [" " * wide + "".join(f"{title:>{w}}" for title, w in zip(columns, widths, strict=True))]
    for name in names:
        cells = zip((column.get(name, "") for column in columns.values()), widths, strict=True)
        lines.append(f"{name:{wide}}" + "".join(f"{_short(cell):>{w}}" for cell, w in cells))
    return "\n".join(lines)


def _short(cell: Any) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3f}" if cell == 0 or abs(cell) >= 0.05 else f"{cell:.2g}"


def teacher(weights: str | None, codec: ResidualCodec, guidance: float, shift: float) -> Teacher:
    """A flight-sized teacher that can be steered; without `weights` it is untrained."""
    size = Size(256, 6, 4, 1024, codec.channels, text_width=64, text_tokens=24, time_embedding_dim=64, actions=8)
    return Teacher(
        size,
        codec,
        TinyText(24, 64),
        (64 // codec.scale, 64 // codec.scale),
        rollout_frames=7,
        weights=weights,
        timestep_shift=shift,
        guidance=guidance,
        average=None,
    ).eval()


def load_flight_student(weights: Path, codec: ResidualCodec, system: str | None) -> Student:
    """A student of the flight world, with weights in any format; streams as in conf/sizes/flight.yaml or a system."""
    source = student_source(None, weights, "flight", system, [])
    found = student_of(source.config, source.weights)
    found.codec = codec
    return found


@torch.no_grad()
def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gate", choices=("codec", "teacher", "student"))
    parser.add_argument("--codec", default="flight", help="safetensors file, or flight for the bundled one")
    parser.add_argument("--channels", type=int, default=32, help="of the codec's latents")
    parser.add_argument("--teacher", help="safetensors file")
    parser.add_argument("--student", type=Path, help="safetensors file, or run folder")
    parser.add_argument("--system", help="another stream than the one of conf/sizes/flight.yaml")
    parser.add_argument("--horizon", type=int, default=6, help="of a student's streams, in training horizons")
    parser.add_argument("--guidance", type=float, default=2.0, help="w in c + w (c - u)")
    parser.add_argument("--shift", type=float, default=3.0, help="of the levels of noise")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("-n", type=int, default=36, help="clips (of each kind, for a codec)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=Path("flight_gate"))
    a = parser.parse_args(args)
    codec = ResidualCodec(a.codec, a.channels).eval()
    if a.gate == "codec":
        columns, rows, labels = flight_codec_gate.compare_codec(codec, a.seed, a.n)
    elif a.teacher is None or (a.gate == "student" and a.student is None):
        parser.error("--teacher is required, and for the gate student also --student")
    elif a.gate == "student":
        made, own = teacher(a.teacher, codec, a.guidance, a.shift), load_flight_student(a.student, codec, a.system)
        columns, rows, labels = flight_student_gate.compare_student(own, made, codec, a.seed, a.n, a.steps, a.horizon)
        sheet(rows, [""] * len(rows), up=3).save(a.out.with_name(f"{a.out.name}_blind.png"))
    else:
        made = teacher(a.teacher, codec, a.guidance, a.shift)
        columns, rows, labels = flight_teacher_gate.compare_teacher(made, codec, a.seed, a.n, a.steps)
        blind = a.out.with_name(f"{a.out.name}_blind.png")
        sheet(rows[::2], [""] * len(rows[::2]), up=3).save(blind)
    print(gate_table(columns))
    told = {"options": {k: str(v) for k, v in vars(a).items()}, **columns}
    a.out.with_name(f"{a.out.name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    sheet(rows, labels, up=3).save(a.out.with_name(f"{a.out.name}.png"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
