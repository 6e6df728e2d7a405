"""A review of labels to look through: contact sheets of the places, and one page of them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluxseg import plot
from fluxseg.adapt.review.disagreements import (
    PATCH,
    PICTURED,
    Disagreement,
    ReviewedRecording,
    rank_places,
)
from fluxseg.report.page import write_page
from fluxseg.report.plots import create_panels, embed_figure, entitle, styled

COLUMNS = 8
PER_SHEET = 48
LABEL_COLOR, MODEL_COLOR = "#56B4E9", "#E69F00"
TITLES = {
    "missed": "Probably missed: the model is sure, no label is there",
    "doubtful": "Doubtful labels: the model is sure that it is background",
}

Place = tuple[int, ReviewedRecording, Disagreement]  # rank, recording and disagreement


@styled
def plot_sheet(places: Sequence[Place], title: str) -> Figure:
    """Plot a crop of the image around each disagreement.

    Labels are outlined in blue; in orange is what it is about, broken where that is a label.
    """
    figure, panels = create_panels(len(places), (PATCH, PATCH), 1.6 * COLUMNS, COLUMNS)
    for panel, (rank, one, found) in zip(panels, places, strict=True):
        patch = one.patches[one.found.index(found)]
        plot.picture(patch.image, panel, cmap="gray", vmin=0, vmax=1)
        for mask in patch.labels:
            _draw_outline(panel, mask, LABEL_COLOR, 0.8)
        line = "--" if found.kind == "doubtful" else "-"
        _draw_outline(panel, patch.mask, MODEL_COLOR, 1.3, line)
        panel.set_title(f"{rank}   {found.confidence:.2f}", size=9, pad=2)
    lines = [
        Line2D([], [], color=LABEL_COLOR, label="Label"),
        Line2D([], [], color=MODEL_COLOR, label="What this is about"),
    ]
    figure.legend(handles=lines, loc="outside lower right", ncols=2)
    figure.supxlabel(f"Number in the list and confidence; crops of {PATCH} × {PATCH} px", size=9)
    entitle(figure, title)
    return figure


def _draw_outline(panel: Axes, mask: np.ndarray, color: str, width: float, line: str = "-") -> None:
    if mask.any():
        # A frame of background closes outlines that the crop cuts.
        padded = np.pad(mask.astype(float), 1)
        rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
        panel.contour(columns, rows, padded, [0.5], colors=color, linewidths=width, linestyles=line)


def write_review_page(
    reviewed: Sequence[ReviewedRecording],
    rows: Sequence[Mapping[str, Any]],
    remarks: Sequence[str],
    output: Path,
) -> Path:
    """Write the contact sheets (`sheet-KIND-1.png`, ...) and `review.html`, which holds them all.

    `reviewed` is from `review_recordings`, `rows` from `write_review`, and `remarks` stand above
    all. Sheets of an earlier review are removed.
    """
    for old in output.glob("sheet-*-*.png"):
        old.unlink()
    sections = []
    for kind, title in TITLES.items():
        chosen = rank_places(reviewed, kind)[:PICTURED]
        sheets = []
        for start in range(0, len(chosen), PER_SHEET):
            number = start // PER_SHEET + 1
            figure = plot_sheet(chosen[start : start + PER_SHEET], title)
            path = output / f"sheet-{kind}-{number}.png"
            sheets.append(embed_figure(figure, f"{title}: sheet {number}", path))
        section = {"kind": kind, "title": title, "sheets": sheets, "shown": len(chosen)}
        sections.append({**section, "rows": [row for row in rows if row["kind"] == kind]})
    recordings = [
        {
            "id": one.id,
            "labels": len(one.labels),
            "counts": {kind: one.count(kind) for kind in TITLES},
            "files": one.files,
        }
        for one in reviewed
    ]
    page = {"recordings": recordings, "sections": sections, "remarks": remarks}
    return write_page(output / "review.html", "review.html", **page)
