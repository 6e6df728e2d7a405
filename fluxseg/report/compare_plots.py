"""Figures that show several runs at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fluxseg import plot
from fluxseg.model.score_names import TITLES
from fluxseg.report.plots import DPI, STYLE, printable
from fluxseg.report.reliability import COLORS

PANELS = {name: TITLES[name] for name in ("loss", "neuron_iou")}


def plot_overlaid_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot loss and neuron IoU of several runs over the epochs, a colour for each run.

    Args:
        histories: name -> rows of `metrics.jsonl`.

    Returns:
        A figure with two panels; validation is drawn in full, training thin and dashed.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(PANELS))
        for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
            for number, (name, rows) in enumerate(histories.items()):
                color = COLORS[number % len(COLORS)]
                _draw(panel, rows, f"train_{key}", color=color, lw=1.1, ls="--")
                style = {"color": color, "lw": 2.0, "marker": "o", "ms": 3.5}
                _draw(panel, rows, f"val_{key}", label=printable(name), **style)
            panel.set_title(title)
            panel.set_xlabel("Epoch")
        handles, labels = panels[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=3)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _draw(panel: Axes, rows: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    # A run without the figure still stands in the legend.
    values = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    epochs, heights = zip(*values, strict=True) if values else ((), ())
    panel.plot(epochs, heights, **style)


def plot_differences(differences: Mapping[str, Mapping[str, Any]], base: str, score: str) -> Figure:
    """Plot how much better or worse runs are than the first one, a dot for each recording.

    Args:
        differences: name -> what `paired_difference` returned.
        base: name of the first run.
        score: what is compared.

    Returns:
        A figure with a row for each run: dots, and a bar for the interval of the mean.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.4 + 0.85 * len(differences)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        panel.axvline(0, color="#999999", lw=1.2)
        for row, found in enumerate(differences.values()):
            values = np.array(list(found["differences"].values()))
            spread = (np.arange(len(values)) * 0.618034) % 1 - 0.5
            color = COLORS[(row + 1) % len(COLORS)]
            panel.scatter(values, row + 0.5 * spread, s=24, alpha=0.7, color=color, lw=0)
            if found["interval"]:
                panel.plot(found["interval"], [row, row], color="#333333", lw=2.5)
            if found["mean"] is not None:
                panel.plot([found["mean"]] * 2, [row - 0.3, row + 0.3], color="#333333", lw=2.5)
        names = [printable(name) for name in differences]
        panel.set_yticks(range(len(names)), names)
        for label in panel.get_yticklabels():
            label.set_parse_math(False)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.margins(x=0.08)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        text = f"{score} of a recording minus that of {printable(base)}; line: mean, its interval"
        panel.set_xlabel(text, parse_math=False)
    return figure


def plot_side_by_side(
    arrays: Mapping[str, Sequence[np.ndarray]], scores: Mapping[str, float | None]
) -> Figure:
    """Plot one recording as several runs see it: its image, then the errors of each.

    Args:
        arrays: name -> image, label, probability and valid, each `[H, W]`, of one recording.
        scores: name -> neuron IoU.

    Returns:
        A figure with one panel for the image and one for each run, two or three in a row.
    """
    count = 1 + len(arrays)
    columns = 2 if count in (2, 4) else 3
    rows = -(-count // columns)
    image, _, _, valid = next(iter(arrays.values()))
    height = 9.2 / columns * min(max(image.shape[0] / image.shape[1], 0.4), 2.0) + 0.45
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, rows * height + 0.3), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels:
            panel.set_axis_off()
        panels[0].imshow(np.clip(np.nan_to_num(image), 0, 1), cmap="gray", vmin=0, vmax=1)
        panels[0].set_title("Image")
        for panel, (name, shown) in zip(panels[1:], arrays.items(), strict=False):
            image, label, probability, valid = shown
            errors = plot.error_colors(image, label == 1, probability > 0.5, valid)
            panel.imshow(errors, interpolation="nearest")
            iou = scores[name]
            score = "undefined" if iou is None else f"{iou:.3f}"
            panel.set_title(f"{printable(name)}: IoU {score}", parse_math=False)
        colors = plot.ERRORS if valid.all() else plot.ERRORS | {"Not scored": plot.OUTSIDE}
        patches = [Patch(facecolor=c, edgecolor="#888888", label=n) for n, c in colors.items()]
        figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), fontsize=10)
    return figure
