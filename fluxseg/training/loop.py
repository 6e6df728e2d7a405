"""The main job: prepare, train, choose on validation, score the test split once."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fluxseg.config import CLASSES, Config, config_from_dict, config_to_dict, resume_difference
from fluxseg.data.pipeline import CropSource, steps_per_epoch
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.io.files import read_json, write_json
from fluxseg.model.score_table import score_table
from fluxseg.processes import (
    current_process,
    gather_values,
    is_first_process,
    run_in_all,
    run_in_first,
)
from fluxseg.training.checkpoints import (
    Checkpoints,
    open_checkpoints,
    restore_newest,
    restore_state,
)
from fluxseg.training.dataset import Dataset, create_class_weights, prepare_dataset
from fluxseg.training.encoder_weights import check_encoder_start, start_encoder
from fluxseg.training.epochs import Callbacks, Run, interrupted, score_split, train_epochs
from fluxseg.training.evaluation import split_scores_to_json
from fluxseg.training.lock import check_shared, claim_workdir
from fluxseg.training.memory import check_memory
from fluxseg.training.profiling import StepProfiler, announce_first_step
from fluxseg.training.programs import make_eval_step
from fluxseg.training.progress import Progress, describe_epoch, progress_from_json
from fluxseg.training.sharding import (
    check_batch_size,
    count_parts,
    make_mesh,
    make_train_step,
    place_state,
)
from fluxseg.training.state import TrainState, create_train_state
from fluxseg.training.stopping import StopFlag, catch_signals
from fluxseg.training.versions import collect_versions
from fluxseg.training.writers import History, TensorBoard

__all__ = ["Callbacks", "TrainResult", "train_and_evaluate"]

logger = logging.getLogger(__name__)


class TrainResult(NamedTuple):
    """What `train_and_evaluate` returns.

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


def train_and_evaluate(
    config: Config,
    workdir: str | Path,
    callbacks: Callbacks | None = None,
    init: Any = None,
    *,
    profile: bool = False,
) -> TrainResult:
    """Run the main job in a workdir, or go on with the one that was begun there.

    Recordings are prepared (or a matching cache is reused), split, and trained on. After each
    epoch the validation split is scored; it alone chooses the best checkpoint and stops early.
    At the end the best checkpoint scores the test split, once. The same call on the same machine
    resumes an interrupted run and ends with the same bits.

    In a job of several processes (`jax.distributed`) each calls this with the same arguments and
    a workdir that all of them see. Each trains on its share of every batch; the first writes.

    The workdir gets `config.json`, `versions.json`, `split.json`, `data.json`, `metrics.jsonl`,
    `metrics.csv`, `tensorboard`, `checkpoints` and `scores.json`.

    Args:
        config: all settings.
        workdir: folder of the run; it is created.
        callbacks: functions that are told how it goes.
        init: parameters of the network to start from; None for random ones. A run that is
            resumed has its own.
        profile: trace some steps of the first epoch; the trace and the shares of a step go to
            the folder `profile`.

    Returns:
        The best state, the history, and the scores.

    Raises:
        WorkdirError: if the workdir holds a run with other settings or other data, is in use by
            another one, or cannot be written.
        TrainingError: if the loss is not finite.
        InterruptedRunError: after SIGINT or SIGTERM, when everything is saved.
        FluxsegError: for unusable data or settings.
    """
    workdir = Path(workdir)
    callbacks = callbacks or Callbacks()
    with contextlib.ExitStack() as stack:
        run_in_first(lambda: stack.enter_context(claim_workdir(workdir)), "claiming the workdir")
        run_in_all(lambda: check_shared(workdir), "finding the workdir")
        checkpoints = run_in_all(
            lambda: open_checkpoints(workdir, tidy=True), "opening the checkpoints"
        )
        stack.callback(checkpoints.close)
        dataset = open_dataset(config, workdir, checkpoints, callbacks.on_prepare, init is not None)
        with catch_signals() as stop:
            return _train(config, workdir, dataset, checkpoints, callbacks, stop, init, profile)


def open_dataset(
    config: Config,
    workdir: Path,
    checkpoints: Checkpoints,
    on_prepare: Callable[[int, int], None] | None = None,
    given: bool = False,
) -> Dataset:
    """Check and record the settings of a run, and prepare its data.

    Args:
        config: settings of the run.
        workdir: its folder.
        checkpoints: those of the run.
        on_prepare: called with (recordings prepared, recordings in all).
        given: whether the parameters to start from are given.

    Returns:
        The data, with training crops.

    Raises:
        WorkdirError: if the workdir holds a run with other settings.
        FluxsegError: for unusable data or settings.
    """
    if checkpoints.last.latest_step() is None:
        run_in_all(lambda: check_encoder_start(config, given), "checking encoder_weights")
    run_in_first(lambda: _record_settings(config, workdir, checkpoints), "writing config.json")
    dataset = prepare_dataset(config, workdir, on_prepare)
    if not dataset.crops("train"):
        raise FluxsegError("the training split is empty: set data.train_fraction higher")
    return dataset


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


def _train(
    config: Config,
    workdir: Path,
    dataset: Dataset,
    checkpoints: Checkpoints,
    callbacks: Callbacks,
    stop: StopFlag,
    init: Any = None,
    profile: bool = False,
) -> TrainResult:
    mesh = make_mesh()
    check_batch_size(config.train.batch_size, mesh)
    source, state = start_training(config, dataset, checkpoints, init)
    weights = zip(CLASSES, state.class_weights.tolist(), strict=True)
    parts = [f"{name} {weight:.3g}" for name, weight in weights]
    logger.info("Class weights: %s", ", ".join(parts))
    state = place_state(state, mesh, config.train.shard_optimizer)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logger.info("The model has %s parameters", f"{count:,}")
    state, progress = resume_run(state, checkpoints, dataset, workdir)
    writes = is_first_process()
    if writes and not progress.is_finished(config.train):
        write_json(workdir / "versions.json", collect_versions())
    tensorboard = TensorBoard(workdir, progress.step) if writes else None
    n_parts = count_parts(config, mesh)
    check = functools.partial(check_memory, config=config, mesh=mesh, parts=n_parts)
    eval_step = make_eval_step(mesh)
    train_step = announce_first_step(make_train_step(mesh, n_parts, check, eval_step))
    profiler = None
    if profile and writes:
        steps = steps_per_epoch(len(source), config.train.batch_size)
        profiler = StepProfiler(workdir / "profile", steps)
        train_step, callbacks = profiler.wrap(train_step, callbacks)
    run = Run(
        config,
        workdir,
        dataset,
        mesh,
        source,
        checkpoints,
        tensorboard,
        callbacks,
        stop,
        train_step,
        eval_step,
    )
    try:
        state, progress = train_epochs(run, state, progress)
    finally:
        if tensorboard:
            tensorboard.close()
        if profiler:
            profiler.close()
    state, progress = _restore_best(run, state, progress)
    scores = _final_scores(run, state, progress)
    return TrainResult(_bring_home(state), list(progress.history), scores, dataset)


def start_training(
    config: Config, dataset: Dataset, checkpoints: Checkpoints, init: Any = None
) -> tuple[CropSource, TrainState]:
    """Open the training crops of a run, and create the state at its step 0.

    Args:
        config: settings of the run.
        dataset: its data.
        checkpoints: those of the run; one that is resumed needs no weights of an encoder.
        init: parameters to start from; None for random ones.

    Returns:
        The crops of an epoch, and the state, not yet on the mesh.

    Raises:
        FluxsegError: if the weights to begin with cannot be used.
    """
    source = CropSource(dataset.index, dataset.crops("train") * config.train.repeats)
    total_steps = config.train.epochs * steps_per_epoch(len(source), config.train.batch_size)
    state = create_train_state(
        config, create_class_weights(config, dataset), total_steps, init=init
    )
    if checkpoints.last.latest_step() is None:
        state = run_in_all(functools.partial(start_encoder, state, config), "reading the weights")
    return source, state


def resume_run(
    state: TrainState, checkpoints: Checkpoints, dataset: Dataset, workdir: Path
) -> tuple[TrainState, Progress]:
    """Restore the newest state of a run, and how far it has come.

    Args:
        state: a new state, placed on the devices.
        checkpoints: those of the run.
        dataset: its data.
        workdir: its folder.

    Returns:
        The state and the progress: those given and none if there is no checkpoint.

    Raises:
        WorkdirError: if the checkpoints cannot be read or are of other data.
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
    logger.info("Resuming after epoch %d, step %d", progress.epoch, progress.step)
    return state, progress


def _bring_home(state: TrainState) -> TrainState:
    """Return a state whose arrays are all on this process's first device."""
    if current_process()[1] == 1:
        return state
    from jax.experimental import multihost_utils

    def bring(leaf: Any) -> Any:
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return jax.numpy.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(bring, state)


def _restore_best(run: Run, state: TrainState, progress: Progress) -> tuple[TrainState, Progress]:
    try:
        best = run_in_all(
            lambda: restore_state(run.checkpoints.best, state), "reading the best checkpoint"
        )
    except FluxsegError as error:
        # It is the only one of its epoch, but the last epochs are there.
        logger.warning("%s", error)
        found = restore_newest(run.checkpoints.last, state)
        if found is None:
            raise
        state, values = found
        kept = progress_from_json(values, str(run.checkpoints.last.directory))
        logger.warning("Using the newest state instead, of epoch %d", kept.epoch)
        row = kept.history[-1] if kept.history else {"epoch": kept.epoch}
        newest = describe_epoch(row, kept.step, run.config.train)
        return state, dataclasses.replace(progress, best=newest)
    return best, progress


def _final_scores(run: Run, state: TrainState, progress: Progress) -> dict[str, Any]:
    path = run.workdir / "scores.json"
    # What the first process sees decides for all.
    written = is_first_process() and path.exists()
    known: Any = gather_values(read_json(path) if written else None, "reading scores.json")[0]
    if known and known.get("checkpoint") == progress.best:
        logger.info("This run is finished; train.epochs can be raised to train on")
        return dict(known)
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        if not run.dataset.crops(split):
            continue
        result = score_split(run, state, split)
        if result is None:
            # All epochs are saved already; only the scores are missing.
            raise interrupted(run, progress)
        splits[split] = split_scores_to_json(result, run.dataset.ids())
    scores = {"checkpoint": progress.best, "splits": splits}
    run_in_first(lambda: write_json(path, scores), "writing scores.json")
    return scores
