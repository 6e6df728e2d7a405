"""The page of a movie: the field with its neurons, the most active traces, and a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fluxseg import plot
from fluxseg.data.recording import draw_outlines
from fluxseg.report.page import write_page
from fluxseg.report.plots import create_figure, embed_figure, printable, styled
from fluxseg.traces.extract import Traces
from fluxseg.traces.find import Found
from fluxseg.traces.outputs import tabulate_traces
from fluxseg.traces.passes import Projections

SHOWN = 12  # traces on the page


def write_traces_page(
    folder: Path,
    name: str,
    images: Projections,
    found: Found,
    traces: Traces,
    remarks: Sequence[str],
) -> Path:
    """Write `extract.html` of a movie of this name, with its pictures `field.png` and `traces.png`.

    No script, no request, every value escaped; `WorkdirError` if a file cannot be written.
    """
    shown = most_active(traces)[:SHOWN]
    alt = f"Maximum of {name} with outlines of the ROIs"
    field = embed_figure(_plot_field(images.largest, found, shown), alt, folder / "field.png")
    alt = "dF/F of the most active neurons"
    lines = embed_figure(_plot_traces(traces, found, shown), alt, folder / "traces.png")
    return write_page(
        folder / "extract.html",
        "traces.html",
        title=name,
        frames=traces.f.shape[1],
        rate=traces.rate,
        seconds=traces.f.shape[1] / traces.rate,
        remarks=remarks,
        field=field,
        plot=lines,
        rows=tabulate_traces(found, traces),
    )


@styled
def _plot_field(image: np.ndarray, found: Found, shown: Sequence[int]) -> Figure:
    figure = create_figure(9.6, 9.6)
    panel = plot.picture(draw_outlines(image, found.footprints.masks()), figure.subplots())
    for number in shown:
        y, x = np.divmod(found.footprints.pixels[number], found.footprints.shape[1])
        panel.text(
            x.mean(), y.mean(), printable(found.names[number]), ha="center", va="center",
            color="#4AA8F0", size=11, weight="bold",
        )  # fmt: skip
    return figure


@styled
def _plot_traces(traces: Traces, found: Found, shown: Sequence[int]) -> Figure:
    figure = create_figure(9.6, 7.2)
    plot.traces(traces, shown, [printable(found.names[k]) for k in shown], figure.subplots())
    return figure


def most_active(traces: Traces) -> list[int]:
    """Return the numbers of the ROIs, those first whose dF/F rises most above its noise."""
    if not len(traces):
        return []
    peaks = np.percentile(traces.dff, 99.5, axis=1)
    noise = np.maximum(traces.measures["noise"], 1e-6)
    return np.argsort(-peaks / noise, kind="stable").tolist()
