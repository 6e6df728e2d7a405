"""Figures of a run, as matplotlib figures that need no display and leave no global state behind.

What notebooks draw as well is in `fluxseg.plot`.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from fluxseg import plot
from fluxseg.formats.own import MARK
from fluxseg.io.files import atomic_path
from fluxseg.model.score_names import TITLES
from fluxseg.report.page import embed_png

Arguments = ParamSpec("Arguments")

DPI = 144
DISTRIBUTIONS = ("neuron_iou", "macro_iou", "precision", "recall")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of runs and curves."""
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
    # A "$" in a name is no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def styled(function: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Let a function make its figure in `STYLE`, which is gone afterwards."""

    @functools.wraps(function)
    def inner(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return inner


def create_figure(width: float, height: float) -> Figure:
    """Create a figure of a size in inches, without pyplot."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path | None = None) -> bytes:
    """Return a figure as PNG, the same bytes each time; also write it, atomically, to a path.

    Raises `WorkdirError` if it cannot be written.
    """
    buffer = io.BytesIO()
    # So that it is never taken for an image; the entry of matplotlib changes with its version.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": MARK})
    if path:
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def embed_figure(figure: Figure, alt: str, path: Path | None = None) -> dict[str, Any]:
    """Return what a page needs of a figure (see `embed_png`); also write it to a path as PNG."""
    return embed_png(save_png(figure, path), alt)


def entitle(figure: Figure, title: str) -> None:
    """Write a title at the top left of a figure, which becomes higher by it."""
    figure.set_figheight(figure.get_figheight() + 0.5)
    figure.suptitle(printable(title), x=0.006, ha="left", weight="bold", size=13)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))


@styled
def plot_curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Plot loss, accuracy, macro IoU and neuron IoU over the epochs; see `fluxseg.plot.curves`."""
    figure = create_figure(9.6, 6.8)
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


@styled
def plot_confusion(confusion: np.ndarray, title: str = "") -> Figure:
    """Plot a confusion matrix `[2, 2]` with a title; see `fluxseg.plot.confusion`."""
    figure = create_figure(5.2, 4.6)
    plot.confusion(confusion, ax=figure.subplots()).set_title(printable(title))
    return figure


@styled
def plot_example(
    image: np.ndarray,
    label: np.ndarray,
    probability: np.ndarray,
    valid: np.ndarray,
    title: str = "",
) -> Figure:
    """Plot a field of view in four panels: image, true mask, predicted probability, and errors.

    The image `[H, W]` float is normalised, a label `[H, W]` of 1 is neuron, and so is a probability
    `[H, W]` of more than 0.5. Pixels that are not `valid` `[H, W]` bool are not scored, and grey.
    """
    figure, panels = create_panels(4, image.shape, 14.8, 4)
    pictures = (
        ("Image", np.clip(image, 0, 1), "gray"),
        ("Mask (truth)", (label == 1).astype(np.float32), "gray"),
        ("Prediction (probability)", probability, "cividis"),
    )
    for panel, (name, values, cmap) in zip(panels, pictures, strict=False):
        shown = np.ma.masked_where(~valid | ~np.isfinite(values), values)
        plot.picture(shown, panel, cmap=cmap, vmin=0, vmax=1).set_title(name)
    errors = plot.error_colors(image, label == 1, probability > 0.5, valid)
    plot.picture(errors, panels[3]).set_title("Errors")
    plot.draw_error_legend(panels[3], valid)
    # In widths of a panel, so that the bar is as high as the legend beside it, which has its room.
    low, high = (part * image.shape[1] / image.shape[0] for part in (-0.042, 0.022))
    figure.colorbar(
        panels[2].images[0], cax=panels[2].inset_axes((0.15, low, 0.7, high)),
        orientation="horizontal", ticks=[0, 0.5, 1],
    )  # fmt: skip
    entitle(figure, title)
    return figure


def create_panels(
    count: int, shape: Sequence[int], width: float, columns: int
) -> tuple[Figure, list[Axes]]:
    """Create a figure, `width` inches wide, with panels in rows for fields `[H, W]` of a shape."""
    rows = -(-count // columns)
    height = width / columns * min(max(shape[0] / shape[1], 0.3), 3) + 0.35
    figure = create_figure(width, rows * height + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels:
        panel.spines[:].set_visible(False)
        # Room that is left goes below, where legends are.
        panel.set_anchor("N")
    return figure, panels[:count]


@styled
def plot_recordings(recordings: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot how the scores are distributed over recordings: a dot each, quartiles, the median.

    Rows have `scores`, name -> value, or None, which is left out and counted in the axis label.
    """
    figure = create_figure(6.4, 4.6)
    panel = figure.subplots()
    labels = []
    for row, name in enumerate(DISTRIBUTIONS):
        title = TITLES[name]
        values = plot.to_numbers(recording["scores"].get(name) for recording in recordings)
        values = values[np.isfinite(values)]
        undefined = len(recordings) - len(values)
        labels.append(f"{title}\n({undefined} undefined)" if undefined else title)
        size, alpha = (26, 0.75) if len(values) <= 60 else (9, 0.35)
        draw_dots(panel, values, row, s=size, alpha=alpha, color=COLORS[0])
        if len(values):
            low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
            panel.plot([low, high], [row, row], color="#333333", lw=2.5, solid_capstyle="butt")
            panel.plot([median, median], [row - 0.3, row + 0.3], color="#D55E00", lw=2.5)
            panel.text(median, row - 0.34, f"{median:.2f}", ha="center", va="bottom", size=10)
    name_rows(panel, labels, -0.65)
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("Score of a recording; line: quartiles, bar: median")
    panel.set_title(f"{len(recordings)} recording{'' if len(recordings) == 1 else 's'}")
    return figure


def draw_dots(panel: Axes, values: np.ndarray, row: int, **style: Any) -> None:
    """Draw values `[N]` as dots in a row of a panel."""
    # Steps of the golden ratio spread any number of dots evenly and without chance.
    spread = (np.arange(len(values)) * 0.618034) % 1 - 0.5
    panel.scatter(values, row + 0.5 * spread, lw=0, **style)


def name_rows(panel: Axes, names: Sequence[str], top: float = -0.5) -> None:
    """Name the rows of a panel, the first on top, in place of an axis."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, top)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)


@styled
def plot_reliability(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot the share of neuron pixels against their probability, and the pixels in each bin.

    `curves` is name -> rows of `reliability_curve`; empty bins are passed over.
    """
    figure = create_figure(6.4, 6.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="#999999", lw=1.2, ls="--", label="perfect")
    for number, (name, rows) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        filled = [row for row in rows if row["pixels"]]
        points = ([row[key] for row in filled] for key in ("confidence", "share"))
        above.plot(*points, color=color, marker="o", ms=4.5, lw=1.8, label=printable(name))
        if filled:
            edges = [row["low"] for row in rows] + [rows[-1]["high"]]
            below.stairs([row["pixels"] for row in rows], edges, color=color, lw=1.8)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share of neuron pixels")
    above.legend(loc="upper left")
    below.set(yscale="log", ylabel="Pixels", xlabel="Predicted probability of neuron")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_formatter(NullFormatter())
    return figure


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
