import pytest
import torch

from callbacks.previews.measurements import measure_last_second


def measured(video, chunk=4, fps=8):
    """Of `[B, T, 3, h, w]` in bytes."""
    return measure_last_second(list(video.split(chunk, 1)), fps)


def flight(pictures, side=16):
    """One noisy plain that moves a pixel a picture."""
    g = torch.Generator().manual_seed(0)
    plain = torch.randint(0, 256, (3, side, side), generator=g, dtype=torch.uint8)
    return torch.stack([plain.roll(t, -1) for t in range(pictures)])[None]


def test_what_neither_fades_nor_stops_has_no_drift():
    found = measured(flight(48))
    assert found["contrast_drift"] < 0.01 and found["saturation_drift"] < 0.01
    assert found["change"] > 0.5 and found["contrast"] > 0.3


def test_what_fades_drifts_and_what_stands_still_does_not_change():
    video = flight(48).float()
    for t in range(48):
        video[:, t] = 128 + (video[:, t] - 128) * (1 - t / 50)
    faded = measured(video.to(torch.uint8))
    assert faded["contrast_drift"] == pytest.approx(torch.log(torch.tensor(10.0)).item(), rel=0.3)
    still = measured(flight(1).expand(-1, 48, -1, -1, -1))
    assert still["change"] == still["change_half_second"] == 0


def test_it_is_the_last_second_that_counts():
    """Grey for five seconds, then a second of flight: also where a second is not a whole number of chunks."""
    video = torch.cat([torch.full((1, 40, 3, 16, 16), 128, dtype=torch.uint8), flight(8)], 1)
    for chunk in (1, 4, 5):
        found = measured(video, chunk)
        assert found["contrast"] == pytest.approx(measured(flight(8))["contrast"], rel=1e-6)


def test_a_rollout_shorter_than_a_second_is_measured_whole():
    found = measured(flight(3), chunk=1)
    assert found["contrast_drift"] == 0 and "change_half_second" not in found
