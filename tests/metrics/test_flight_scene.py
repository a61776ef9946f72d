"""Biome, time, weather and the hidden constants are read off flights that no weight has seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from adastate.metrics.flight_landmarks import PREFIX
from adastate.metrics.flight_scene import (
    CONSTANTS,
    FACTS,
    fact_names,
    grain,
    hidden_constants,
    likeliest_facts,
    scene_features,
    scene_weights,
)
from datamodules.tools import fit_flight_scene
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.lens import Lens, through_lens
from tests.support.flight_clips import Flown, codec_like, flown


@pytest.fixture(scope="module")
def unseen() -> Flown:
    return flown(100, 96, 4)


@pytest.mark.parametrize("worse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["exact", "codec"])
@pytest.mark.slow
def test_time_weather_and_biome(unseen: Flown, worse: bool) -> None:
    video = codec_like(unseen.video) if worse else unseen.video
    for fact, least in (("time", 0.98), ("weather", 0.85), ("biome", 0.85)):
        right = sum(a == getattr(v, fact) for a, v in zip(likeliest_facts(video, fact), unseen.flights, strict=True))
        assert right >= least * len(unseen.flights), (fact, right)


@pytest.mark.parametrize("worse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["exact", "codec"])
def test_exposure_and_contrast(unseen: Flown, worse: bool) -> None:
    found = hidden_constants(codec_like(unseen.video) if worse else unseen.video)
    for name, median, alike in (("exposure", 0.05, 0.8), ("contrast", 0.07, 0.55)):
        true = torch.tensor([getattr(v.lens, name) for v in unseen.flights])
        assert (found[name] - true).abs().median() < median, name
        assert torch.corrcoef(torch.stack([found[name], true]))[0, 1] > alike, name


@pytest.mark.slow
def test_grain(unseen: Flown) -> None:
    true = torch.tensor([v.lens.grain for v in unseen.flights])
    found = hidden_constants(unseen.video)["grain"]
    assert (found - true).abs().median() < 0.002
    assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.97
    blurred = hidden_constants(codec_like(unseen.video, noise=0))["grain"]
    assert (blurred < found).all(), "what blurs takes grain away"


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.02])
def test_grain_of_a_plain_sky(deviation: float) -> None:
    light = torch.linspace(0.8, 0.3, 64)[:, None].expand(12, 3, 64, 64)
    pictures = through_lens(Lens(grain=deviation), 5, light, torch.arange(12.0)) * 2 - 1
    assert grain(pictures[None]).mean().item() == pytest.approx(deviation, rel=0.2, abs=1e-4)


def test_what_is_stored_is_small_and_of_this_world() -> None:
    assert {"biome": fact_names("biome"), "time": fact_names("time"), "weather": fact_names("weather")} == {
        "biome": list(BIOMES), "time": list(TIMES), "weather": list(WEATHERS),
    }  # fmt: skip
    assert sum(value.nbytes for value in scene_weights().values()) < 64_000
    assert set(FACTS) | set(CONSTANTS) <= set(scene_weights())
    with pytest.raises(ValueError, match="biome, time, weather"):
        likeliest_facts(torch.zeros(1, 1, 3, 64, 64), "wind")


def test_features_are_a_mean_over_pictures(unseen: Flown) -> None:
    clip = unseen.video[:3]
    half = scene_features(clip).shape[1] // 2
    each = torch.stack([scene_features(clip[:, i : i + 1])[:, :half] for i in range(clip.shape[1])])
    assert torch.allclose(scene_features(clip)[:, :half], each.mean(0), atol=1e-5)


@pytest.mark.slow
def test_the_weights_can_be_made_anew(tmp_path) -> None:
    """From few flights they are poor and still far better than chance; the same flights make the same weights."""
    features, flights = fit_flight_scene.scene_examples(20_000, 48)
    made = fit_flight_scene.fit_scene(features, flights, 1e-3)
    scene = {k: v.shape for k, v in scene_weights().items() if not k.startswith(PREFIX)}
    assert {k: v.shape for k, v in made.items()} == scene
    again = fit_flight_scene.fit_scene(*fit_flight_scene.scene_examples(20_000, 48), 1e-3)
    assert all((made[k] == again[k]).all() for k in made)


@pytest.mark.slow
def test_the_one_half_of_the_weights_is_made_without_the_other(tmp_path) -> None:
    out = tmp_path / "small.npz"
    fit_flight_scene.main(["scene", "--flights", "8", "--out", str(out)])
    one = dict(np.load(out))
    fit_flight_scene.main(["landmarks", "--flights", "8", "--steps", "2", "--out", str(out)])
    both = dict(np.load(out))
    assert {k: v.shape for k, v in both.items()} == {k: v.shape for k, v in scene_weights().items()}
    assert all((both[k] == one[k]).all() for k in one) and out.stat().st_size < 64_000


def test_a_clip_is_read_alone_as_in_company(unseen: Flown) -> None:
    video: Tensor = unseen.video[:16]
    alone = [likeliest_facts(video[i : i + 1], "time")[0] for i in range(16)]
    assert alone == likeliest_facts(video, "time")
