"""The results of a sweep: table and page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.io.files import read_json, write_json
from fluxseg.io.tables import write_csv
from fluxseg.report.page import write_page
from fluxseg.report.workdir import read_history
from fluxseg.training.sweep import Member, run_folder

SHOWN = ("neuron_iou", "macro_iou", "object_f1")  # scores that the tables have of each split


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a sweep."""

    name: str  # name of its folder
    settings: Mapping[str, Any]  # what is varied, by dotted name
    monitored: float | None = None  # validation figure of the best checkpoint, if any
    epoch: int | None = None  # of the best checkpoint
    # Scores on validation.
    val: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    # Scores on test; they choose nothing.
    test: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float | None = None  # of training and validation
    failure: str = ""  # why it has failed; empty if it has not


@dataclasses.dataclass(frozen=True)
class Table:
    """The results of a sweep."""

    monitor: str  # figure by which the rows are sorted
    settings: tuple[str, ...]  # dotted names of what is varied
    rows: tuple[Row, ...]  # the runs, the best first, those without a figure last


def collect_table(
    members: Sequence[Member], folder: Path, failures: Mapping[str, str] | None = None
) -> Table:
    """Read the scores of the runs in the folder of a sweep; `failures` is name -> why one failed.

    Raises `WorkdirError`, naming the file, if one is damaged.
    """
    failures = failures or {}
    monitor = members[0].config.train.monitor
    rows = [_read_row(member, folder, failures.get(member.name, "")) for member in members]
    sign = 1 if monitor == "val_loss" else -1

    def rank(row: Row) -> tuple[bool, float, str]:
        return row.monitored is None, sign * (row.monitored or 0.0), row.name

    return Table(monitor, tuple(members[0].settings), tuple(sorted(rows, key=rank)))


def _read_row(member: Member, folder: Path, failure: str) -> Row:
    workdir = run_folder(folder, member)
    path = workdir / "scores.json"
    if failure or not path.exists():
        return Row(member.name, member.settings, failure=failure)
    scores = read_json(path)
    history = read_history(workdir / "metrics.jsonl")
    epoch = (scores.get("checkpoint") or {}).get("epoch")
    # Runs that were chosen by another figure are still compared by one.
    found = [row.get(member.config.train.monitor) for row in history if row["epoch"] == epoch]
    return Row(
        member.name,
        member.settings,
        found[0] if found else None,
        epoch,
        _scores(scores["splits"].get("val")),
        _scores(scores["splits"].get("test")),
        history[-1].get("seconds") if history else None,
    )


def _scores(split: Mapping[str, Any] | None) -> dict[str, float | None]:
    if split is None:
        return {}
    values = {**split["scores"], **split.get("objects", {}).get("scores", {})}
    return {name: values.get(name) for name in SHOWN}


def write_table(table: Table, folder: Path) -> Path:
    """Write `sweep.csv`, `sweep.json` and `sweep.html`, a page that needs nothing else.

    Raises `WorkdirError` if they cannot be written.
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
    return write_page(folder / "sweep.html", "sweep.html", table=table, shown=SHOWN)
