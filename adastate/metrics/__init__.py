"""Measures of video, as pure functions of pixels. Video is `[B, T, 3, h, w]` in [-1, 1].

`motion` of camera and scene, `colour`, `picture` (contrast, sharpness, change), `coherence` between successive pictures
and at chunk boundaries, `scene_memory` (departure from the first view, repetition, what is kept while out of view),
`quality` (distance from real video), `raft` (optical flow by torchvision's network, if it is installed). `passages`
measures memory, `hidden_constants` drift of what no prompt says, `forgetting` how long a past matters. `curves` turns
measures into curves over time; `seed_interval` gives the uncertainty of a mean over seeds, `uncertainty` over rollouts.
"""

# ruff: noqa: F401 - all of these are exported
from adastate.metrics.coherence import border_flicker, spread, warp_error
from adastate.metrics.colour import apart, bright_hue, ground, ground_hue, hue, saturation, turned
from adastate.metrics.composite import composite
from adastate.metrics.curves import averaged, over_time
from adastate.metrics.forgetting import chunk_distance, forgetting_curve, lifetime
from adastate.metrics.hidden_constants import CONSTANTS, from_beginning, lens_constants
from adastate.metrics.motion import DIRECTIONS, displacement, dynamic_degree, flow, forward, heading, residual
from adastate.metrics.passages import CHANCE, MemoryFigures, Passages, hidden_passages, memory, open_passages
from adastate.metrics.picture import change, contrast, drift, nearest, sharpness
from adastate.metrics.quality import Moments, features, frechet, moments
from adastate.metrics.raft import Flow, NoRaft, raft_flow
from adastate.metrics.scene_memory import across_gaps, departure, likeness, loop, repetition, thumbnails
from adastate.metrics.seed_interval import chance_of, seed_interval, student_cdf, student_quantile
from adastate.metrics.uncertainty import Interval, Resamples, bootstrap, difference, interval
