"""An animation: what is in its pictures, how long they stand, and that it is small enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from adastate.media.animation import EDGE, SHORTEST, AnimatedStream, animation, save_webp

RED, GREEN = (200, 0, 0), (0, 200, 0)


def flat(colour: tuple[int, int, int], pictures: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(pictures, 3, 32, 32).contiguous()


def stream(chunks: int = 2, states: bool = True, steered: tuple[str, ...] = ()) -> AnimatedStream:
    hidden = [flat(GREEN, 1) if states else None for _ in range(chunks)]
    return AnimatedStream([flat(RED, 3) for _ in range(chunks)], hidden, "over the hills", steered)


def test_the_state_stands_beside_the_video_in_every_picture() -> None:
    frames = animation([stream()], 8)
    assert len(frames) == 6
    for frame in frames:
        assert frame.getpixel((EDGE + 5, EDGE + 5)) == RED
        assert frame.getpixel((2 * EDGE + SHORTEST + 5, EDGE + 5)) == GREEN
    alone = animation([stream(states=False)], 8)[0]
    assert alone.width == 2 * EDGE + SHORTEST < frames[0].width


def test_several_streams_stand_in_columns_as_long_as_the_shortest() -> None:
    one = animation([stream()], 8)[0]
    frames = animation([stream(), stream(1), stream()], 8, columns=2)
    assert len(frames) == 3 and frames[0].size == (2 * one.width, 2 * one.height)


def test_keys_that_are_held_are_written() -> None:
    held, free = (np.asarray(animation([stream(steered=(keys, keys))], 8)[0]) for keys in ("ai", "-"))
    assert (held != free).any()


def test_it_is_played_at_its_rate_and_fits(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    noisy = [torch.randint(0, 255, (4, 3, 32, 32), generator=g, dtype=torch.uint8) for _ in range(2)]
    frames = animation([AnimatedStream(noisy, [None, None], "noise")], 8)
    best = save_webp(frames, 8, tmp_path / "a.webp")
    size = (tmp_path / "a.webp").stat().st_size
    less = save_webp(frames, 8, tmp_path / "b.webp", most=size * 2 // 3)
    assert less < best and (tmp_path / "b.webp").stat().st_size <= size * 2 // 3
    with Image.open(tmp_path / "a.webp") as there:
        assert there.n_frames == 8 and there.is_animated
        there.seek(1)
        there.load()
        assert there.info["duration"] == 125
    assert save_webp(frames, 8, tmp_path / "c.webp", most=1000) == 0
    assert not (tmp_path / "c.webp").exists()


def test_nothing_is_no_animation() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        animation([], 8)
