"""How far a run has come: everything besides arrays that a checkpoint must hold."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fluxseg.config import TrainConfig
from fluxseg.errors import WorkdirError
from fluxseg.model.metrics import Totals


@dataclasses.dataclass(frozen=True)
class Progress:
    """Position of a run between two steps.

    Attributes:
        epoch: finished epochs, validation included.
        step: steps taken in all.
        step_in_epoch: steps taken in the current epoch.
        totals: sums over the steps of the current epoch.
        seconds: time spent in training and validation so far, over all sessions.
        history: one row for each finished epoch.
        best: epoch, step, monitor and value of the best checkpoint; None before the first.
        iterator: state of the Grain iterator.
        split_hash: content hash of the split that is trained on.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    totals: Totals = dataclasses.field(default_factory=Totals)
    seconds: float = 0.0
    history: tuple[dict[str, Any], ...] = ()
    best: dict[str, Any] | None = None
    iterator: Any = None
    split_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which the progress is restored exactly."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "totals": self.totals.to_json(), "history": list(self.history)}

    def finish_epoch(self, row: dict[str, Any], config: TrainConfig) -> "Progress":
        """Add an epoch's row, and note whether it is the best by the monitored figure.

        Without a validation split the newest epoch is the best one.
        """
        value = row.get(config.monitor)
        smaller_wins = config.monitor == "val_loss"
        best = self.best
        if value is None or math.isnan(value):
            better = config.monitor not in row or best is None
        elif best is None or best["value"] is None:
            better = True
        else:
            better = value < best["value"] if smaller_wins else value > best["value"]
        if better:
            best = describe_epoch(row, self.step, config)
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            step_in_epoch=0,
            totals=Totals(),
            history=(*self.history, row),
            best=best,
        )

    def is_finished(self, config: TrainConfig) -> bool:
        """Tell whether all epochs are done, or `patience` ran out."""
        if self.epoch >= config.epochs:
            return True
        since_best = self.epoch - (self.best["epoch"] if self.best else 0)
        return config.patience > 0 and self.epoch > 0 and since_best >= config.patience


def describe_epoch(row: Mapping[str, Any], step: int, config: TrainConfig) -> dict[str, Any]:
    """Say of an epoch what is kept of the best one.

    Args:
        row: its figures.
        step: steps taken at its end.
        config: the monitored figure.

    Returns:
        Its epoch, step, monitored figure and the value of that, None where there is none.
    """
    return {
        "epoch": row["epoch"],
        "step": step,
        "monitor": config.monitor if config.monitor in row else None,
        "value": row.get(config.monitor),
    }


def progress_from_json(values: dict[str, Any], name: str) -> Progress:
    """Restore what `Progress.to_json` gave.

    Raises:
        WorkdirError: if a field is missing.
    """
    try:
        fields = {f.name: values[f.name] for f in dataclasses.fields(Progress)}
        totals = Totals.from_json(fields.pop("totals"))
        history = tuple(fields.pop("history"))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{name}: the progress of the run is damaged: {error!r}") from error
    return Progress(totals=totals, history=history, **fields)
