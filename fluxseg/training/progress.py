"""How far a run has come, who is told of it, and what it gives in the end."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fluxseg.config import TrainConfig
from fluxseg.errors import WorkdirError
from fluxseg.io.progress import Progressed
from fluxseg.model.metrics import Totals
from fluxseg.model.score_table import score_table
from fluxseg.training.dataset import Dataset
from fluxseg.training.state import TrainState
from fluxseg.training.writers import History


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Functions that are told how a run goes; each is optional."""

    on_prepare: Progressed | None = None  # of recordings prepared
    on_step: Progressed | None = None  # of steps taken; the last may still be computing
    on_epoch: Callable[[dict[str, Any]], None] | None = None  # with the row of an epoch


class TrainResult(NamedTuple):
    """A trained network."""

    state: TrainState  # the best state on validation
    history: History  # one row of figures for each epoch
    scores: dict[str, Any]  # content of `scores.json`
    dataset: Dataset  # the prepared crops and their split
    model: Path | None = None  # path of the model file, after the whole job
    report: Path | None = None  # path of the report, after the whole job

    def __repr__(self) -> str:
        """Return the table of scores: the arrays themselves would fill many screens."""
        return str(score_table(self.scores))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table of scores."""
        return score_table(self.scores)._repr_html_()


@dataclasses.dataclass(frozen=True)
class Progress:
    """Position of a run between two steps: all besides arrays that a checkpoint must hold."""

    epoch: int = 0  # finished epochs, validation included
    step: int = 0  # steps taken in all
    step_in_epoch: int = 0  # steps taken in the current epoch
    totals: Totals = dataclasses.field(default_factory=Totals)  # sums over the current epoch
    seconds: float = 0.0  # time spent in training and validation so far, over all sessions
    history: tuple[dict[str, Any], ...] = ()  # one row for each finished epoch
    best: dict[str, Any] | None = None  # epoch, step, monitor and value of the best checkpoint
    iterator: Any = None  # state of the Grain iterator
    split_hash: str = ""  # content hash of the split that is trained on

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which the progress is restored exactly."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "totals": self.totals.to_json(), "history": list(self.history)}

    def finish_epoch(self, row: dict[str, Any], config: TrainConfig) -> "Progress":
        """Add an epoch's row, and note whether it is the best by the monitored figure.

        Without a validation split the newest epoch is the best one.
        """
        value, best = row.get(config.monitor), self.best
        if value is None or math.isnan(value):
            better = config.monitor not in row or best is None
        elif best is None or best["value"] is None:
            better = True
        else:
            smaller = value < best["value"]
            better = smaller if config.monitor == "val_loss" else value > best["value"]
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
    """Return epoch, step, monitored figure and its value, of an epoch that ended with a step."""
    return {
        "epoch": row["epoch"],
        "step": step,
        "monitor": config.monitor if config.monitor in row else None,
        "value": row.get(config.monitor),
    }


def progress_from_json(values: dict[str, Any], name: str) -> Progress:
    """Restore what `Progress.to_json` gave; `WorkdirError` if a field is missing."""
    try:
        fields = {f.name: values[f.name] for f in dataclasses.fields(Progress)}
        totals = Totals.from_json(fields.pop("totals"))
        history = tuple(fields.pop("history"))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{name}: the progress of the run is damaged: {error!r}") from error
    return Progress(totals=totals, history=history, **fields)
