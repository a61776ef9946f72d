"""Flights side by side, for the eye:

python -m datamodules.worlds.flight.contact_sheet out.png --flights 8 --lens --grain --changing --veils --drifting
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage

GAP, LINE = 4, 16


def sheet(rows: Sequence[Tensor], labels: Sequence[str], up: int = 3) -> Image.Image:
    """Rows of pictures `[N, 3, h, w]` in [-1, 1], each under its label, enlarged `up` times."""
    side = rows[0].shape[-1] * up
    wide, tall = max(map(len, rows)) * (side + GAP) + GAP, len(rows) * (side + LINE + GAP)
    whole = Image.new("RGB", (wide, tall), (18, 19, 22))
    pen = ImageDraw.Draw(whole)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = r * (side + LINE + GAP)
        pen.text((GAP, top + 2), label, fill=(225, 226, 230))
        for c, picture in enumerate(row):
            pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            shown = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            whole.paste(shown, (GAP + c * (side + GAP), top + LINE))
    return whole


def keys_in_words(actions: Tensor) -> str:
    """Actions `[F, 8]` as keys, one word for each latent frame."""
    return " ".join("".join(k for k, on in zip(KEYS, row, strict=True) if on) or "-" for row in actions.tolist())


def sheet_row(flight: Voyage, actions: Tensor, each: int) -> tuple[Tensor, str]:
    """Every `each`-th picture of a flight `[N, 3, h, w]`, and what is to be read above them."""
    return render_flight(flight, path(flight, actions)[::each]), f"{caption(flight)}    [{keys_in_words(actions)}]"


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flights", type=int, default=8)
    parser.add_argument("--frames", type=int, default=7, help="latent frames")
    parser.add_argument("--each", type=int, default=3, help="pictures from one that is shown to the next")
    parser.add_argument("--up", type=int, default=3)
    for rule in ("lens", "grain", "changing", "veils", "drifting"):
        parser.add_argument(f"--{rule}", action="store_true")
    a = parser.parse_args(args)
    rules = Rules(a.lens, a.grain, a.changing, a.veils, a.drifting)
    rows = [sheet_row(voyage(a.seed, i, rules), steering(a.seed, i, a.frames), a.each) for i in range(a.flights)]
    sheet([row for row, _ in rows], [label for _, label in rows], a.up).save(a.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
