import re

import pytest
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from callbacks import Layout, Rollouts, Throughput
from callbacks.previews import tags
from callbacks.previews.tensorboard_layout import MOST_CURVES, OVERVIEW, ROLLOUTS


def test_the_layout_is_read_back_with_the_overviews_curves(fit, watched, events):
    _, run = fit(watched(), Layout(), steps=1)
    [(_, tensor)] = events(run)[metadata.CONFIG_SUMMARY_TAG]
    layout = layout_pb2.Layout.FromString(tensor.string_val[0])
    category, rollouts = layout.category
    assert (category.title, rollouts.title) == ("overview", "rollouts")
    patterns = [tag for chart in rollouts.chart for tag in chart.multiline.tag]
    for horizon, what in ((1, "contrast"), (6, "saturation_drift")):
        assert sum(re.match(p, tags.measured(horizon, what)) is not None for p in patterns) == 1
    shown = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert list(shown) == list(OVERVIEW)
    for title, curves in OVERVIEW.items():
        for pattern, tag in zip(shown[title], curves, strict=True):
            assert re.match(pattern, tag) and not re.match(pattern, tag + "_more")
    assert 8 <= sum(map(len, shown.values())) <= MOST_CURVES


def test_the_curves_of_the_callbacks_are_logged_under_the_names_of_the_overview(fit, watched, events):
    callbacks = Rollouts(["a"], long=0), Throughput(every=1)
    _, run = fit(watched(), *callbacks, steps=1)
    assert {tags.measured(1, what) for what in ROLLOUTS} <= set(events(run))
    promised = {tag for curves in OVERVIEW.values() for tag in curves if not tag.startswith(("student/", "critic/"))}
    assert len(promised) == 4 and promised <= set(events(run))


def test_a_crowded_overview_is_refused():
    with pytest.raises(ValueError, match="13 curves in the overview, at most 12"):
        Layout({"a": [str(i) for i in range(13)]})
