"""The report of a run: one HTML page that holds everything and runs nothing.

Ids, metadata and reasons come from data files and are hostile text until shown otherwise: the
template escapes every value, and its content security policy forbids scripts and requests.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fluxseg.adapt.few_shot import PICTURED, PICTURES
from fluxseg.config import Config, config_to_dict
from fluxseg.inference.objects.counts import SCORE_SOURCES
from fluxseg.io.files import naming, read_json, write_text
from fluxseg.model.score_names import CALIBRATION_SCORES, OBJECT_DIALECTS, PIXEL_SCORES
from fluxseg.report import plots
from fluxseg.report.compare_plots import plot_before_after
from fluxseg.report.page import render_template, split_title
from fluxseg.report.workdir import (
    RunFiles,
    best_epoch,
    is_simulated,
    read_example,
    read_picture,
    read_run,
)
from fluxseg.training.writers import collect_versions

MONITORS = {
    "val_neuron_iou": "the best neuron IoU",
    "val_macro_iou": "the best macro IoU",
    "val_loss": "the lowest loss",
}
RELIABLE_GROUPS = 5  # with fewer groups a bootstrap over them says little
SUSPICIOUS_MACRO_IOU = 0.82  # Allen Brain Observatory masks against careful manual ones
LONG_TABLE = 30  # longer tables are folded
OWN_FIGURES = ("curves", "confusion-*", "recordings-*", "reliability-*", "example-*", "tuning-*")

Figures = Mapping[str, Sequence[Mapping[str, Any]]]
"""Figures under "curves", "scores", "reliability", "examples" and "tuning", each with `uri`,
`width`, `height`, `alt`."""


def write_report(workdir: str | Path) -> Path:
    """Write `report.html` and the folder `figures` of a run, or of an evaluation on other data.

    Scores, data summary and examples may be missing: the report then does without them.

    The versions are those that the run was trained with (`versions.json`), else of this process.

    Args:
        workdir: folder of the run.

    Returns:
        Path of the page. It needs no other file, no script and no network.

    Raises:
        WorkdirError: naming the file, if the folder holds no run, one of its files is damaged,
            or the page cannot be written.
    """
    run = read_run(Path(workdir).resolve())
    figures = write_figures(run)
    recorded = run.workdir / "versions.json"
    versions = read_json(recorded) if recorded.exists() else collect_versions()
    path = Path(workdir) / "report.html"
    write_text(path, render_page(run, figures, versions))
    return path


def write_figures(run: RunFiles) -> Figures:
    """Write every figure of a run as PNG to `figures`, in place of those of an earlier report.

    Of several splits the last one (test) is shown; examples have their row too. Raises
    `WorkdirError`, naming the file that is damaged or cannot be written.
    """
    folder = run.workdir / "figures"
    with naming(folder, "cannot be written"):
        for pattern in OWN_FIGURES:
            for old in folder.glob(f"{pattern}.png"):
                old.unlink()
    names = ("curves", "scores", "reliability", "examples", "tuning")
    figures: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}

    def add(kind: str, figure: Figure, name: str, alt: str, **row: Any) -> None:
        figures[kind].append(row | plots.embed_figure(figure, alt, folder / f"{name}.png"))

    # Of one epoch a curve is a point.
    if len(run.history) > 1:
        alt = "Loss, accuracy, macro IoU and neuron IoU over the epochs"
        add("curves", plots.plot_curves(run.history, best_epoch(run)), "curves", alt)
    for split in run.splits[-1:]:
        name, title = split["name"], split_title(split["name"])
        figure = plots.plot_confusion(split["confusion"], f"{title}: pixels")
        add("scores", figure, f"confusion-{name}", f"Confusion matrix, {title}")
        if split["recordings"]:
            alt = f"Distribution of the scores over recordings, {title}"
            add("scores", plots.plot_recordings(split["recordings"]), f"recordings-{name}", alt)
        if split["calibration"]:
            titles = {"before": "before", "after": "after the temperature"}
            curves = {t: split["calibration"][when]["curve"] for when, t in titles.items()}
            alt = f"Share of neuron pixels against their probability, {title}"
            add("reliability", plots.plot_reliability(curves), f"reliability-{name}", alt)
    for number, row in enumerate(run.examples):
        title = f"{split_title(row['split'])}, {row['rank']}: {row['id']}"
        figure = plots.plot_example(*read_example(row["path"]), title)
        alt = f"Image, mask, prediction and errors of {row['id']}"
        add("examples", figure, f"example-{number}", alt, **row)
    for number, field in enumerate((run.tuning or {}).get("fields", [])[:PICTURED]):
        arrays = read_picture(run.workdir / PICTURES, number)
        alt = f"What is found in {field[0]} before and after the tuning"
        add("tuning", plot_before_after(*arrays, titles=field), f"tuning-{number}", alt)
    return figures


def render_page(run: RunFiles, figures: Figures, versions: Mapping[str, str]) -> str:
    """Render the page of a run, with names and versions to show; the same for the same input."""
    return render_template(
        "template.html",
        run=run,
        main=run.splits[-1] if run.splits else None,
        simulated=is_simulated(run),
        figures=figures,
        settings=describe_settings(run.config),
        command=create_command(run.config) if run.config else "",
        versions=versions,
        score_names=PIXEL_SCORES,
        dialects=OBJECT_DIALECTS,
        sources=SCORE_SOURCES,
        calibration_names=CALIBRATION_SCORES,
        monitors=MONITORS,
        reliable_groups=RELIABLE_GROUPS,
        suspicious=SUSPICIOUS_MACRO_IOU,
        long_table=LONG_TABLE,
    )


def describe_settings(config: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List settings with their `name`, `value`, `default` and whether they are `changed`.

    Args:
        config: nested settings as in `config.json`; unknown ones have the default None.
    """
    defaults = config_to_dict(Config())
    settings = []
    for section, fields in config.items():
        for field, value in fields.items():
            default = defaults.get(section, {}).get(field)
            row = {"name": f"{section}.{field}", "value": value, "default": default}
            settings.append(row | {"changed": value != default})
    return settings


def create_command(config: Mapping[str, Mapping[str, Any]]) -> str:
    """Create the shell command that runs the main job with these settings, one option a line."""
    lines = ["python -m fluxseg.main --workdir NEW_FOLDER"]
    for row in describe_settings(config):
        value, option = row["value"], f"--config.{row['name']}"
        if row["changed"] and isinstance(value, bool):
            section, _, field = row["name"].partition(".")
            lines.append(shlex.quote(f"--config.{section}.{'' if value else 'no-'}{field}"))
        elif row["changed"]:
            values = value if isinstance(value, list) else [value]
            lines.append(shlex.join([option, *map(str, values)]))
    return " \\\n    ".join(lines)
