"""Law 2: streams equal the reference implementations', to 2e-5."""

from __future__ import annotations

from typing import Any

import pytest

from adastate.parity import streams
from adastate.parity.tolerances import LATENT
from tests.parity import load

STREAMS = (
    "C_sf_nowindow",
    "C_sf_window6_small",
    "C_longlive_inf_window9_sink3",
    "C_reward_window9_sink3_a07",
    "C_rolling_4step_5blocks",
    "C_longlive_switch12_gsink",
    "C_infrope_window6_sink1_scenes",
    "C_memrope_window12_sink3",
    "C_causvid_part21_overlap3",
    pytest.param("C_rolling_sink_window21", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str) -> None:
    found = streams.stream(load(name))
    assert "latents" in [c.what for c in found]
    assert [c for c in found if not c.passed] == []


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("C_sf_window6_small", {"past_frames": 6}),
        ("C_longlive_inf_window9_sink3", {"position": "absolute"}),
        ("C_longlive_inf_window9_sink3", {"state_frames": 2}),
        ("C_longlive_inf_window9_sink3", {"shared_noise": True}),
        ("C_reward_window9_sink3_a07", {"decay": (0.8,)}),
        ("C_reward_window9_sink3_a07", {"anchor": "static", "decay": ()}),
        ("C_reward_window9_sink3_a07", {"pool": "mean"}),
        ("C_infrope_window6_sink1_scenes", {"past_frames": 3}),
        ("C_longlive_switch12_gsink", {"state_frames": 2, "past_frames": 4}),
        ("C_memrope_window12_sink3", {"decay": (0.0, 0.9)}),
        ("C_memrope_window12_sink3", {"pool": "token"}),
        ("C_causvid_part21_overlap3", {"timestep_shift": 5.0}),
        # Five blocks all fit into view, so its positions and limits do not show here: test_visibility.py has them.
        ("C_rolling_4step_5blocks", {"context_noise": 100.0}),
    ],
)
def test_a_stream_made_otherwise_differs(name: str, mistake: dict[str, Any]) -> None:
    (latents,) = (c for c in streams.stream(load(name), **mistake) if c.what == "latents")
    assert latents.difference > 20 * LATENT
