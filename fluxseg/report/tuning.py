"""A fine-tuning in the report: scores before and after side by side, and pictures of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluxseg.data.recording import outline_masks
from fluxseg.errors import WorkdirError
from fluxseg.inference.field_scores import DETAILS
from fluxseg.io.arrays import read_arrays
from fluxseg.report.plots import DPI, STYLE, printable

LABELLED, FOUND, BOTH = "#30D158", "#FF453A", "#FFD60A"
"""Outlines of labels, of what was found, and where the two meet."""
PARTS = ("image", "label", "before", "after")
MAX_BYTES = 2**30
"""Bytes that the pictures may take in memory; a small packed file can declare any number."""


class _Origin(msgspec.Struct):
    name: str


class _FieldRow(msgspec.Struct):
    id: str
    scores: dict[str, float | None]


class _Part(msgspec.Struct):
    scores: dict[str, float | None]
    recordings: list[_FieldRow]


class TuningEntry(msgspec.Struct):
    """What the report shows of the entry `finetune` of `scores.json`."""

    origin: _Origin = msgspec.field(name="from")
    verdict: str
    better: bool | None
    remarks: list[str]
    before: _Part | None
    after: _Part | None

    def __post_init__(self) -> None:
        if self.before and self.after and len(self.before.recordings) != len(self.after.recordings):
            raise ValueError("before and after are of other numbers of recordings")


def summarize_tuning(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange for the page what a tuning changed; `entry` has the fields of `TuningEntry`."""
    parts = [entry["before"], entry["after"]]
    known = None not in parts
    pairs = zip(*(part["recordings"] for part in parts), strict=True) if known else ()
    return {
        "name": entry["from"]["name"],
        "verdict": entry["verdict"],
        "better": entry["better"] is not False,
        "remarks": entry["remarks"],
        "rows": [
            (title, *(part["scores"].get(name) for part in parts))
            for name, title in (DETAILS.items() if known else ())
        ],
        "fields": [
            (before["id"], *(row["scores"].get("object_f1") for row in (before, after)))
            for before, after in pairs
        ],
    }


Picture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def read_picture(path: Path, number: int) -> Picture:
    """Read image, label, before and after of a held-out field, each `[H, W]`.

    Args:
        path: of the pictures that `finetune` writes.
        number: of the field, from 0.

    Raises:
        WorkdirError: naming the file, if it is missing or damaged.
    """
    try:
        names = [f"{part}_{number}" for part in PARTS]
        image, label, before, after = read_arrays(path, names, MAX_BYTES)
        arrays = (image, label, before, after)
        if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 2:
            raise ValueError("it must hold arrays [H, W] of one size for each field")
    except Exception as error:  # a damaged archive raises whatever zipfile and zlib come upon
        raise WorkdirError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); "
            "run `fluxseg finetune` again in a new folder"
        ) from error
    return arrays


def plot_before_after(
    image: np.ndarray,
    label: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    titles: tuple[str, float | None, float | None] = ("", None, None),
) -> Figure:
    """Plot what is found in a field before and after a fine-tuning, over the image.

    Args:
        image: `[H, W]` float, normalised so that most pixels lie in 0 to 1.
        label: `[H, W]` int, the true neurons, 0 is background.
        before: `[H, W]` int, the neurons that were found before.
        after: `[H, W]` int, those found after it.
        titles: name of the field, and the F1 of its neurons before and after.

    Returns:
        A figure with two panels.
    """
    with matplotlib.rc_context(STYLE):
        height = 6.2 * min(max(image.shape[0] / image.shape[1], 0.3), 3)
        figure = Figure(figsize=(12, height + 0.8), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        shown = (("Before", before, titles[1]), ("After", after, titles[2]))
        for panel, (title, found, f1) in zip(figure.subplots(1, 2), shown, strict=True):
            panel.imshow(draw_found(image, label, found), interpolation="nearest")
            score = "" if f1 is None else f", F1 {f1:.3f}"
            panel.set_title(f"{title}: {len(np.unique(found[found > 0]))} neurons{score}")
            panel.set_axis_off()
        lines = [
            Line2D([], [], color=color, lw=3, label=text)
            for color, text in ((LABELLED, "Label"), (FOUND, "Found"), (BOTH, "Both"))
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=3)
        figure.suptitle(printable(titles[0]), x=0.01, ha="left", weight="bold", parse_math=False)
    return figure


def draw_found(image: np.ndarray, label: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Draw outlines over an image: labels green, what was found red, where they meet yellow.

    Args:
        image: `[H, W]` float, normalised.
        label: `[H, W]` int, the true neurons.
        found: `[H, W]` int, the neurons that were found.

    Returns:
        `[H, W, 3]` float, 0 to 1.
    """
    gray = np.clip(np.nan_to_num(image), 0, 1)
    picture = np.repeat(gray[..., None], 3, axis=-1)
    true, seen = (outline_masks(_masks(labels)) for labels in (label, found))
    for where, color in ((true, LABELLED), (seen, FOUND), (true & seen, BOTH)):
        picture[where] = to_rgb(color)
    return picture


def _masks(labels: np.ndarray) -> np.ndarray:
    return np.array([labels == number for number in np.unique(labels[labels > 0])]).reshape(
        -1, *labels.shape
    )
