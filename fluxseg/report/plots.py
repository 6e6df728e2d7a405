"""Figures of a run, as matplotlib figures that need no display and leave no global state behind.

What notebooks draw as well is in `fluxseg.plot`.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fluxseg import plot
from fluxseg.formats.own import MARK
from fluxseg.io.files import atomic_path
from fluxseg.model.score_names import TITLES

Arguments = ParamSpec("Arguments")

DPI = 144
DISTRIBUTIONS = ("neuron_iou", "macro_iou", "precision", "recall")
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.usetex": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def _styled(function: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    # The style holds while a figure is made and is gone afterwards: notebooks keep their own.
    @functools.wraps(function)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return styled


def _create_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@_styled
def plot_curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Plot loss, accuracy, macro IoU and neuron IoU over the epochs, one line for each split.

    Args:
        history: one row for each epoch: `epoch`, and `{split}_{figure}` for the splits train,
            val and test; figures may be missing or None.
        best_epoch: epoch of the chosen checkpoint, marked in every panel; None: no mark.

    Returns:
        A figure with four panels.
    """
    figure = _create_figure(9.6, 6.8)
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, name in zip(panels, plot.FIGURES, strict=True):
        plot.curves(history, name, best_epoch, ax=panel)
    for panel in figure.axes[:2]:
        panel.set_xlabel("")
    drawn: dict[str, Artist] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    if drawn:
        columns = len(drawn)
        figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=columns)
    return figure


@_styled
def plot_confusion(confusion: np.ndarray, title: str = "") -> Figure:
    """Plot a confusion matrix with pixel counts and the shares of each row.

    Args:
        confusion: `[2, 2]` integer pixel counts, `[[TN, FP], [FN, TP]]`: rows are the truth,
            columns the prediction.
        title: text above the matrix.

    Returns:
        A figure with one panel; the colour of a cell is its share of the row.
    """
    figure = _create_figure(5.2, 4.6)
    panel = plot.confusion(confusion, ax=figure.subplots())
    panel.set_title(printable(title), parse_math=False)
    return figure


@_styled
def plot_example(
    image: np.ndarray,
    label: np.ndarray,
    probability: np.ndarray,
    valid: np.ndarray,
    title: str = "",
) -> Figure:
    """Plot a field of view: image, true mask, predicted probability, and the errors.

    Args:
        image: `[H, W]` float, normalised so that most pixels lie in 0 to 1.
        label: `[H, W]` integer, 1 is neuron.
        probability: `[H, W]` float, predicted probability of neuron, 0 to 1; more than 0.5
            counts as neuron.
        valid: `[H, W]` bool, pixels that are scored; the others are grey.
        title: text above the panels.

    Returns:
        A figure with four panels in a row, with a colour bar and a legend below.
    """
    figure, panels, bar = _create_panels(image.shape)
    pictures = (
        ("Image", np.clip(image, 0, 1), "gray"),
        ("Mask (truth)", (label == 1).astype(np.float32), "gray"),
        ("Prediction", probability, "cividis"),
    )
    for panel, (name, values, cmap) in zip(panels, pictures, strict=False):
        shown = np.ma.masked_where(~valid | ~np.isfinite(values), values)
        panel.imshow(shown, cmap=cmap, vmin=0, vmax=1)
        panel.set_title(name)
    # Interpolation would mix the colours of neighbouring classes into ones that mean nothing.
    errors = plot.error_colors(image, label == 1, probability > 0.5, valid)
    panels[3].imshow(errors, interpolation="nearest")
    panels[3].set_title("Errors")
    plot.draw_error_legend(panels[3], valid)
    colorbar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), "cividis"),
        bar,
        orientation="horizontal",
        ticks=[0, 0.5, 1],
    )
    colorbar.ax.set_title("Probability of neuron", size=10, weight="normal", loc="center")
    colorbar.outline.set_visible(False)
    text = printable(title)
    figure.suptitle(text, x=0.006, y=0.985, ha="left", weight="bold", size=13, parse_math=False)
    return figure


def _create_panels(shape: tuple[int, ...]) -> tuple[Figure, list[Axes], Axes]:
    # Placed by hand, in pixels: the automatic layouts leave wide gaps between square panels, and
    # this way a field of 512 x 512 is shown pixel for pixel.
    width, gap, edge, top, bottom = 512, 18, 12, 96, 92
    height = round(width * min(max(shape[0] / shape[1], 0.3), 3))
    total = (4 * width + 3 * gap + 2 * edge, height + top + bottom)
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)

    def place(left: float, low: float, wide: float, high: float) -> Axes:
        box = (left / total[0], low / total[1], wide / total[0], high / total[1])
        return figure.add_axes(box)

    lefts = [edge + number * (width + gap) for number in range(4)]
    panels = [place(left, bottom, width, height) for left in lefts]
    for panel in panels:
        # Masked pixels are transparent and show this colour.
        panel.set_facecolor(plot.OUTSIDE)
        panel.grid(visible=False)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    return figure, panels, place(lefts[2] + 76, 38, 360, 17)


@_styled
def plot_recordings(recordings: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot how the scores are distributed over recordings: a dot each, quartiles, the median.

    Args:
        recordings: rows with `scores`, a table of score names and values or None; undefined
            values are left out and counted in the axis label.

    Returns:
        A figure with one row for each of neuron IoU, macro IoU, precision and recall.
    """
    figure = _create_figure(6.4, 4.6)
    panel = figure.subplots()
    labels = []
    for row, name in enumerate(DISTRIBUTIONS):
        title = TITLES[name]
        values = np.array([_number(recording["scores"].get(name)) for recording in recordings])
        values = values[np.isfinite(values)]
        undefined = len(recordings) - len(values)
        labels.append(f"{title}\n({undefined} undefined)" if undefined else title)
        # Steps of the golden ratio spread any number of dots evenly and without chance.
        spread = (np.arange(len(values)) * 0.618034) % 1 - 0.5
        size, alpha = (26, 0.75) if len(values) <= 60 else (9, 0.35)
        panel.scatter(values, row + 0.5 * spread, s=size, alpha=alpha, color="#0072B2", lw=0)
        if len(values):
            low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
            panel.plot([low, high], [row, row], color="#333333", lw=2.5, solid_capstyle="butt")
            panel.plot([median, median], [row - 0.3, row + 0.3], color="#D55E00", lw=2.5)
            panel.text(median, row - 0.34, f"{median:.2f}", ha="center", va="bottom", size=10)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.65)
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("Score of a recording; line: quartiles, bar: median")
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    count = f"{len(recordings)} recording{'' if len(recordings) == 1 else 's'}"
    panel.set_title(count)
    return figure


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically; the same figure always gives the same bytes.

    Raises:
        WorkdirError: if it cannot be written.
    """
    with atomic_path(path) as temporary:
        # So that it is never taken for an image; the entry of matplotlib changes with its version.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": MARK})


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@functools.cache
def _known_characters() -> frozenset[int]:
    path = font_manager.findfont(STYLE["font.family"])
    return frozenset(font_manager.get_font(path).get_charmap())


def printable(text: str) -> str:
    """Return a text as a figure can show it: at most 100 characters, "?" for what it cannot."""
    # A character that the font lacks would be drawn as an empty box, with a warning each time.
    known = _known_characters()
    shown = "".join(c if c.isprintable() and ord(c) in known else "?" for c in text)
    return shown if len(shown) <= 100 else shown[:99] + "…"
