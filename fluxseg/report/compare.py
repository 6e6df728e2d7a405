"""Runs beside each other: one HTML page, as the report of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError
from fluxseg.io.files import read_json, write_text
from fluxseg.model.paired import paired_difference
from fluxseg.model.score_names import CALIBRATION_SCORES, OBJECT_SCORES, PIXEL_SCORES, TITLES
from fluxseg.report.compare_plots import plot_differences, plot_overlaid_curves, plot_side_by_side
from fluxseg.report.html import RELIABLE_GROUPS, describe_settings
from fluxseg.report.page import render_template
from fluxseg.report.plots import embed_figure, plot_reliability
from fluxseg.report.workdir import RunFiles, read_example, read_run

ORDER = ("test", "external", "val")  # splits in the order of what they are worth
SHOWN = (
    ("Pixels", tuple(s for s in PIXEL_SCORES if s.name not in ("background_iou", "accuracy"))),
    (
        "Single neurons",
        tuple(
            score
            for score in OBJECT_SCORES
            if score.name.startswith("object_")
            or score.name in ("ap_image_50", "ap_mean", "panoptic_quality", "neurofinder_combined")
        ),
    ),
    (
        "Reliability, after the temperature (lower is better)",
        tuple(score for score in CALIBRATION_SCORES if score.name != "mce"),
    ),
)
"""Title of a group of scores, and of each its name in the files, title and meaning."""
PAIRED = {
    name: TITLES[name]
    for name in ("neuron_iou", "macro_iou", "object_f1", "object_precision", "object_recall")
}
"""Scores whose differences are shown."""
OBJECTS = {score.name for score in OBJECT_SCORES}
CALIBRATED = {score.name for score in CALIBRATION_SCORES}
EXAMPLES = 3


def write_comparison(workdirs: Sequence[str | Path], output: str | Path) -> Path:
    """Write a page that compares runs, or evaluations on other data, with the first of them.

    The page needs no other file, no script and no network. Raises `ConfigError` if there are fewer
    than two folders, or one is named twice; and `WorkdirError`, naming the file, if a folder holds
    no run or one of its files is damaged.
    """
    folders = [Path(workdir).resolve() for workdir in workdirs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ConfigError("a comparison needs two or more different folders of runs")
    runs = dict(zip(name_runs(folders), map(read_run, folders), strict=True))
    splits = compare_splits(runs)
    write_text(output, render_comparison(runs, splits, draw_figures(runs, splits)))
    return Path(output)


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Name folders by as many of their last parts as tell them apart."""
    for count in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def compare_settings(runs: Mapping[str, RunFiles]) -> list[dict[str, Any]]:
    """List the settings and versions that differ: `name`, and `values` of each run or None."""
    tables = []
    for run in runs.values():
        path = run.workdir / "versions.json"
        values = {row["name"]: row["value"] for row in describe_settings(run.config)}
        tables.append(values | (dict(read_json(path)) if path.exists() else {}))
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [{"name": name, "values": [table.get(name) for table in tables]} for name in names]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _tabulate(splits: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Arrange the scores of one split of each run in the groups of `SHOWN` that a run has."""
    groups = []
    for title, scores in SHOWN:
        rows = []
        for key, name, meaning in scores:
            cells = [_cell(split, key) for split in splits]
            known = [cell["value"] for cell in cells if cell["value"] is not None]
            best = None
            if len(set(known)) > 1:
                best = min(known) if key in CALIBRATED else max(known)
            marked = [cell | {"best": cell["value"] == best is not None} for cell in cells]
            if known:
                rows.append({"key": key, "title": name, "meaning": meaning, "cells": marked})
        if rows:
            groups.append({"title": title, "rows": rows})
    return groups


def _cell(split: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    part: Mapping[str, Any] | None = split
    if split and key in OBJECTS:
        part = split["objects"]
    elif split and key in CALIBRATED:
        part = split["calibration"] and split["calibration"]["after"]
    if not part:
        return {"value": None, "interval": None}
    return {"value": part["scores"].get(key), "interval": part["intervals"].get(key)}


def compare_recordings(
    first: Mapping[str, Any], second: Mapping[str, Any], seed: int = 0
) -> dict[str, Any]:
    """Compare two runs on the recordings that both have scored in a split.

    A recording is the same if its name, its group and the pixel counts of its mask agree. `first`
    and `second` are what `read_run` says of the split. Returns `common`, `n_first` and `n_second`
    recordings, and `scores`, score -> what `paired_difference` returned; empty without a common
    recording.
    """
    ours, theirs = map(_rows, (first, second))
    groups = {
        key: row["group"]
        for key, row in ours.items()
        if key in theirs and all(row[name] == theirs[key][name] for name in ("group", "truth"))
    }
    scores = {}
    for name in PAIRED if groups else ():
        before, after = (
            {key: rows[key]["scores"].get(name) for key in groups} for rows in (ours, theirs)
        )
        found = paired_difference(before, after, groups, np.random.default_rng(seed))
        if found["n_recordings"]:
            scores[name] = found
    counts = {"common": len(groups), "n_first": len(ours), "n_second": len(theirs)}
    return {**counts, "scores": scores}


def _rows(split: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the recordings of a split by key, the scores of their neurons among the others."""
    objects = split["objects"]["recordings"] if split["objects"] else {}
    return {
        row["key"]: {**row, "scores": row["scores"] | objects.get(row["key"], {})}
        for row in split["recordings"]
    }


def compare_splits(runs: Mapping[str, RunFiles]) -> list[dict[str, Any]]:
    """Compare every split that a run has scored, the most telling first.

    Returns of each split `name`, `sizes` (recordings and groups of each run, or None), `groups`
    of scores, and `pairs`, run -> what `compare_recordings` returned.
    """
    known = {name: {split["name"]: split for split in run.splits} for name, run in runs.items()}
    found = dict.fromkeys(split for splits in known.values() for split in splits)
    order = sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else -1)
    first, *others = runs
    result = []
    for name in order:
        splits = [known[run].get(name) for run in runs]
        pairs = {
            other: compare_recordings(known[first][name], known[other][name])
            for other in others
            if name in known[first] and name in known[other]
        }
        sizes = [split and (split["n_recordings"], split["n_groups"]) for split in splits]
        result.append({"name": name, "sizes": sizes, "groups": _tabulate(splits), "pairs": pairs})
    return result


def draw_figures(
    runs: Mapping[str, RunFiles], splits: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Draw all figures: "curves", "reliability", "differences" and "examples", some empty."""
    figures: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("curves", "reliability", "differences", "examples")
    }
    histories = {name: run.history for name, run in runs.items() if run.history}
    if histories:
        alt = "Loss and neuron IoU of all runs over the epochs"
        figures["curves"].append(embed_figure(plot_overlaid_curves(histories), alt))
    for split in splits[:1]:
        curves = {
            name: row["calibration"]["after"]["curve"]
            for name, run in runs.items()
            for row in run.splits
            if row["name"] == split["name"] and row["calibration"]
        }
        if curves:
            alt = "Share of neuron pixels against their probability, all runs"
            figures["reliability"].append(embed_figure(plot_reliability(curves), alt))
        found = {
            name: pair["scores"]["neuron_iou"]
            for name, pair in split["pairs"].items()
            if "neuron_iou" in pair["scores"]
        }
        if found:
            figure = plot_differences(found, next(iter(runs)), "Neuron IoU")
            alt = "Differences of the neuron IoU of each recording"
            figures["differences"].append(embed_figure(figure, alt))
    for key, rows in choose_common_examples(runs):
        arrays = {name: read_example(row["path"]) for name, row in rows.items()}
        if len({array[0].shape for array in arrays.values()}) > 1:
            continue
        scores = {name: row["neuron_iou"] for name, row in rows.items()}
        shown = embed_figure(plot_side_by_side(arrays, scores), f"Errors of all runs on {key}")
        row = next(iter(rows.values()))
        figures["examples"].append(
            shown | {"id": row["id"], "split": row["split"], "names": list(rows)}
        )
    return figures


def choose_common_examples(
    runs: Mapping[str, RunFiles],
) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Choose recordings that are among the examples of most runs: (key, run -> its row).

    At most `EXAMPLES`; of those that only one run has, the first of each run.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, run in runs.items():
        for row in run.examples:
            found.setdefault(row["key"], {})[name] = row
    shared = [(key, rows) for key, rows in found.items() if len(rows) > 1]
    if shared:
        return sorted(shared, key=lambda item: -len(item[1]))[:EXAMPLES]
    firsts = {next(iter(rows)): (key, rows) for key, rows in reversed(found.items())}
    return [firsts[name] for name in runs if name in firsts][:EXAMPLES]


def render_comparison(
    runs: Mapping[str, RunFiles],
    splits: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Render the page of what `compare_splits` and `draw_figures` gave."""
    return render_template(
        "compare.html",
        names=list(runs),
        runs=runs,
        settings=compare_settings(runs),
        splits=splits,
        figures=figures,
        titles=PAIRED,
        calibrated=CALIBRATED,
        reliable_groups=RELIABLE_GROUPS,
    )
