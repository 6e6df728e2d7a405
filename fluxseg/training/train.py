"""Training, told from top to bottom: loader, network, epochs, the best epoch and its scores.

`train` is the whole story. Four more files tell what its calls do: `state.py` (the network, its
optimiser and what changes), `steps.py` (one step, as pure functions), `sharding.py` (the same
steps compiled for the devices at hand) and `checkpoints.py`. The other files of this folder are
details that the story does not need: progress, signals, locks, files of figures.
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from fluxseg.config import Config
from fluxseg.data.pipeline import CropSource, make_batches, steps_per_epoch
from fluxseg.errors import TrainingError
from fluxseg.io.files import write_json
from fluxseg.io.progress import Progressed
from fluxseg.model.metrics import Totals
from fluxseg.processes import is_first_process, run_in_all
from fluxseg.training import sharding
from fluxseg.training.checkpoints import Checkpoints
from fluxseg.training.dataset import Dataset, create_class_weights
from fluxseg.training.encoder_weights import start_encoder
from fluxseg.training.evaluation import SplitScores, epoch_figures, score_best, score_crops
from fluxseg.training.profiling import watch_steps
from fluxseg.training.progress import Callbacks, Progress, TrainResult
from fluxseg.training.resume import restore_best, resume_run, save_epoch, save_stopped
from fluxseg.training.state import TrainState, create_schedule, create_train_state
from fluxseg.training.stopping import StopFlag, catch_signals, interrupted
from fluxseg.training.writers import RunLog, collect_versions

logger = logging.getLogger(__name__)

LOG_EVERY = 20  # steps between two fetches of the metrics from the device


def train(
    config: Config,
    workdir: Path,
    dataset: Dataset,
    checkpoints: Checkpoints,
    callbacks: Callbacks | None = None,
    init: Any = None,
    *,
    profile: bool = False,
) -> TrainResult:
    """Train a network, or go on with it, and score its best epoch.

    After each epoch the validation split is scored; it alone chooses the best checkpoint and stops
    early. At the end the best checkpoint scores the test split, once.

    The workdir is claimed and has its `config.json`; the checkpoints are those in it. `init` are
    parameters of the network to start from, None for random ones. `profile` traces some steps of
    the first epoch into the folder `profile`. Returns the best state, the history, and the pixel
    scores, which `scores.json` then holds.

    Raises `WorkdirError` if the checkpoints are of other data or the disk cannot be written;
    `TrainingError` if the loss or its gradient is not finite; and `InterruptedRunError`, after a
    signal, when everything is saved.
    """
    settings, threads, callbacks = config.train, config.data.threads, callbacks or Callbacks()
    mesh = sharding.make_mesh()
    sharding.check_batch_size(settings.batch_size, mesh)

    # A Grain loader: image [B, H, W, 1] float32, label and valid [B, H, W] uint8, shuffled anew in
    # each epoch and augmented. In a job of several processes each reads its rows of every batch.
    crops = CropSource(dataset.index, dataset.epoch_crops(settings))
    steps = steps_per_epoch(len(crops), settings.batch_size)
    batches = make_batches(
        crops, settings.batch_size, augment=config.augment, seed=settings.seed, epochs=None,
        threads=threads, process=(jax.process_index(), jax.process_count()),
    )  # fmt: skip

    # A Flax U-Net [B, H, W, 1] -> logits [B, H, W, 2], the weighted cross-entropy, optax Adam.
    weights = create_class_weights(config, dataset)
    state = create_train_state(config, weights, settings.epochs * steps, init=init)
    if checkpoints.last.latest_step() is None:
        state = run_in_all(functools.partial(start_encoder, state, config), "reading the weights")
    logger.info("Weights of the classes: %s", ", ".join(f"{weight:.3g}" for weight in weights))
    logger.info("The model has %s parameters", f"{optax.tree.size(state.params):,}")

    # The steps, compiled for all devices: a replicated state, sharded batches.
    state = sharding.replicate(state, mesh)
    micro_batches = sharding.count_micro_batches(config, mesh)
    train_step = sharding.make_train_step(mesh, micro_batches)
    eval_step = sharding.make_eval_step(mesh)

    # A run that was interrupted goes on where it was saved, and ends with the same bits.
    state, progress = resume_run(state, batches, steps, checkpoints, dataset, workdir)
    if (first := is_first_process()) and not progress.is_finished(settings):
        write_json(workdir / "versions.json", collect_versions())

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(catch_signals())
        log = RunLog(workdir, progress.history, progress.step, writes=first)
        stack.callback(log.close)
        trace = workdir / "profile" if profile and first else None
        train_step = watch_steps(train_step, stack, trace, steps)

        def score(state: TrainState, split: str) -> SplitScores | None:
            # Same batch size as a micro-batch, so evaluation never needs more memory.
            return score_crops(
                eval_step, state, dataset.index, dataset.crops(split), mesh,
                settings.batch_size // micro_batches, threads=threads, stop=stop,
            )  # fmt: skip

        while not progress.is_finished(settings):
            began = time.monotonic()
            state, progress = _train_epoch(
                config, train_step, state, batches, progress, steps, log, callbacks.on_step, stop,
                checkpoints.last.latest_step(),
            )  # fmt: skip
            row = _score_epoch(config, state, dataset, progress, steps, score, stop)
            seconds = progress.seconds + time.monotonic() - began
            progress = dataclasses.replace(progress, iterator=batches.get_state(), seconds=seconds)
            if row is None:
                save_stopped(config, checkpoints, state, progress)
                raise interrupted(stop, progress.step, progress.epoch + 1)
            progress = progress.finish_epoch({**row, "seconds": round(seconds, 3)}, settings)
            save_epoch(config, checkpoints, state, progress)
            log.write_epoch(progress.history, settings.epochs)
            if callbacks.on_epoch:
                callbacks.on_epoch(progress.history[-1])

        # The best epoch on validation scores the test split, once. All epochs are saved by then.
        state, progress = restore_best(config, state, progress, checkpoints)
        scores = score_best(workdir, dataset, progress.best, functools.partial(score, state))
        if scores is None:
            raise interrupted(stop, progress.step, progress.epoch + 1)
    return TrainResult(sharding.gather(state), list(progress.history), scores, dataset)


def _train_epoch(
    config: Config,
    train_step: sharding.TrainStep,
    state: TrainState,
    batches: Iterator[Any],
    progress: Progress,
    steps: int,
    log: RunLog,
    on_step: Progressed | None,
    stop: StopFlag,
    saved: int | None,
) -> tuple[TrainState, Progress]:
    """Take the steps of an epoch that are left, or those before a signal comes."""
    totals, step, in_epoch = progress.totals, progress.step, progress.step_in_epoch
    pending: deque[tuple[int, Any]] = deque()

    def fetch(count: int) -> None:
        nonlocal totals
        for number, metrics in jax.device_get([pending.popleft() for _ in range(count)]):
            one = Totals.from_device(metrics.loss_sum, metrics.weight_sum, metrics.confusion)
            norm = float(metrics.grad_norm)
            if not np.isfinite([one.loss_sum, norm]).all():
                kept = f"The checkpoint of step {saved} is kept"
                kept = kept if saved else "There is no checkpoint yet"
                raise TrainingError(
                    f"step {number}: the loss ({one.loss_sum}) or its gradient ({norm}) is not "
                    f"finite. {kept}. Try a lower train.learning_rate or a train.clip_norm, in "
                    "another --workdir."
                )
            loss = one.loss_sum / max(one.weight_sum, 1e-30)
            log.write_step(number, {"loss": loss, "grad_norm": norm})
            totals = totals.merge(one)

    while in_epoch < steps and not stop():
        state, metrics = train_step(state, next(batches))
        step, in_epoch = step + 1, in_epoch + 1
        pending.append((step, metrics))
        if len(pending) >= 2 * LOG_EVERY:
            # The older half is long computed: fetching it does not hold up the device.
            fetch(LOG_EVERY)
        if on_step:
            on_step(step, config.train.epochs * steps)
    fetch(len(pending))
    return state, dataclasses.replace(progress, totals=totals, step=step, step_in_epoch=in_epoch)


def _score_epoch(
    config: Config,
    state: TrainState,
    dataset: Dataset,
    progress: Progress,
    steps: int,
    score: Callable[[TrainState, str], SplitScores | None],
    stop: StopFlag,
) -> dict[str, Any] | None:
    """Return the row of an epoch whose steps are taken; None if the run was asked to stop."""
    if stop():
        return None
    schedule = create_schedule(config.train, config.train.epochs * steps)
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "seconds": 0.0,
        "learning_rate": float(schedule(progress.step - 1)),
        **epoch_figures("train", progress.totals),
    }
    for split in ("val", "test") if config.train.score_test_each_epoch else ("val",):
        if dataset.crops(split):
            scores = score(state, split)
            if scores is None:
                return None
            row |= epoch_figures(split, scores.totals)
    return row
