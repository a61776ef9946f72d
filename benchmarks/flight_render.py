"""Pictures of the flight world per second on one core:

python -m benchmarks.flight_render --clips 16

Clips of 21 pictures, 64 x 64, rendered one after the other. Seconds are the process's own CPU time (other work on the
machine does not count) unless --wall is given; the spread is over clips.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.clock import quartiles, spread_in_words
from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import Rules, steering, voyage

CASES = {
    "plain": Rules(lens=False, grain=False),
    "lens": Rules(),
    "all switched on": Rules(changing=True, veils=True, drifting=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=7, help="latent frames of a clip")
    parser.add_argument("--wall", action="store_true", help="measure wall-clock time")
    a = parser.parse_args()
    torch.set_num_threads(1)
    clock: Callable[[], float] = time.perf_counter if a.wall else time.process_time
    print(f"{'case':18} render alone          with the way flown")
    for name, rules in CASES.items():
        alone, whole = [], []
        for i in range(a.clips + 2):
            flight, actions = voyage(0, i, rules), steering(0, i, a.frames)
            start = clock()
            poses = path(flight, actions)
            middle = clock()
            render_flight(flight, poses)
            end = clock()
            if i >= 2:  # the first two are warm-up
                alone.append(len(poses) / (end - middle))
                whole.append(len(poses) / (end - start))
        print(f"{name:18} {spread_in_words(quartiles(alone), 0):21} {spread_in_words(quartiles(whole), 0)}")


if __name__ == "__main__":
    main()
