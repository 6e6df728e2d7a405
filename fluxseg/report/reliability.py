"""Are the probabilities of a run shares? The answer as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fluxseg.report.plots import DPI, STYLE, printable

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_reliability(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot the share of neuron pixels against their predicted probability.

    Args:
        curves: name -> rows of `reliability_curve`; empty bins are passed over.

    Returns:
        A figure with the curves and the diagonal of perfect reliability above, and below the
        pixels in each bin on a logarithmic axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 6.2), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        above.plot([0, 1], [0, 1], color="#999999", lw=1.2, ls="--", label="perfect")
        for number, (name, rows) in enumerate(curves.items()):
            color = COLORS[number % len(COLORS)]
            filled = [row for row in rows if row["pixels"]]
            confidence, share = (
                np.array([row[key] for row in filled], float) for key in ("confidence", "share")
            )
            label = printable(name)
            above.plot(confidence, share, color=color, marker="o", ms=4.5, lw=1.8, label=label)
            if filled:
                edges = [row["low"] for row in rows] + [rows[-1]["high"]]
                below.stairs([row["pixels"] for row in rows], edges, color=color, lw=1.8)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        above.set_ylabel("Share of neuron pixels")
        for text in above.legend(loc="upper left").get_texts():
            text.set_parse_math(False)
        below.set_yscale("log")
        below.set_ylabel("Pixels")
        below.set_xlabel("Predicted probability of neuron")
    return figure
