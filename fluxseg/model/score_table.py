"""The scores of a run as a table, for terminals and notebooks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fluxseg.io.markup import render_table
from fluxseg.model.score_names import SPLIT_TITLES, TITLES

SHOWN = ("macro_iou", "neuron_iou", "precision", "recall", "dice")
"""Scores of pixels that the table has."""
SHOWN_OBJECTS = ("object_f1", "object_precision", "object_recall")
"""Scores of single neurons."""


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of each split with their intervals."""

    header: tuple[str, ...]  # titles of the columns: what, and the splits
    rows: tuple[tuple[str, ...], ...]  # texts, one row for each score

    def __str__(self) -> str:
        """Return the table as text, in columns."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(texts)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return render_table(self.rows, self.header)


def score_table(scores: Mapping[str, Any]) -> ScoreTable:
    """Make a table of the scores of a run.

    Args:
        scores: content of `scores.json`, which `train_and_evaluate` returns as `scores`.

    Returns:
        The table; scores that are undefined or were not computed are a dash.
    """
    splits: Mapping[str, Any] = scores["splits"]
    header = ("", *(SPLIT_TITLES.get(name, name) for name in splits))
    rows = [(TITLES[name], *(_text(split, name) for split in splits.values())) for name in SHOWN]
    if any("objects" in split for split in splits.values()):
        rows += [
            (TITLES[name], *(_text(split.get("objects", {}), name) for split in splits.values()))
            for name in SHOWN_OBJECTS
        ]
    rows.append(("recordings", *(str(split["n_recordings"]) for split in splits.values())))
    rows.append(("groups", *(str(split["n_groups"]) for split in splits.values())))
    return ScoreTable(header, tuple(rows))


def _text(split: Mapping[str, Any], name: str) -> str:
    value = split.get("scores", {}).get(name)
    interval: Sequence[float] | None = split.get("intervals", {}).get(name)
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text
