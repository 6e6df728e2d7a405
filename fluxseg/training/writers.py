"""Metrics of a run as JSON lines, CSV, TensorBoard events and one line of text."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.files import write_text

History = list[dict[str, Any]]
"""One row for each epoch."""

SHORT = {"train": "Tr", "val": "V", "test": "Te"}
COLUMNS = (
    ("loss", "L"),
    ("accuracy", "A"),
    ("macro_iou", "MacroIoU"),
    ("neuron_iou", "NeuronIoU"),
)


def format_epoch(row: Mapping[str, Any]) -> str:
    """Format the figures of an epoch in one line, in the form of the reference protocol.

    Its "IoU" is spelled out here: MacroIoU is the mean of background and neuron IoU, and
    NeuronIoU stands beside it.
    """
    parts = []
    for split, short in SHORT.items():
        for name, letter in COLUMNS:
            value = row.get(f"{split}_{name}")
            if f"{split}_{name}" in row:
                parts.append(f"{short}{letter}={'n/a' if value is None else f'{value:.4f}'}")
    return f"Epoch {row['epoch']:2d}: " + ", ".join(parts)


def write_history(workdir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` and `metrics.csv` with one row an epoch, whole or not at all.

    The files are written anew each time: a row costs microseconds against the minutes of an
    epoch, and a resumed run can then never leave a row twice or half.
    """
    lines = [json.dumps(row) for row in history]
    write_text(workdir / "metrics.jsonl", "".join(line + "\n" for line in lines))
    columns = list(dict.fromkeys(name for row in history for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(workdir / "metrics.csv", buffer.getvalue())


class TensorBoard:
    """TensorBoard event files of a run.

    Args:
        workdir: events go to its folder `tensorboard`.
        step: steps already taken; what an interrupted run wrote beyond it is hidden.
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write_step(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures of one training step."""
        for name, value in values.items():
            self._writer.add_scalar(f"step/{name}", value, step)

    def write_epoch(self, row: Mapping[str, Any]) -> None:
        """Write the figures of an epoch, by split."""
        for name, value in row.items():
            split, _, figure = name.partition("_")
            if split in SHORT and value is not None:
                self._writer.add_scalar(f"{figure}/{split}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()
