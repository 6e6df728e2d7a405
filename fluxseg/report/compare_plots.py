"""Figures that show several runs, or models before and after a tuning, at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluxseg import plot
from fluxseg.inference.field_scores import SHOWN
from fluxseg.inference.shown import outline_labels
from fluxseg.model.score_names import TITLES
from fluxseg.report import plots

PANELS = {name: TITLES[name] for name in ("loss", "neuron_iou")}
CURVES = {"neuron_iou": "#0072B2", "object_f1": "#D55E00"}
"""Colours of the scores of a learning curve."""
LABELLED, FOUND, BOTH = "#30D158", "#FF453A", "#FFD60A"
"""Outlines of labels, of what was found, and where the two meet."""


@plots.styled
def plot_overlaid_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot loss and neuron IoU over the epochs (name -> rows of `metrics.jsonl`).

    Each run has a colour; training is dashed.
    """
    figure = plots.create_figure(9.6, 4.4)
    panels = figure.subplots(1, len(PANELS))
    for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
        for number, (name, rows) in enumerate(histories.items()):
            color = plots.COLORS[number % len(plots.COLORS)]
            _draw(panel, rows, f"train_{key}", color=color, lw=1.1, ls="--")
            style = {"color": color, "lw": 2.0, "marker": "o", "ms": 3.5}
            _draw(panel, rows, f"val_{key}", label=plots.printable(name), **style)
        panel.set_title(title)
        panel.set_xlabel("Epoch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _draw(panel: Axes, rows: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    # A run without the figure still stands in the legend.
    known = [row for row in rows if row.get(name) is not None]
    # One epoch makes no line.
    style = style if len(known) > 1 else {"marker": "o", **style}
    panel.plot([row["epoch"] for row in known], [row[name] for row in known], **style)


@plots.styled
def plot_differences(differences: Mapping[str, Mapping[str, Any]], base: str, score: str) -> Figure:
    """Plot how much better or worse runs are than the first: a dot a recording, mean, interval.

    `differences` is name -> what `paired_difference` returned, `base` the name of the first run,
    and `score` what is compared.
    """
    figure = plots.create_figure(9.6, 1.4 + 0.85 * len(differences))
    panel = figure.subplots()
    panel.axvline(0, color="#999999", lw=1.2)
    for row, found in enumerate(differences.values()):
        values = np.array(list(found["differences"].values()))
        plots.draw_dots(
            panel, values, row, s=24, alpha=0.7, color=plots.COLORS[(row + 1) % len(plots.COLORS)]
        )
        if found["interval"]:
            panel.plot(found["interval"], [row, row], color="#333333", lw=2.5)
        if found["mean"] is not None:
            panel.plot([found["mean"]] * 2, [row - 0.3, row + 0.3], color="#333333", lw=2.5)
    plots.name_rows(panel, [plots.printable(name) for name in differences])
    panel.margins(x=0.08)
    text = f"{score} of a recording minus that of {plots.printable(base)}; line: mean, its interval"
    panel.set_xlabel(text)
    return figure


@plots.styled
def plot_side_by_side(
    arrays: Mapping[str, Sequence[np.ndarray]], scores: Mapping[str, float | None]
) -> Figure:
    """Plot one recording as several runs see it: its image, then the errors of each.

    `arrays` is name -> image, label, probability and valid, each `[H, W]`; `scores` name -> neuron
    IoU.
    """
    count = 1 + len(arrays)
    image, _, _, valid = next(iter(arrays.values()))
    figure, panels = plots.create_panels(count, image.shape, 9.6, 2 if count in (2, 4) else 3)
    gray = np.clip(np.nan_to_num(image), 0, 1)
    plot.picture(gray, panels[0], cmap="gray", vmin=0, vmax=1).set_title("Image")
    for panel, (name, shown) in zip(panels[1:], arrays.items(), strict=True):
        image, label, probability, valid = shown
        plot.picture(plot.error_colors(image, label == 1, probability > 0.5, valid), panel)
        iou = "undefined" if scores[name] is None else f"{scores[name]:.3f}"
        panel.set_title(f"{plots.printable(name)}: IoU {iou}")
    patches = plot.error_patches(valid)
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), fontsize=10)
    return figure


@plots.styled
def plot_learning_curve(curve: Mapping[str, Any]) -> Figure:
    """Plot held-out neuron IoU and object F1 against the number of labelled fields.

    Takes what `compute_curve` gives. Mean over the folds, a band from the lowest to the highest,
    and a dot for each. The fields are on a logarithmic axis with 0, the model as it came, left of
    1.
    """
    figure = plots.create_figure(9.6, 4.2)
    for panel, (name, color) in zip(figure.subplots(1, 2), CURVES.items(), strict=True):
        rows = [row for row in curve["rows"] if row[name]["mean"] is not None]
        # On a logarithmic axis 0 has no place: it gets one as far from 1 as 1 is from 3.
        places = [1 / 3 if row["n"] == 0 else row["n"] for row in rows]
        mean, low, high = ([row[name][key] for row in rows] for key in ("mean", "low", "high"))
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
    split_by = curve.get("split_by", "group")
    same = "" if split_by == "group" else "; the same tissue is in both"
    text = f"Mean, range and each of {curve['folds']} folds, held out by {split_by}{same}"
    figure.supxlabel(text, size=10)
    return figure


@plots.styled
def plot_before_after(
    image: np.ndarray,
    label: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    titles: tuple[str, float | None, float | None] = ("", None, None),
) -> Figure:
    """Plot the outlines of what is found in a field before and after a fine-tuning.

    The image `[H, W]` float is normalised; true neurons, and those found before and after, are `[H,
    W]` int, 0 is background. `titles`: name of the field, and F1 before and after.
    """
    figure, panels = plots.create_panels(2, image.shape, 12, 2)
    gray = np.repeat(np.clip(np.nan_to_num(image), 0, 1)[..., None], 3, axis=-1)
    true = outline_labels(label)
    shown = (("Before", before, titles[1]), ("After", after, titles[2]))
    for panel, (title, found, f1) in zip(panels, shown, strict=True):
        painted, seen = gray.copy(), outline_labels(found)
        for where, color in ((true, LABELLED), (seen, FOUND), (true & seen, BOTH)):
            painted[where] = to_rgb(color)
        plot.picture(painted, panel)
        score = "" if f1 is None else f", F1 {f1:.3f}"
        panel.set_title(f"{title}: {len(np.unique(found[found > 0]))} neurons{score}")
    lines = [
        Line2D([], [], color=color, lw=3, label=text)
        for color, text in ((LABELLED, "Label"), (FOUND, "Found"), (BOTH, "Both"))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    plots.entitle(figure, titles[0])
    return figure
