"""A review of labels to look through: contact sheets of the places, and one page of them all."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluxseg.adapt.review.disagreements import Disagreement
from fluxseg.adapt.review.places import (
    PATCH,
    PICTURED,
    Patch,
    ReviewedRecording,
    rank_places,
)
from fluxseg.io.files import write_text
from fluxseg.io.markup import png_address
from fluxseg.report.page import render_template
from fluxseg.report.plots import DPI, STYLE, save_png

COLUMNS = 8
PER_SHEET = 48
LABEL_COLOR, MODEL_COLOR = "#56B4E9", "#E69F00"
TITLES = {
    "missed": "Probably missed: the model is sure, no label is there",
    "doubtful": "Doubtful labels: the model is sure that it is background",
    "merged": "One predicted cell on several labels",
    "split": "Several predicted cells on one label",
}

Place = tuple[int, ReviewedRecording, Disagreement]
"""Rank, recording and disagreement."""


def plot_sheet(places: Sequence[Place], title: str) -> Figure:
    """Plot crops of the image around disagreements, with outlines.

    Args:
        places: what to show, in this order.
        title: text above.

    Returns:
        A figure with a crop for each: labels outlined in blue; what the disagreement is about
        in orange, broken where it is a label.
    """
    rows = math.ceil(len(places) / COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.6 * COLUMNS, 1.85 * rows + 0.85), dpi=DPI)
        FigureCanvasAgg(figure)
        top = 1 - 0.8 / figure.get_figheight()
        figure.subplots_adjust(0.01, 0.005, 0.99, top, wspace=0.06, hspace=0.2)
        panels = np.atleast_2d(figure.subplots(rows, COLUMNS, squeeze=False))
        for panel in panels.flat:
            panel.set_axis_off()
        for panel, (rank, one, found) in zip(panels.flat, places, strict=False):
            _draw_patch(panel, one.patches[one.found.index(found)], found.kind)
            panel.set_title(f"{rank}   {found.confidence:.2f}", size=9, pad=2)
        edge = 0.15 / figure.get_figheight()
        figure.suptitle(title, x=0.01, y=1 - edge, ha="left", va="top", weight="bold", size=13)
        lines = [
            Line2D([], [], color=LABEL_COLOR, label="Label"),
            Line2D([], [], color=MODEL_COLOR, label="What this is about"),
        ]
        figure.legend(
            handles=lines, loc="upper right", bbox_to_anchor=(0.99, 1 - edge / 2), ncols=2
        )
        figure.text(
            0.01,
            1 - 0.4 / figure.get_figheight(),
            f"Number in the list and confidence; crops of {PATCH} × {PATCH} px",
            va="top",
            size=9,
            color="#555555",
        )
    return figure


def _draw_patch(panel: Axes, patch: Patch, kind: str) -> None:
    panel.imshow(patch.image, cmap="gray", vmin=0, vmax=1)
    for mask in patch.labels:
        _draw_outline(panel, mask, LABEL_COLOR, 0.8)
    _draw_outline(panel, patch.mask, MODEL_COLOR, 1.3, "--" if kind == "doubtful" else "-")


def _draw_outline(panel: Axes, mask: np.ndarray, color: str, width: float, line: str = "-") -> None:
    if mask.any():
        # A frame of background closes outlines that the crop cuts.
        padded = np.pad(mask.astype(float), 1)
        places = [np.arange(-1, side + 1) for side in mask.shape]
        panel.contour(
            places[1], places[0], padded, [0.5], colors=color, linewidths=width, linestyles=line
        )


def write_review_page(
    reviewed: Sequence[ReviewedRecording],
    rows: Sequence[Mapping[str, Any]],
    remarks: Sequence[str],
    output: Path,
) -> Path:
    """Write the contact sheets (`sheet-KIND-1.png`, ...) and `review.html`, which holds them all.

    Args:
        reviewed: from `review_recordings`.
        rows: from `write_review`.
        remarks: what is to be said above all.
        output: folder to write to; sheets of an earlier review are removed.

    Returns:
        Path of the page: no script, no request, every value escaped.
    """
    for old in output.glob("sheet-*-*.png"):
        old.unlink()
    sections = []
    for kind, title in TITLES.items():
        chosen = rank_places(reviewed, kind)[:PICTURED]
        sheets = []
        for number in range(math.ceil(len(chosen) / PER_SHEET)):
            part = chosen[number * PER_SHEET : (number + 1) * PER_SHEET]
            path = output / f"sheet-{kind}-{number + 1}.png"
            save_png(plot_sheet(part, title), path)
            sheets.append(png_address(path.read_bytes()))
        sections.append(
            {
                "kind": kind,
                "title": title,
                "sheets": sheets,
                "rows": [row for row in rows if row["kind"] == kind],
                "shown": len(chosen),
            }
        )
    path = output / "review.html"
    write_text(path, render_review(reviewed, sections, remarks))
    return path


def render_review(
    reviewed: Sequence[ReviewedRecording],
    sections: Sequence[Mapping[str, Any]],
    remarks: Sequence[str],
) -> str:
    """Render the page of a review; the same for the same input."""
    return render_template(
        "review.html",
        recordings=[
            {
                "id": one.id,
                "name": one.name,
                "labels": len(one.labels),
                "counts": {kind: sum(d.kind == kind for d in one.found) for kind in TITLES},
                "files": one.files,
            }
            for one in reviewed
        ],
        sections=sections,
        remarks=remarks,
    )
