"""The page of a movie: the field with its neurons, the most active traces, and a table."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fluxseg import plot
from fluxseg.data.recording import draw_outlines
from fluxseg.io.files import write_text
from fluxseg.report.html import write_figure
from fluxseg.report.page import render_template
from fluxseg.report.plots import DPI, STYLE, printable
from fluxseg.traces.extract import Traces
from fluxseg.traces.find import Found
from fluxseg.traces.outputs import tabulate_traces
from fluxseg.traces.passes import Projections

PAGE = "extract.html"
SHOWN = 12
"""Traces on the page."""


def write_traces_page(
    folder: Path,
    name: str,
    images: Projections,
    found: Found,
    traces: Traces,
    remarks: Sequence[str],
) -> Path:
    """Write `extract.html` with its pictures `field.png` and `traces.png`.

    Args:
        folder: to write to.
        name: of the movie.
        images: its projections.
        found: N ROIs, at least one.
        traces: of these.
        remarks: what is doubtful.

    Returns:
        Path of the page: no script, no request, every value escaped.

    Raises:
        WorkdirError: if a file cannot be written.
    """
    shown = most_active(traces)[:SHOWN]
    with matplotlib.rc_context(STYLE):
        field, lines = (Figure(figsize=(9.6, h), dpi=DPI, layout="constrained") for h in (9.6, 7.2))
        FigureCanvasAgg(field)
        FigureCanvasAgg(lines)
        panel = field.subplots()
        panel.imshow(draw_outlines(images.largest, found.footprints.masks()))
        panel.set_axis_off()
        for number in shown:
            y, x = np.divmod(found.footprints.pixels[number], found.footprints.shape[1])
            panel.text(
                x.mean(), y.mean(), printable(found.names[number]), ha="center", va="center",
                color="#4AA8F0", size=11, weight="bold", parse_math=False,
            )  # fmt: skip
        plot.traces(traces, shown, [printable(found.names[k]) for k in shown], lines.subplots())
    text = render_template(
        "traces.html",
        title=name,
        frames=traces.f.shape[1],
        rate=traces.rate,
        seconds=traces.f.shape[1] / traces.rate,
        remarks=remarks,
        field=write_figure(field, folder, "field", f"Maximum of {name} with outlines of the ROIs"),
        plot=write_figure(lines, folder, "traces", "dF/F of the most active neurons"),
        rows=tabulate_traces(found, traces),
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def most_active(traces: Traces) -> list[int]:
    """Return the numbers of the ROIs, those first whose dF/F rises most above its noise."""
    if not len(traces):
        return []
    peaks = np.percentile(traces.dff, 99.5, axis=1)
    noise = np.maximum(traces.measures["noise"], 1e-6)
    return np.argsort(-peaks / noise, kind="stable").tolist()
