"""The learning curve of a fine-tuning as a figure."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fluxseg.inference.field_scores import SHOWN
from fluxseg.report.plots import DPI, STYLE

COLORS = {"neuron_iou": "#0072B2", "object_f1": "#D55E00"}


def plot_learning_curve(curve: Mapping[str, Any]) -> Figure:
    """Plot held-out scores against the number of labelled fields.

    Args:
        curve: from `summarise_curve`, with `split_by`.

    Returns:
        A figure with a panel for the neuron IoU and one for the object F1: the mean over the
        folds, a band from the lowest to the highest fold, and a dot for each fold. The fields
        are on a logarithmic axis with 0, the model as it came, to the left of 1.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.2), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for panel, name in zip(figure.subplots(1, 2), COLORS, strict=True):
            _draw(panel, curve, name)
        split_by = curve.get("split_by", "group")
        same = "" if split_by == "group" else "; the same tissue is in both"
        figure.supxlabel(
            f"Mean, range and each of {curve['folds']} folds, held out by {split_by}{same}",
            size=10,
        )
    return figure


def _draw(panel: Axes, curve: Mapping[str, Any], name: str) -> None:
    rows = [row for row in curve["rows"] if row[name]["mean"] is not None]
    color = COLORS[name]
    # On a logarithmic axis 0 has no place: it gets one as far from 1 as 1 is from 3.
    places = np.array([1 / 3 if row["n"] == 0 else row["n"] for row in rows])
    mean, low, high = (
        np.array([row[name][key] for row in rows]) for key in ("mean", "low", "high")
    )
    panel.fill_between(places, low, high, color=color, alpha=0.15, lw=0)
    panel.plot(places, mean, color=color, marker="o", lw=1.8)
    for place, row in zip(places, rows, strict=True):
        values = row[name]["values"]
        panel.scatter([place] * len(values), values, s=12, color=color, alpha=0.6, lw=0)
    panel.set_xscale("log")
    panel.set_xticks(places, [str(row["n"]) for row in rows])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("Labelled fields learnt from (0: the model as it came)")
    panel.set_ylabel(f"{SHOWN[name]}, held out")
    panel.set_title(SHOWN[name])
    panel.margins(0.08, 0.12)
