import numpy as np
import pytest
from PIL import Image, ImageColor

from adastate.media import strip
from callbacks.previews.figures import SIZE, areas, line_figure

TEAL, AMBER = ImageColor.getrgb(strip.TEAL), ImageColor.getrgb(strip.AMBER)


def share_of(image: Image.Image, colour, column: int) -> float:
    """Of the plot's height at a column, the part in about this colour."""
    pixels = np.asarray(image).astype(int)[52:258, column]
    return float((np.abs(pixels - colour).max(-1) < 30).mean())


def test_areas_are_stacked_in_proportion():
    image = areas({"state": [1.0, 3.0], "past": [3.0, 1.0]}, "attention")
    assert image.size == SIZE
    assert share_of(image, TEAL, 60) == pytest.approx(0.27, abs=0.04)
    assert share_of(image, TEAL, 610) == pytest.approx(0.73, abs=0.04)
    for column in (60, 300, 610):
        assert share_of(image, TEAL, column) + share_of(image, AMBER, column) == pytest.approx(1.0, abs=0.04)


def test_a_single_chunk_fills_the_width():
    image = areas({"state": [0.5], "own": [0.5]}, "attention")
    assert share_of(image, TEAL, 60) == pytest.approx(share_of(image, TEAL, 610), abs=0.02)


def test_a_line_goes_through_its_values_and_leaves_holes_where_there_are_none():
    nan = float("nan")
    pixels = np.asarray(line_figure({"a": [0.0, 1.0, nan, 1.0, 1.0]}, "title")).astype(int)
    teal = np.abs(pixels - TEAL).max(-1) < 40
    teal[:52] = False  # the legend
    columns = np.nonzero(teal.any(0))[0]
    left, right = 48, SIZE[0] - 20
    at = [left + (right - left) * c / 4 for c in range(5)]
    assert not teal[:, round(at[1]) + 8 : round(at[3]) - 8].any(), "a hole around chunk 2"
    rows = [np.nonzero(teal[:, round(at[0]) + 1])[0].mean(), np.nonzero(teal[:, round(at[4]) - 5])[0].mean()]
    assert rows == pytest.approx([258, 52], abs=6)
    assert columns[0] == pytest.approx(left, abs=3) and columns[-1] == pytest.approx(right, abs=4)


@pytest.mark.parametrize("values", [[], [0.5], [float("nan")], [0.0, 40.0, -3.0], [1e-9, 2e-9]])
def test_unusual_series_are_drawn_too(values):
    assert line_figure({"a": values}, "title", first=1, horizon=2).size == SIZE
