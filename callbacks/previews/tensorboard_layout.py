"""The overview page of TensorBoard (tab "Custom Scalars")."""

from __future__ import annotations

import re

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from adastate.runtime import disk
from callbacks.previews import tags

MOST_CURVES = 12

OVERVIEW: dict[str, list[str]] = {
    "student's loss": [tags.STUDENT_LOSS],
    "critic's loss": [tags.CRITIC_LOSS],
    "score gap": [tags.SCORE_GAP],
    "student's gradient norm": [tags.STUDENT_GRADIENT],
    "critic's gradient norm": [tags.CRITIC_GRADIENT],
    "critic's loss by noise level": list(tags.CRITIC_LEVELS),
    "state drift, 1x": [tags.state_step(1)],
    "attention share of the state, 1x": [tags.attention(1, "state")],
    "share of time waiting for data": [tags.DATA_WAIT],
    "iterations per second": [tags.ITERATIONS_PER_S],
}
"""For Distill. A chart draws all curves of a run in one colour, with different markers, so student and critic have
separate charts. Charts of curves that a stage does not log stay empty: pass other `charts` there."""

ROLLOUTS = ("contrast", "saturation", "sharpness", "change", "contrast_drift", "saturation_drift")
"""Measurements of the previews, one chart each with a curve per horizon: the second category."""


class Layout(pl.Callback):
    """Writes a custom-scalars layout: at most 12 curves that show at a glance whether the run is healthy.

    A second category shows what the previews measure, 1x beside the long rollout (docs/results/health.md).

    Args:
        charts: from the title of each chart to the tags of its curves; None: the overview of a distillation.
        title: of the category.
    """

    def __init__(self, charts: dict[str, list[str]] | None = None, title: str = "overview") -> None:
        self.charts, self.title = OVERVIEW if charts is None else charts, title
        curves = sum(map(len, self.charts.values()))
        if curves > MOST_CURVES:
            raise ValueError(f"{curves} curves in the overview, at most {MOST_CURVES}: the Scalars tab has them all")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if trainer.is_global_zero and isinstance(logger, TensorBoardLogger):
                # The plugin reads tags as regular expressions that match from the start.
                own = {title: [f"^{re.escape(tag)}$" for tag in curves] for title, curves in self.charts.items()}
                watched = {what.replace("_", " "): [tags.measured_anywhere(what)] for what in ROLLOUTS}
                summary = layout_summary({self.title: own, "rollouts": watched})
                try:
                    logger.experiment._get_file_writer().add_summary(summary)
                except OSError as failure:  # the logger warns about write errors
                    if not disk.is_fault(failure):
                        raise


def layout_summary(categories: dict[str, dict[str, list[str]]]) -> Summary:
    """Maps category to chart to tag patterns, as TensorBoard's custom-scalars plugin reads it."""
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=[_chart(name, curves) for name, curves in charts.items()])
            for title, charts in categories.items()
        ]
    )
    content = SummaryMetadata.FromString(metadata.create_summary_metadata().SerializeToString())
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    return Summary(value=[Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=content)])


def _chart(title: str, curves: list[str]) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=curves))
