"""Metrics of a run as JSON lines, CSV, TensorBoard events and one line of text."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.errors import WorkdirError
from fluxseg.io.files import write_text
from fluxseg.io.tables import write_csv

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
    write_csv(workdir / "metrics.csv", columns, history)


class TensorBoard:
    """TensorBoard event files of a run, written by the calling thread.

    Args:
        workdir: events go to its folder `tensorboard`, a new file for each start of the run.
        step: steps already taken; what an interrupted run wrote beyond it is hidden.

    Raises:
        WorkdirError: if the file cannot be written; so do the methods.
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        # TensorBoard knows its files by the beginning of their names, and reads them in order.
        name = f"events.out.tfevents.{time.time_ns():019d}.{os.getpid()}"
        self._path = workdir / "tensorboard" / name
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter(str(self._path))
        for fields in (
            {"file_version": "brain.Event:2"},
            {"session_log": SessionLog(status=SessionLog.START)},
        ):
            self._write(step + 1, **fields)

    def write_step(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures of one training step."""
        for name, value in values.items():
            self._write(step, summary=self._scalar(f"step/{name}", value))

    def write_epoch(self, row: Mapping[str, Any]) -> None:
        """Write the figures of an epoch, by split."""
        for name, value in row.items():
            split, _, figure = name.partition("_")
            if split in SHORT and value is not None:
                self._write(row["step"], summary=self._scalar(f"{figure}/{split}", value))
        with self._writing():
            self._file.flush()

    def close(self) -> None:
        """Flush and close the files."""
        with self._writing():
            self._file.close()

    def _write(self, step: int, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **fields)
        with self._writing():
            self._file.write(event.SerializeToString())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is still to be flushed would fail once more when the process ends.
            with contextlib.suppress(OSError, AttributeError):
                self._file.close()
            raise WorkdirError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from error
