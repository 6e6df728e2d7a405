"""The results of a sweep: table, picture and page."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fluxseg.io.files import read_json, write_json, write_text
from fluxseg.io.tables import write_csv
from fluxseg.report.compare import embed_figure
from fluxseg.report.page import render_template
from fluxseg.report.plots import DPI, STYLE, printable
from fluxseg.training.sweep import Member, run_folder

SHOWN = ("neuron_iou", "macro_iou", "object_f1")
"""Scores that the tables have of each split."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a sweep.

    Attributes:
        name: name of its folder.
        settings: what is varied, by dotted name.
        monitored: validation figure of the best checkpoint; None if there is none.
        epoch: of the best checkpoint.
        val: scores on validation.
        test: scores on test; they choose nothing.
        seconds: of training and validation.
        failure: why it has failed; empty if it has not.
    """

    name: str
    settings: Mapping[str, Any]
    monitored: float | None
    epoch: int | None
    val: Mapping[str, float | None]
    test: Mapping[str, float | None]
    seconds: float | None
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """The results of a sweep.

    Attributes:
        monitor: figure by which the rows are sorted.
        settings: dotted names of what is varied.
        rows: the runs, the best first, those without a figure last.
    """

    monitor: str
    settings: tuple[str, ...]
    rows: tuple[Row, ...]


def collect_table(
    members: Sequence[Member], folder: Path, failures: Mapping[str, str] | None = None
) -> Table:
    """Read the scores of the runs of a sweep.

    Args:
        members: the runs.
        folder: folder of the sweep.
        failures: name -> why a run has failed.

    Raises:
        WorkdirError: naming the file, if one is damaged.
    """
    failures = failures or {}
    monitor = members[0].config.train.monitor
    rows = [_read_row(member, folder, failures.get(member.name, "")) for member in members]
    sign = 1 if monitor == "val_loss" else -1

    def rank(row: Row) -> tuple[bool, float, str]:
        known = row.monitored is not None
        return not known, sign * row.monitored if row.monitored is not None else 0.0, row.name

    return Table(monitor, tuple(members[0].settings), tuple(sorted(rows, key=rank)))


def _read_row(member: Member, folder: Path, failure: str) -> Row:
    workdir = run_folder(folder, member)
    path = workdir / "scores.json"
    if failure or not path.exists():
        return Row(member.name, member.settings, None, None, {}, {}, None, failure)
    scores, monitor = read_json(path), member.config.train.monitor
    checkpoint, splits = scores.get("checkpoint") or {}, scores["splits"]
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    epoch = checkpoint.get("epoch")
    # Runs that were chosen by another figure are still compared by one.
    found = [row.get(monitor) for row in history if row["epoch"] == epoch]
    return Row(
        member.name,
        member.settings,
        found[0] if found else None,
        epoch,
        _scores(splits.get("val")),
        _scores(splits.get("test")),
        history[-1]["seconds"] if history else None,
    )


def _scores(split: Mapping[str, Any] | None) -> dict[str, float | None]:
    if split is None:
        return {}
    values = {**split["scores"], **split.get("objects", {}).get("scores", {})}
    return {name: values.get(name) for name in SHOWN}


def write_table(table: Table, folder: Path) -> Path:
    """Write `sweep.csv`, `sweep.json` and `sweep.html`.

    Args:
        table: the results.
        folder: folder of the sweep.

    Returns:
        Path of the page, which needs no other file, no script and no network.

    Raises:
        WorkdirError: if they cannot be written.
    """
    flat = [
        {
            "name": row.name,
            **row.settings,
            table.monitor: row.monitored,
            "epoch": row.epoch,
            **{f"val {name}": value for name, value in row.val.items()},
            **{f"test {name}": value for name, value in row.test.items()},
            "seconds": row.seconds,
            "failure": row.failure or None,
        }
        for row in table.rows
    ]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    write_csv(folder / "sweep.csv", columns, flat)
    write_json(folder / "sweep.json", dataclasses.asdict(table))
    figures = []
    if any(row.monitored is not None for row in table.rows):
        alt = "Settings of each run and its validation figure, as lines over parallel axes"
        figures.append(embed_figure(plot_parallel(table), alt))
    page = render_template("sweep.html", table=table, figures=figures, shown=SHOWN)
    write_text(folder / "sweep.html", page)
    return folder / "sweep.html"


def plot_parallel(table: Table) -> Figure:
    """Plot runs as lines over parallel axes: what is varied, and the validation figure.

    Inselberg, "The plane with parallel coordinates", The Visual Computer 1985. Numbers stand in
    their order at equal distances, as do other values; only the figure has a true scale.

    Args:
        table: the results; runs without a figure are left out.

    Returns:
        A figure with one panel; the better a run, the yellower and the higher on top its line.
    """
    rows = [row for row in table.rows if row.monitored is not None][::-1]
    names = list(table.settings)
    figures = np.array([row.monitored for row in rows], float)
    low, high = float(figures.min()), float(figures.max())
    if math.isclose(low, high):
        low, high = low - 0.5, high + 0.5
    colors = matplotlib.colormaps["viridis_r" if table.monitor == "val_loss" else "viridis"]
    norm = Normalize(low, high)
    with matplotlib.rc_context(STYLE):
        width = max(6.4, 2.2 * (len(names) + 1))
        figure = Figure(figsize=(width, 4.8), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        places = [_place_values([row.settings[name] for row in rows]) for name in names]
        for number, row in enumerate(rows):
            heights = [place[repr(row.settings[name])] for name, place in zip(names, places)]  # noqa: B905
            value = norm(figures[number])
            panel.plot([*heights, value], color=colors(value), lw=1.8, alpha=0.85)
        for number, place in enumerate(places):
            for text, height in place.items():
                _write_value(panel, number, height, text.strip("'"))
        for height in np.linspace(0, 1, 5):
            _write_value(panel, len(names), float(height), f"{low + height * (high - low):.3g}")
        _dress(panel, [*names, table.monitor])
        figure.colorbar(ScalarMappable(norm, colors), ax=panel, label=printable(table.monitor))
    return figure


def _place_values(values: Sequence[Any]) -> dict[str, float]:
    numbers = all(isinstance(value, int | float) for value in values)
    distinct = {repr(value): value for value in values}
    order = sorted(distinct, key=distinct.__getitem__) if numbers else sorted(distinct)
    if len(order) == 1:
        return {order[0]: 0.5}
    return {text: place / (len(order) - 1) for place, text in enumerate(order)}


def _write_value(panel: Axes, axis: int, height: float, text: str) -> None:
    shown = panel.annotate(
        printable(text), (axis, height), (5, 3), textcoords="offset points", fontsize=9
    )
    shown.set_parse_math(False)


def _dress(panel: Axes, titles: Sequence[str]) -> None:
    for axis in range(len(titles)):
        panel.axvline(axis, color="#999999", lw=1.2, zorder=0)
    panel.set_xticks(range(len(titles)), [printable(title) for title in titles])
    for label in panel.get_xticklabels():
        label.set_parse_math(False)
    panel.set_yticks([])
    panel.grid(visible=False)
    panel.set_xlim(-0.15, len(titles) - 0.55)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)
