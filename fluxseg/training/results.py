"""What a training is told to tell, and what it returns."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from fluxseg.model.score_table import score_table
from fluxseg.training.dataset import Dataset
from fluxseg.training.state import TrainState
from fluxseg.training.writers import History


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Functions that are told how a run goes; each is optional.

    Attributes:
        on_prepare: called with (recordings prepared, recordings in all).
        on_step: called with (steps taken, steps in all); the step may still be computing.
        on_epoch: called with the row of an epoch that ended.
    """

    on_prepare: Callable[[int, int], None] | None = None
    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[dict[str, Any]], None] | None = None


class TrainResult(NamedTuple):
    """A trained network.

    Attributes:
        state: the best state on validation.
        history: one row of figures for each epoch.
        scores: content of `scores.json`.
        dataset: the prepared crops and their split.
    """

    state: TrainState
    history: History
    scores: dict[str, Any]
    dataset: Dataset

    def __repr__(self) -> str:
        """Return the table of scores: the arrays themselves would fill many screens."""
        return str(score_table(self.scores))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table of scores."""
        return score_table(self.scores)._repr_html_()
