"""Gate 2 of the flight world: whether a teacher's clips do what their prompts and actions ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.metrics.flight_pose import SURE, tilt, turning
from adastate.metrics.flight_scene import FACTS, told
from adastate.training.teacher import Teacher
from benchmarks.flight_codec_gate import FRAMES, coded, pictured
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.voxel_render import render
from datamodules.worlds.flight.voyages import LANDMARKS, Rules, Voyage, voyage

COMMANDS = {"straight": (0, ""), "right": (1, "d"), "left": (-1, "a")}
"""Sign of the turn, and the keys held."""

SETTLED = 6
"""Pictures after which a bank and a turn have come about."""

TURNS, BANKS = 0.01, 0.03
"""Radians a picture, and radians, from which a sign counts."""


@dataclass(frozen=True)
class Asked:
    """Flights and the command that each keeps to, with its sign `[B]`, actions `[B, F, 8]` and poses `[B, T, 8]`."""

    flights: list[Voyage]
    commands: list[str]
    sign: Tensor
    actions: Tensor
    poses: Tensor


def asked(seed: int, count: int) -> Asked:
    """`count` flights: 36 are each biome six times, in every time of day and weather, with each command twice."""
    biomes, times, weathers, names = list(BIOMES), list(TIMES), list(WEATHERS), list(COMMANDS)
    flights = [
        voyage(
            seed,
            i,
            Rules(grain=False),
            biome=biomes[i % 6],
            time=times[(i + i // 6) % 4],
            weather=weathers[(i // 2 + i // 6) % 3],
            landmark=LANDMARKS[(i // 3 + i // 18) % 3],
        )
        for i in range(count)
    ]
    commands = [names[(i + i // 6) % 3] for i in range(count)]
    keys = torch.tensor([[float(key in COMMANDS[c][1]) for key in KEYS] for c in commands])
    actions = keys[:, None].expand(-1, FRAMES, -1)
    poses = torch.stack([path(v, a) for v, a in zip(flights, actions, strict=True)])
    return Asked(flights, commands, torch.tensor([COMMANDS[c][0] for c in commands]), actions, poses)


def steered(video: Tensor, task: Asked) -> dict[str, Any]:
    """Turns and banks of `video` [B, 3 F, 3, h, w] against what was asked for, over its settled pictures."""
    found, sign, banked = turning(video), task.sign, tilt(video)[:, SETTLED:].median(1).values
    rate, sure = found.rate[:, SETTLED:], found.sure[:, SETTLED:] > SURE
    known = torch.where(sure, rate, torch.nan).nanmedian(1).values
    turn = torch.where(sure.any(1), known, rate.median(1).values)
    own = task.poses[:, SETTLED:, 5].median(1).values.float()
    asks = sign != 0
    out: dict[str, Any] = {
        "turns asked for": int(asks.sum()),
        "turn sign right": int((turn * sign > TURNS).sum()),
        "tilt sign right": int((banked * sign > BANKS).sum()),
        "tilt, median error (deg)": float(torch.rad2deg(banked - own).abs().median()),
        "turn sure, share": float(sure.float().mean()),
    }
    for name, (k, _) in COMMANDS.items():
        out[f"turn, {name} (rad)"] = float(turn[sign == k].median())
        out[f"tilt, {name} (deg)"] = math.degrees(float(banked[sign == k].median()))
    return out


def scenes(video: Tensor, task: Asked) -> dict[str, Any]:
    """Shares of clips whose biome, time and weather are read as prompted."""
    return {
        fact: sum(a == getattr(v, fact) for a, v in zip(told(video, fact), task.flights, strict=True)) / len(video)
        for fact in FACTS
    }


def generated(teacher: Teacher, codec: Codec, task: Asked, seed: int, steps: int, at_once: int = 12) -> Tensor:
    """Clips `[B, 3 F, 3, h, w]` that the teacher makes of the prompts and the actions."""
    prompts, out = [caption(v) for v in task.flights], []
    for i in range(0, len(prompts), at_once):
        part = slice(i, i + at_once)
        made = teacher.sample(
            prompts[part],
            FRAMES,
            steps,
            seed,
            index=range(i, i + len(prompts[part])),
            actions=task.actions[part],
        )
        out.append(codec.decode(made))
    return torch.cat(out)


def compared(
    teacher: Teacher, codec: Codec, seed: int, count: int, steps: int
) -> tuple[dict[str, dict[str, Any]], list[Tensor], list[str]]:
    """Numbers of renders, of decoded renders and of the teacher's clips; rows of pictures, a made one and its real."""
    task = asked(seed, count)
    real = render(task.flights, list(task.poses))
    videos = {"real": real, "codec": coded(codec, real), "teacher": generated(teacher, codec, task, seed, steps)}
    columns = {name: steered(v, task) | scenes(v, task) | pictured(v) for name, v in videos.items()}
    whole = columns["teacher"]["match across latents"] / columns["codec"]["match across latents"]
    columns["teacher"]["match across latents, of the codec's"] = whole
    rows, labels = [], []
    for i in range(min(12, count)):
        rows += [videos["teacher"][i, 1::3], real[i, 1::3]]
        labels += [f"{caption(task.flights[i])}    [{task.commands[i]}]", "render"]
    return columns, rows, labels
