"""Orbax checkpoints of a run: the last two states, and the best one on validation."""

import contextlib
import dataclasses
import functools
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.io.files import add_checksum, has_checksum
from fluxseg.processes import check_lost, run_in_all, run_in_first
from fluxseg.training.state import TrainState, sum_arrays

logger = logging.getLogger(__name__)

KEEP_LAST = 2
ARRAYS_SUM = "arrays_sum"
"""Name under which the values of a checkpoint hold the checksum of its arrays."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The open checkpoint folders of a run.

    Attributes:
        last: most recent states, to resume from.
        best: the state with the best validation score.
    """

    last: ocp.CheckpointManager
    best: ocp.CheckpointManager

    def wait(self) -> None:
        """Wait until everything that is being saved is on the disk.

        Raises:
            WorkdirError: if it cannot be written.
        """
        for manager in (self.last, self.best):
            with _saving(manager, "a checkpoint"):
                manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and free the threads."""
        for manager in (self.last, self.best):
            with _saving(manager, "a checkpoint"):
                manager.close()


def open_checkpoints(workdir: Path, *, tidy: bool = False) -> Checkpoints:
    """Open, or make, the checkpoint folders of a workdir.

    Args:
        workdir: folder of the run.
        tidy: remove what a killed process has left half written; for the run itself only.

    Raises:
        WorkdirError: if the folders cannot be made.
    """

    def open_one(name: str, keep: int) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            create=True,
            cleanup_tmp_directories=tidy,
            enable_async_checkpointing=True,
            # Both save in the background, and must not wait at each other's barriers.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=name
            ),
        )
        path = (workdir / "checkpoints" / name).resolve()
        return ocp.CheckpointManager(path, options=options)

    try:
        return Checkpoints(open_one("last", KEEP_LAST), open_one("best", 1))
    except OSError as error:
        raise WorkdirError(
            f"{workdir / 'checkpoints'}: cannot be used: {error.strerror or error}"
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # The library reads the notes of all steps here; no bit that flips leaves them JSON.
        raise WorkdirError(
            f"{workdir / 'checkpoints'}: the notes of a step are not those of a checkpoint "
            f"({_first_line(error)}); delete the folder of that step"
        ) from error


def arrays_of(state: TrainState) -> dict[str, Any]:
    """Return the part of a state that changes while training."""
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "ema_params": state.ema_params,
        "class_weights": state.class_weights,
    }


def save_checkpoint(
    manager: ocp.CheckpointManager, state: TrainState, progress: Mapping[str, Any]
) -> None:
    """Save a state and the progress of its run, in the background.

    Args:
        manager: one of `Checkpoints`.
        state: what to save; it is copied before the call returns, so the next step may consume it.
        progress: plain values that JSON holds: history, position in the data, totals.

    Raises:
        WorkdirError: if the disk is full or cannot be written, now or for the checkpoint before.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    arrays = arrays_of(state)
    values = add_checksum({**progress, ARRAYS_SUM: int(sum_arrays(arrays))})
    with _saving(manager, f"step {step}"):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                progress=ocp.args.JsonSave(values),
            ),
        )


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        check_lost(error)
        folder = Path(manager.directory)
        workdir = folder.parents[1]
        # Its folders may have been made anew on the way.
        if not (workdir / "config.json").exists():
            raise WorkdirError(f"{workdir}: is gone; {what} cannot be saved") from error
        raise WorkdirError(
            f"{folder}: {what} cannot be saved: {_first_line(error)}; earlier checkpoints are as "
            "they were: when that is mended, run the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # TensorStore tells the whole request; the reason stands at its end.
    reason = re.search(
        r"\[?(No space left on device|Permission denied|Read-only file system)", text
    )
    if reason:
        return reason[1]
    return str(text).strip().splitlines()[0][:300]


def read_progress(manager: ocp.CheckpointManager, step: int | None = None) -> dict[str, Any] | None:
    """Read the progress of a checkpoint.

    Args:
        manager: one of `Checkpoints`.
        step: its step; default the newest.

    Returns:
        The values; None if there is no checkpoint.

    Raises:
        WorkdirError: if it is damaged.
    """
    step = manager.latest_step() if step is None else step
    if step is None:
        return None
    with _reading(manager, step):
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        values = dict(manager.restore(step, args=args)["progress"])
    if not has_checksum(values):
        raise WorkdirError(f"{manager.directory}: step {step} is damaged: its progress has changed")
    return values


def restore_checkpoint(
    manager: ocp.CheckpointManager, state: TrainState, step: int | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """Restore a checkpoint into a state of the same structure and sharding.

    Args:
        manager: one of `Checkpoints`.
        state: a state of the same model, on any devices.
        step: its step; default the newest.

    Returns:
        The state and the progress of its run.

    Raises:
        WorkdirError: if there is none, it is damaged, or it is of another model.
    """
    step = manager.latest_step() if step is None else step
    progress = read_progress(manager, step)
    if step is None or progress is None:
        raise WorkdirError(f"{manager.directory}: holds no checkpoint")
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        arrays_of(state),
    )
    with _reading(manager, step):
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        restored = manager.restore(step, args=args)["state"]
    expected = progress.get(ARRAYS_SUM)
    if expected is not None and int(sum_arrays(restored)) != expected:
        raise WorkdirError(f"{manager.directory}: step {step} is damaged: its arrays have changed")
    return state.replace(**restored), progress


def restore_state(
    manager: ocp.CheckpointManager, state: TrainState, step: int | None = None
) -> TrainState:
    """Do as `restore_checkpoint` does, and return the state alone."""
    return restore_checkpoint(manager, state, step)[0]


@contextlib.contextmanager
def _reading(manager: ocp.CheckpointManager, step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # What a damaged file leads to in the libraries below has no common type.
        raise WorkdirError(
            f"{manager.directory}: step {step} cannot be read: {_first_line(error)}"
        ) from error


def restore_newest(
    manager: ocp.CheckpointManager, state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """Restore the newest checkpoint that is whole, and put damaged ones aside.

    Args:
        manager: one of `Checkpoints`.
        state: as for `restore_checkpoint`.

    Returns:
        The state and the progress of its run; None if there is no checkpoint.

    Raises:
        WorkdirError: if all checkpoints are damaged.
    """
    damaged: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        restore = functools.partial(restore_checkpoint, manager, state, step)
        try:
            found = run_in_all(restore, f"reading the checkpoint of step {step}")
        except FluxsegError as error:
            logger.warning("%s", error)
            damaged.append(step)
            continue
        if damaged:
            logger.warning("Using the checkpoint before it, of step %d", step)
            _put_aside(manager, damaged)
        return found
    if damaged:
        raise WorkdirError(
            f"{manager.directory}: no checkpoint can be read; delete {manager.directory.parent} "
            "to begin this run anew (prepared crops are kept)"
        )
    return None


def _put_aside(manager: ocp.CheckpointManager, steps: list[int]) -> None:
    folder = Path(manager.directory).parent / "damaged"

    def move() -> None:
        folder.mkdir(exist_ok=True)
        for step in steps:
            target = folder / f"{Path(manager.directory).name}-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (Path(manager.directory) / str(step)).rename(target)

    run_in_first(move, "putting damaged checkpoints aside")
    manager.reload()
