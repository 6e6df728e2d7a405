"""Epochs of a run: train, validate, record, save, and stop where asked to."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fluxseg.config import Config, config_to_dict
from fluxseg.data.pipeline import CropSource, make_batches, steps_per_epoch
from fluxseg.errors import InterruptedRunError, TrainingError
from fluxseg.model.metrics import Totals, plain_scores
from fluxseg.training.checkpoints import Checkpoints, save_checkpoint
from fluxseg.training.dataset import Dataset
from fluxseg.training.evaluation import SplitScores, score_crops
from fluxseg.training.progress import Progress
from fluxseg.training.sharding import count_parts
from fluxseg.training.state import TrainState, create_schedule
from fluxseg.training.steps import StepMetrics
from fluxseg.training.stopping import StopFlag
from fluxseg.training.writers import TensorBoard, format_epoch, write_history

logger = logging.getLogger(__name__)

REPORTED = ("accuracy", "macro_iou", "neuron_iou")
"""Scores that each epoch's row holds for each split, besides the loss."""


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


@dataclasses.dataclass(frozen=True)
class Run:
    """All that stays the same while a run goes on.

    Attributes:
        config: settings of the run.
        workdir: its folder.
        dataset: crops and split.
        mesh: the devices.
        train_source: the training crops.
        checkpoints: where states are saved.
        tensorboard: where figures are shown; None in all processes but the first, which writes.
        callbacks: who is told.
        stop: set when the process is asked to stop.
        train_step: from `make_train_step`.
        eval_step: from `make_eval_step`.
    """

    config: Config
    workdir: Path
    dataset: Dataset
    mesh: Mesh
    train_source: CropSource
    checkpoints: Checkpoints
    tensorboard: TensorBoard | None
    callbacks: Callbacks
    stop: StopFlag
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every training crop is seen once."""
        return steps_per_epoch(len(self.train_source), self.config.train.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch


def train_epochs(run: Run, state: TrainState, progress: Progress) -> tuple[TrainState, Progress]:
    """Train until the last epoch, or until `patience` runs out.

    Args:
        run: the run.
        state: state to start from; it is consumed.
        progress: how far it has come.

    Returns:
        The last state and the final progress; both are saved.

    Raises:
        TrainingError: if the loss or its gradient is not finite.
        InterruptedRunError: if `run.stop` was set; everything is saved.
    """
    config = run.config.train
    if run.tensorboard:
        write_history(run.workdir, progress.history)
    batches = make_batches(
        run.train_source,
        config.batch_size,
        augment=run.config.augment,
        seed=config.seed,
        epochs=None,
        threads=run.config.data.threads,
        process=(jax.process_index(), jax.process_count()),
    )
    if progress.iterator is not None:
        batches.set_state(progress.iterator)
    while not progress.is_finished(config):
        began = time.monotonic()
        state, progress = _train_epoch(run, state, progress, batches)
        progress = close_epoch(run, state, progress, batches.get_state(), began)
    return state, progress


def close_epoch(
    run: Run, state: TrainState, progress: Progress, iterator: Any, began: float
) -> Progress:
    """Score the validation split behind the steps of an epoch, record and save.

    Args:
        run: the run.
        state: behind the last step.
        progress: likewise.
        iterator: position in the training crops.
        began: when the epoch did, by `time.monotonic`.

    Returns:
        The progress with the epoch finished.

    Raises:
        InterruptedRunError: if `run.stop` was set; everything is saved.
    """
    row = None if run.stop() else _score_epoch(run, state, progress)
    seconds = progress.seconds + time.monotonic() - began
    progress = dataclasses.replace(progress, iterator=iterator, seconds=seconds)
    if row is None:
        save_checkpoint(run.checkpoints.last, state, _values_to_save(run, progress))
        run.checkpoints.wait()
        raise interrupted(run, progress)
    row["seconds"] = round(seconds, 3)
    progress = progress.finish_epoch(row, run.config.train)
    _save_epoch(run, state, progress)
    if run.tensorboard:
        write_history(run.workdir, progress.history)
        run.tensorboard.write_epoch(row)
    logger.info(format_epoch(row))
    if run.callbacks.on_epoch:
        run.callbacks.on_epoch(row)
    return progress


def _train_epoch(
    run: Run, state: TrainState, progress: Progress, batches: Any
) -> tuple[TrainState, Progress]:
    config = run.config.train
    totals, step, step_in_epoch = progress.totals, progress.step, progress.step_in_epoch
    pending: deque[tuple[int, Any]] = deque()
    while step_in_epoch < run.steps_per_epoch and not run.stop():
        state, metrics = run.train_step(state, next(batches))
        step, step_in_epoch = step + 1, step_in_epoch + 1
        pending.append((step, metrics))
        if len(pending) >= 2 * config.log_every:
            # The older half is long computed: fetching it does not hold up the device.
            totals = _fetch(run, pending, config.log_every, totals)
        if run.callbacks.on_step:
            run.callbacks.on_step(step, run.total_steps)
    totals = _fetch(run, pending, len(pending), totals)
    return state, dataclasses.replace(
        progress, totals=totals, step=step, step_in_epoch=step_in_epoch
    )


def _fetch(run: Run, pending: deque[tuple[int, Any]], count: int, totals: Totals) -> Totals:
    for step, metrics in jax.device_get([pending.popleft() for _ in range(count)]):
        totals = record_step(run, step, metrics, totals)
    return totals


def record_step(run: Run, step: int, metrics: StepMetrics, totals: Totals) -> Totals:
    """Check and write the figures of a step, and add them to the sums of its epoch.

    Args:
        run: the run.
        step: number of the step.
        metrics: what it gave, on the host.
        totals: sums of the epoch so far.

    Raises:
        TrainingError: if the loss or its gradient is not finite.
    """
    if not (np.isfinite(metrics.loss_sum) and np.isfinite(metrics.grad_norm)):
        _fail_not_finite(run, step, metrics)
    loss = float(metrics.loss_sum) / max(float(metrics.weight_sum), 1e-30)
    if run.tensorboard:
        values = {"loss": loss, "grad_norm": float(metrics.grad_norm)}
        run.tensorboard.write_step(step, values)
    return totals.merge(Totals.from_device(metrics.loss_sum, metrics.weight_sum, metrics.confusion))


def _fail_not_finite(run: Run, step: int, metrics: Any) -> None:
    kept = run.checkpoints.last.latest_step()
    raise TrainingError(
        f"step {step}: the loss ({float(metrics.loss_sum)}) or its gradient "
        f"({float(metrics.grad_norm)}) is not finite. "
        + (f"The checkpoint of step {kept} is kept. " if kept else "There is no checkpoint yet. ")
        + "Try a lower train.learning_rate or a train.clip_norm, in another --workdir."
    )


def _score_epoch(run: Run, state: TrainState, progress: Progress) -> dict[str, Any] | None:
    config = run.config.train
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "seconds": 0.0,
        "learning_rate": float(create_schedule(config, run.total_steps)(progress.step - 1)),
    }
    row |= _figures("train", progress.totals)
    for split in ("val", "test") if config.score_test_each_epoch else ("val",):
        if not run.dataset.crops(split):
            continue
        scores = score_split(run, state, split)
        if scores is None:
            return None
        row |= _figures(split, scores.totals)
    return row


def score_split(run: Run, state: TrainState, split: str) -> SplitScores | None:
    """Score a split of the run; None if the run was asked to stop meanwhile."""
    crops = run.dataset.crops(split)
    return score_crops(
        run.eval_step,
        state,
        CropSource(run.dataset.index, crops),
        crops,
        run.mesh,
        # So many as one part of a training step has: it never needs more memory than that.
        batch_size=run.config.train.batch_size // count_parts(run.config, run.mesh),
        threads=run.config.data.threads,
        stop=run.stop,
    )


def _figures(split: str, totals: Totals) -> dict[str, float | None]:
    scores = totals.scores()
    figures = {"loss": totals.mean_loss, **{name: scores[name] for name in REPORTED}}
    return {f"{split}_{name}": value for name, value in plain_scores(figures).items()}


def _values_to_save(run: Run, progress: Progress) -> dict[str, Any]:
    return {**progress.to_json(), "config": config_to_dict(run.config)}


def _save_epoch(run: Run, state: TrainState, progress: Progress) -> None:
    config = run.config.train
    values = _values_to_save(run, progress)
    improved = progress.best is not None and progress.best["step"] == progress.step
    if improved:
        # The best state is on the disk before a "last" one speaks of it.
        save_checkpoint(run.checkpoints.best, state, values)
        run.checkpoints.best.wait_until_finished()
    if improved or progress.epoch % config.checkpoint_every == 0 or progress.is_finished(config):
        save_checkpoint(run.checkpoints.last, state, values)


def interrupted(run: Run, progress: Progress) -> InterruptedRunError:
    """Create the error that says where a run stopped and how to go on."""
    return InterruptedRunError(
        run.stop.signal_number,
        f"Stopped and saved at step {progress.step} (epoch {progress.epoch + 1}). "
        "Run the same command again to go on.",
    )
