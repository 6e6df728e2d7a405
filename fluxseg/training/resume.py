"""A run that was interrupted goes on: what is saved with its state, and read back."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fluxseg.config import Config, config_from_dict, config_to_dict, resume_difference
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.io.files import read_json, write_json
from fluxseg.processes import run_in_all, run_in_first
from fluxseg.training.checkpoints import (
    Checkpoints,
    open_checkpoints,
    restore_checkpoint,
    restore_newest,
    save_checkpoint,
)
from fluxseg.training.dataset import Dataset
from fluxseg.training.encoder_weights import check_encoder_start
from fluxseg.training.lock import check_shared, claim_workdir
from fluxseg.training.progress import Progress, describe_epoch, progress_from_json
from fluxseg.training.state import TrainState

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_run(config: Config, workdir: Path, *, init: bool = False) -> Iterator[Checkpoints]:
    """Claim a workdir for a run, or for going on with it, while the block runs.

    In a job of several processes each calls this; all must see the workdir. Its `config.json` then
    holds the settings. `init`: whether the parameters to start from are given. Raises
    `WorkdirError` if the workdir holds a run with other settings, is in use by another one, or
    cannot be written; and `ConfigError` as `check_encoder_start` does.
    """
    with contextlib.ExitStack() as stack:
        run_in_first(lambda: stack.enter_context(claim_workdir(workdir)), "claiming the workdir")
        run_in_all(lambda: check_shared(workdir), "finding the workdir")
        checkpoints = run_in_all(
            lambda: open_checkpoints(workdir, tidy=True), "opening the checkpoints"
        )
        stack.callback(checkpoints.close)
        if checkpoints.last.latest_step() is None:
            run_in_all(lambda: check_encoder_start(config, init), "checking train.start")
        run_in_first(lambda: _record_settings(config, workdir, checkpoints), "writing config.json")
        yield checkpoints


def _record_settings(config: Config, workdir: Path, checkpoints: Checkpoints) -> None:
    path = workdir / "config.json"
    if checkpoints.last.latest_step() is not None and path.exists():
        saved = config_from_dict(read_json(path))
        differences = resume_difference(saved, config)
        if differences:
            raise WorkdirError(
                f"{workdir} holds a run with other settings, which cannot be resumed with these; "
                "use another --workdir, or the settings of that run (before -> now):\n  "
                + "\n  ".join(differences)
            )
    write_json(path, config_to_dict(config))


def resume_run(
    state: TrainState,
    batches: Any,
    steps: int,
    checkpoints: Checkpoints,
    dataset: Dataset,
    workdir: Path,
) -> tuple[TrainState, Progress]:
    """Restore the newest state of a run into a new one, and how far it has come.

    The loader, `batches`, is put to where the run was; `steps` are those of an epoch. Raises
    `WorkdirError` if the checkpoints cannot be read, or are of other data or other epochs.
    """
    split_hash = dataset.manifest.content_hash
    found = restore_newest(checkpoints.last, state)
    if found is None:
        return state, Progress(split_hash=split_hash)
    state, values = found
    progress = progress_from_json(values, str(checkpoints.last.directory))
    if progress.split_hash != split_hash:
        raise WorkdirError(
            f"{workdir}: the recordings or their split have changed since this run began, so it "
            "cannot be resumed; use another --workdir"
        )
    if progress.step != progress.epoch * steps + progress.step_in_epoch:
        raise WorkdirError(
            f"{workdir}: an epoch of this run had another number of steps than {steps}; change "
            "train.steps and train.epochs in the same proportion, or use another --workdir"
        )
    if progress.iterator is not None:
        batches.set_state(progress.iterator)
    logger.info("Resuming after epoch %d, step %d", progress.epoch, progress.step)
    return state, progress


def save_epoch(
    config: Config, checkpoints: Checkpoints, state: TrainState, progress: Progress
) -> None:
    """Save the state at the end of an epoch, as the best one too if it is."""
    improved = progress.best is not None and progress.best["step"] == progress.step
    if improved:
        # The best state is on the disk before a "last" one speaks of it.
        _save(checkpoints.best, config, state, progress)
        checkpoints.best.wait_until_finished()
    _save(checkpoints.last, config, state, progress)


def save_stopped(
    config: Config, checkpoints: Checkpoints, state: TrainState, progress: Progress
) -> None:
    """Save the state of a run that was asked to stop, and wait until it is on the disk."""
    _save(checkpoints.last, config, state, progress)
    checkpoints.wait()


def _save(manager: Any, config: Config, state: TrainState, progress: Progress) -> None:
    save_checkpoint(manager, state, {**progress.to_json(), "config": config_to_dict(config)})


def restore_best(
    config: Config, state: TrainState, progress: Progress, checkpoints: Checkpoints
) -> tuple[TrainState, Progress]:
    """Restore the best state, or the newest one if that is damaged, and say which in `best`."""
    try:
        best = functools.partial(restore_checkpoint, checkpoints.best, state)
        return run_in_all(best, "reading the best checkpoint")[0], progress
    except FluxsegError as error:
        # It is the only one of its epoch, but the last epochs are there.
        logger.warning("%s", error)
        found = restore_newest(checkpoints.last, state)
        if found is None:
            raise
        state, values = found
        kept = progress_from_json(values, str(checkpoints.last.directory))
        logger.warning("Using the newest state instead, of epoch %d", kept.epoch)
        row = kept.history[-1] if kept.history else {"epoch": kept.epoch}
        newest = describe_epoch(row, kept.step, config.train)
        return state, dataclasses.replace(progress, best=newest)
