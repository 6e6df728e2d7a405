"""Pictures for notebooks: `fluxseg.plot.NAME(..., ax=None)` draws into matplotlib axes.

Every function returns the axes; without `ax` it makes new ones in a new figure of pyplot. The
report draws with the same functions. The colours are those of Okabe and Ito ("Color Universal
Design", 2008), which people with any kind of colour blindness can tell apart; splits also differ
in line style and marker.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fluxseg.data.recording import draw_outlines
from fluxseg.data.transforms import normalize_image
from fluxseg.model.score_names import SPLIT_TITLES, TITLES

if TYPE_CHECKING:
    from fluxseg.data.recording import Recording
    from fluxseg.inference.objects.rois import Rois
    from fluxseg.traces.extract import Traces

CLASSES = ("Background", "Neuron")
FIGURES = ("loss", "accuracy", "macro_iou", "neuron_iou")
"""Figures of an epoch."""
SPLIT_LINES = {
    "train": (SPLIT_TITLES["train"], "#0072B2", "-", "o"),
    "val": (SPLIT_TITLES["val"], "#D55E00", "--", "s"),
    "test": (SPLIT_TITLES["test"], "#009E73", ":", "^"),
}
ERRORS = {"Found (TP)": "#F4F1E8", "False alarm (FP)": "#E69F00", "Missed (FN)": "#4AA8F0"}
OUTSIDE = "#777777"


def recording(recording: "Recording", ax: Axes | None = None) -> Axes:
    """Draw the image of a recording with the outlines of its ROIs, if it has masks."""
    ax = picture(draw_outlines(recording.image, recording.masks), ax)
    count = "no masks" if recording.masks is None else f"{len(recording.masks)} ROIs"
    ax.set_title(f"{recording.id}: {count}", parse_math=False)
    return ax


def rois(image: np.ndarray, rois: "Rois", ax: Axes | None = None) -> Axes:
    """Draw an image `[H, W]` of any real dtype with found ROIs, neighbours in number unlike."""
    gray = np.clip(normalize_image(image), 0, 1)
    # Steps of the golden ratio set the hues of successive ROIs far apart.
    hues = (np.arange(len(rois) + 1) * 0.618034) % 1
    colors = 0.5 + 0.5 * np.cos(2 * np.pi * (hues[:, None] + np.array([0, 1, 2]) / 3))
    inside = (rois.labels > 0)[..., None]
    painted = np.where(inside, 0.45 * gray[..., None] + 0.55 * colors[rois.labels], gray[..., None])
    ax = picture(painted, ax)
    ax.set_title(f"{len(rois)} neurons")
    return ax


def traces(
    traces: "Traces",
    which: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw dF/F over time, one line above the other.

    Args:
        traces: from `fluxseg.extract`.
        which: numbers of the ROIs, the topmost first; None: the first 20.
        names: of these, at the left; None: their numbers.
        ax: axes to draw into.
    """
    chosen = list(range(min(len(traces), 20)) if which is None else which)
    ax = _create_axes() if ax is None else ax
    seconds = np.arange(traces.f.shape[1]) / traces.rate
    lines = traces.dff[chosen]
    # Of one height each, as a single large event would flatten all others.
    step = 1.2 * float(np.median(np.ptp(lines, axis=1))) if len(chosen) else 1.0
    step = step if step > 0 else 1.0
    places = -step * np.arange(len(chosen))
    for line, place in zip(lines, places, strict=True):
        ax.plot(seconds, line + place, color="#0072B2", linewidth=0.8)
    labels = [str(k) for k in chosen] if names is None else list(names)
    ax.set_yticks(places, labels, parse_math=False)
    ax.set_ylabel(f"Neuron; steps of {step:.2g} dF/F")
    ax.set_xlabel("Time, s")
    ax.margins(x=0.01, y=0.02)
    return ax


def probability(probability: np.ndarray, ax: Axes | None = None) -> Axes:
    """Draw a probability of neuron `[H, W]`, 0 to 1, with a colour bar; NaN is left out."""
    ax = picture(probability, ax, cmap="cividis", vmin=0, vmax=1)
    figure = ax.figure
    figure.colorbar(ax.images[0], ax=ax, ticks=[0, 0.5, 1], label="Probability of neuron")
    ax.set_title("Prediction")
    return ax


def mistakes(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which pixels of neurons were found, missed, or false alarms, over the dimmed image.

    Args:
        image: `[H, W]`, any real dtype.
        label: `[H, W]` bool, true mask.
        prediction: `[H, W]` bool.
        valid: `[H, W]` bool, pixels that are scored; the others are grey. None: all.
        ax: axes to draw into.
    """
    valid = np.ones(label.shape, bool) if valid is None else valid
    ax = picture(error_colors(normalize_image(image), label > 0, prediction > 0, valid), ax)
    draw_error_legend(ax, valid)
    ax.set_title("Errors")
    return ax


def error_colors(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Colour pixels by their kind of error: `[H, W, 3]` float; see `mistakes`, image normalised."""
    found, alarm, missed = (to_rgb(color) for color in ERRORS.values())
    # The dimmed image tells whether a false alarm lies on something that looks like a cell.
    colors = np.repeat(0.4 * np.clip(np.nan_to_num(image), 0, 1)[..., None], 3, axis=-1)
    colors[label & prediction] = found
    colors[~label & prediction] = alarm
    colors[label & ~prediction] = missed
    colors[~valid] = to_rgb(OUTSIDE)
    return colors


def error_patches(valid: np.ndarray) -> list[Patch]:
    """Return what stands in the legend of `error_colors`."""
    colors = ERRORS if valid.all() else ERRORS | {"Not scored": OUTSIDE}
    return [Patch(facecolor=c, edgecolor="#888888", label=name) for name, c in colors.items()]


def draw_error_legend(ax: Axes, valid: np.ndarray) -> None:
    """Draw the legend of `error_colors` below axes."""
    ax.legend(
        handles=error_patches(valid), loc="upper left", bbox_to_anchor=(0, 0), ncols=2, fontsize=10,
        borderaxespad=0.4, borderpad=0, handlelength=1.4,
    )  # fmt: skip


def curves(
    history: Sequence[Mapping[str, Any]],
    figure: str = "neuron_iou",
    best_epoch: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a figure over the epochs, one line for each split that has it, labelled for a legend.

    Args:
        history: one row for each epoch: `epoch`, and `{split}_{figure}` for the splits train,
            val and test; figures may be missing or None.
        figure: one of `FIGURES`.
        best_epoch: epoch of the chosen checkpoint, marked; None: no mark.
        ax: axes to draw into.
    """
    ax = _create_axes() if ax is None else ax
    epochs = [row["epoch"] for row in history]
    size = 4 if len(epochs) <= 40 else 0
    for split, (label, color, line, marker) in SPLIT_LINES.items():
        values = to_numbers(row.get(f"{split}_{figure}") for row in history)
        if np.isfinite(values).any():
            ax.plot(
                epochs, values, color=color, linestyle=line, marker=marker, markersize=size,
                linewidth=1.8, label=label,
            )  # fmt: skip
    if best_epoch is not None:
        label = f"Chosen checkpoint (epoch {best_epoch})"
        ax.axvline(best_epoch, color="#555555", linewidth=1.2, zorder=1, label=label)
    ax.set_title(TITLES[figure])
    ax.set_xlabel("Epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    ax.margins(y=0.08)
    return ax


def confusion(confusion: np.ndarray, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix with pixel counts and shares of each row, which colour the cells.

    Args:
        confusion: `[2, 2]` integer pixel counts, `[[TN, FP], [FN, TP]]`: rows are the truth,
            columns the prediction.
        ax: axes to draw into.
    """
    confusion = np.asarray(confusion)
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros((2, 2)), where=totals > 0)
    ax = _create_axes() if ax is None else ax
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        # From here on white stands out better than black; either has a contrast above 4.5.
        color = "white" if shares[row, column] > 0.713 else "black"
        share = f"{100 * shares[row, column]:.1f} %" if totals[row, 0] else "no pixels"
        ax.text(column, row - 0.07, share, ha="center", va="center", color=color, size=19)
        ax.text(column, row + 0.16, f"{count:,} px", ha="center", va="center", color=color)
    ax.set_xticks([0, 1], CLASSES)
    ax.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    ax.set_xlabel("Predicted")
    ax.set_ylabel("Truth")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def features(features: np.ndarray, columns: int = 8, ax: Axes | None = None) -> Axes:
    """Draw the channels of a layer side by side, each from its least to its largest value.

    Args:
        features: `[H, W, C]` real, see `fluxseg.inference.features.layer_features`.
        columns: channels in a row.
        ax: axes to draw into.
    """
    height, width, count = features.shape
    low, high = features.min((0, 1)), features.max((0, 1))
    shown = (features - low) / np.where(high > low, high - low, 1)
    columns = min(columns, count)
    rows = -(-count // columns)
    # A gap of one pixel, which is not drawn, behind each channel.
    sheet = np.full((rows * columns, height + 1, width + 1), np.nan)
    sheet[:count, :-1, :-1] = np.moveaxis(shown, -1, 0)
    sheet = sheet.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    ax = picture(sheet.reshape(rows * (height + 1), -1)[:-1, :-1], ax, cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{count} channels of {height} x {width}")
    return ax


def to_numbers(values: Any) -> np.ndarray:
    """Return figures as float64 `[N]`, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], float)


def _create_axes() -> Axes:
    from matplotlib import pyplot

    _, ax = pyplot.subplots(layout="constrained")
    return ax


def picture(pixels: np.ndarray, ax: Axes | None = None, **settings: Any) -> Axes:
    """Draw pixels `[H, W]` or `[H, W, 3]` as they are, with settings of `Axes.imshow`."""
    ax = _create_axes() if ax is None else ax
    # Interpolation would mix the colours of neighbouring classes into ones that mean nothing.
    ax.imshow(pixels, interpolation="nearest", **settings)
    ax.set(xticks=[], yticks=[], facecolor=OUTSIDE)
    ax.grid(visible=False)
    return ax
