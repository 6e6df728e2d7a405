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
ARRAYS_SUM = "arrays_sum"  # name of the checksum of the arrays in the values of a checkpoint


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The open checkpoint folders of a run."""

    last: ocp.CheckpointManager  # most recent states, to resume from
    best: ocp.CheckpointManager  # the state with the best validation score

    def wait(self) -> None:
        """Wait until all that is being saved is on the disk; `WorkdirError` if it cannot be."""
        for manager in (self.last, self.best):
            with _saving(manager, "a checkpoint"):
                manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and free the threads."""
        for manager in (self.last, self.best):
            with _saving(manager, "a checkpoint"):
                manager.close()


def open_checkpoints(workdir: Path, *, tidy: bool = False) -> Checkpoints:
    """Open, or make, the checkpoint folders of a workdir; `WorkdirError` if that cannot be.

    `tidy` removes what a killed process has left half written; for the run itself only.
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
    except Exception as error:
        reason = f"cannot be used: {_first_line(error)}"
        if not isinstance(error, OSError):
            # The library reads the notes of all steps here; no bit that flips leaves them JSON, and
            # what they lead to has no common type.
            reason = (
                f"the notes of a step are not those of a checkpoint ({_first_line(error)}); delete "
                "the folder of that step"
            )
        raise WorkdirError(f"{workdir / 'checkpoints'}: {reason}") from error


def arrays_of(state: TrainState) -> dict[str, Any]:
    """Return the part of a state that changes while training, and the weights of its classes."""
    names = ("step", "params", "opt_state", "ema_params", "class_weights")
    return {name: getattr(state, name) for name in names}


def save_checkpoint(
    manager: ocp.CheckpointManager, state: TrainState, progress: Mapping[str, Any]
) -> None:
    """Save a state and the progress of its run, plain values, in the background.

    The state is copied before the call returns, so the next step may consume it. Raises
    `WorkdirError` if the disk is full or cannot be written, now or for the checkpoint before.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    arrays = arrays_of(state)
    values = add_checksum({**progress, ARRAYS_SUM: int(sum_arrays(arrays))})
    with _saving(manager, f"step {step}"):
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(values)
        )
        manager.save(step, args=args)


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


def read_progress(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Read the progress of the checkpoint of a step; `WorkdirError` if it is damaged."""
    with _reading(manager, step):
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        values = dict(manager.restore(step, args=args)["progress"])
    if not has_checksum(values):
        raise WorkdirError(f"{manager.directory}: step {step} is damaged: its progress has changed")
    return values


def restore_checkpoint(
    manager: ocp.CheckpointManager, state: TrainState, step: int | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """Restore the checkpoint of a step (None: the newest) into a state of the same model.

    The state may be on any devices. Returns it and the progress of its run. Raises `WorkdirError`
    if there is none, it is damaged, or it is of another model.
    """
    step = manager.latest_step() if step is None else step
    if step is None:
        raise WorkdirError(f"{manager.directory}: holds no checkpoint")
    progress = read_progress(manager, step)
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

    Returns what `restore_checkpoint` does; None if there is no checkpoint. Raises `WorkdirError` if
    all checkpoints are damaged.
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
