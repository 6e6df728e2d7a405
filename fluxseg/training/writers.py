"""Figures of a run as JSON lines, CSV, TensorBoard events and one line of text; its versions."""

import contextlib
import functools
import importlib.metadata
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.io.files import naming, write_text
from fluxseg.io.tables import write_csv

logger = logging.getLogger(__name__)

PACKAGES = ("fluxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
History = list[dict[str, Any]]  # one row for each epoch

SHORT = {"train": "Tr", "val": "V", "test": "Te"}
COLUMNS = (("loss", "L"), ("accuracy", "A"), ("macro_iou", "MacroIoU"), ("neuron_iou", "NeuronIoU"))


def format_epoch(row: Mapping[str, Any], epochs: int = 0) -> str:
    """Format the figures of an epoch, of so many `epochs`, in one line for people.

    Without `epochs`, and where the test split is scored at each epoch, as only the reference
    protocol does, it has the form of that protocol. Its "IoU" is spelled out: MacroIoU is the mean
    of background and neuron IoU.
    """
    if epochs and "test_loss" not in row:
        found = {name: row.get(f"{name}_neuron_iou") for name in ("train", "val")}
        shown = [f"{name} {value:.2f}" for name, value in found.items() if value is not None]
        loss = f"  loss {row['train_loss']:.2f}" if row.get("train_loss") is not None else ""
        iou = "  neuron IoU " + ", ".join(shown) if shown else ""
        return f"epoch {row['epoch']}/{epochs}{loss}{iou}"
    parts = []
    for split, short in SHORT.items():
        for name, letter in COLUMNS:
            value = row.get(f"{split}_{name}")
            if f"{split}_{name}" in row:
                parts.append(f"{short}{letter}={'n/a' if value is None else f'{value:.4f}'}")
    return f"Epoch {row['epoch']:2d}: " + ", ".join(parts)


def write_history(workdir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` and `metrics.csv` anew: a resumed run leaves no row twice or half."""
    lines = [json.dumps(row) for row in history]
    write_text(workdir / "metrics.jsonl", "".join(line + "\n" for line in lines))
    columns = list(dict.fromkeys(name for row in history for name in row))
    write_csv(workdir / "metrics.csv", columns, history)


class RunLog:
    """Figures of a run on the disk: the history, and TensorBoard events.

    In a job of several processes the first one `writes`; in the others all methods do nothing.
    Each start has a new file of events; those that an interrupted run wrote beyond the `step` are
    hidden. What cannot be written is a `WorkdirError`.
    """

    def __init__(
        self, workdir: Path, history: Sequence[Mapping[str, Any]], step: int, writes: bool
    ):
        self._workdir, self._folder = workdir, workdir / "tensorboard"
        self._step, self._writes = step, writes
        if writes:
            write_history(workdir, history)

    @functools.cached_property
    def _board(self) -> Any:
        # Imported only now that the device is at work: it imports PyTorch too where that is there.
        from tensorboardX import SummaryWriter

        with naming(self._folder, "cannot be written"):
            # The queue has no limit: after a failed write nothing would empty it.
            return SummaryWriter(str(self._folder), purge_step=self._step + 1, max_queue=0)

    def write_step(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures of one training step."""
        if self._writes:
            for name, value in values.items():
                self._board.add_scalar(f"step/{name}", value, step)

    def write_epoch(self, history: Sequence[Mapping[str, Any]], epochs: int) -> None:
        """Write the history; log and write the epoch that has just ended, of so many."""
        row = history[-1]
        logger.info(format_epoch(row, epochs))
        if not self._writes:
            return
        write_history(self._workdir, history)
        with naming(self._folder, "cannot be written"):
            for name, value in row.items():
                split, _, figure = name.partition("_")
                if split in SHORT and value is not None:
                    self._board.add_scalar(f"{figure}/{split}", value, row["step"])
            self._board.flush()

    def close(self) -> None:
        """Flush and close the files."""
        if "_board" in vars(self):
            with naming(self._folder, "cannot be written"):
                self._board.close()


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, the system, the devices."""
    import jax

    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    versions["System"] = platform.platform()
    versions["Devices"] = f"{len(devices)} × {kinds} ({devices[0].platform})"
    return versions
