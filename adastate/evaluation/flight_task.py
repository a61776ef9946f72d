"""Requested flights, with prompt and keys, and whether a video follows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adastate.metrics.flight_pose import SURE, tilt, turning
from adastate.metrics.flight_scene import FACTS, likeliest_facts
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.voyages import LANDMARKS, Rules, Voyage, voyage

COMMANDS = {"straight": (0, ""), "right": (1, "d"), "left": (-1, "a")}
"""Sign of the turn, and the keys held."""

SETTLED = 6
"""Pictures until a bank and a turn are established."""

TURNS, BANKS = 0.01, 0.03
"""Minimum radians per picture, and radians, for a sign to count."""

LEVELLED = 3.0
"""Tolerance of a bank in degrees."""


@dataclass(frozen=True)
class Asked:
    """Flights, each with one constant command: its sign `[B]`, actions `[B, F, 8]` and poses `[B, T, 8]`."""

    flights: list[Voyage]
    commands: list[str]
    sign: Tensor
    actions: Tensor
    poses: Tensor

    @property
    def prompts(self) -> list[str]:
        return [caption(flight) for flight in self.flights]


def asked_flights(seed: int, count: int, frames: int = 7) -> Asked:
    """`count` flights: 36 cover each biome six times, in every time of day and weather, and each command twice."""
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
    actions = keys[:, None].expand(-1, frames, -1)
    poses = torch.stack([path(v, a) for v, a in zip(flights, actions, strict=True)])
    return Asked(flights, commands, torch.tensor([COMMANDS[c][0] for c in commands]), actions, poses)


def steered(video: Tensor, task: Asked, settled: int = SETTLED) -> dict[str, Any]:
    """Turns and banks of `video` [B, T, 3, h, w] compared with the requested ones, from its picture `settled` on."""
    found, sign = turning(video), task.sign
    banks = tilt(video)[:, settled:].median(1).values
    rate, sure = found.rate[:, settled:], found.sure[:, settled:] > SURE
    known = torch.where(sure, rate, torch.nan).nanmedian(1).values
    turn = torch.where(sure.any(1), known, rate.median(1).values)
    own = task.poses[:, SETTLED:, 5].median(1).values.float()
    off = torch.rad2deg(banks - own).abs()
    out: dict[str, Any] = {
        "turns asked for": int((sign != 0).sum()),
        "turn sign right": int((turn * sign > TURNS).sum()),
        "tilt sign right": int((banks * sign > BANKS).sum()),
        "tilt, median error (deg)": float(off.median()),
        f"tilt within {LEVELLED:.0f} deg, share": float((off < LEVELLED).float().mean()),
        "turn sure, share": float(sure.float().mean()),
    }
    for name, (k, _) in COMMANDS.items():
        out[f"turn, {name} (rad)"] = float(turn[sign == k].median())
        out[f"tilt, {name} (deg)"] = math.degrees(float(banks[sign == k].median()))
    return out


def scenes(video: Tensor, task: Asked) -> dict[str, float]:
    """Shares of clips whose biome, time and weather are recognised as prompted."""
    return {
        fact: sum(a == getattr(v, fact) for a, v in zip(likeliest_facts(video, fact), task.flights, strict=True))
        / len(video)
        for fact in FACTS
    }
