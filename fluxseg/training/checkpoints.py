"""Orbax checkpoints of a run: the last two states, and the best one on validation."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fluxseg.errors import WorkdirError
from fluxseg.training.state import TrainState

KEEP_LAST = 2


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
        """Wait until everything that is being saved is on the disk."""
        self.last.wait_until_finished()
        self.best.wait_until_finished()

    def close(self) -> None:
        """Wait, and free the threads."""
        self.last.close()
        self.best.close()


def open_checkpoints(workdir: Path) -> Checkpoints:
    """Open, or make, the checkpoint folders of a workdir."""

    def open_one(name: str, keep: int) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True
        )
        path = (workdir / "checkpoints" / name).resolve()
        return ocp.CheckpointManager(path, options=options)

    return Checkpoints(open_one("last", KEEP_LAST), open_one("best", 1))


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
    manager: ocp.CheckpointManager, state: TrainState, progress: dict[str, Any]
) -> None:
    """Save a state and the progress of its run, in the background.

    Args:
        manager: one of `Checkpoints`.
        state: what to save; it is copied before the call returns, so the next step may consume it.
        progress: plain values that JSON holds: history, position in the data, totals.

    Raises:
        WorkdirError: if the disk is full or cannot be written.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    try:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays_of(state)),
                progress=ocp.args.JsonSave(progress),
            ),
        )
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{manager.directory}: step {step} cannot be saved: {error}") from error


def read_progress(manager: ocp.CheckpointManager) -> dict[str, Any] | None:
    """Read the progress of the newest checkpoint; None if there is none."""
    step = manager.latest_step()
    if step is None:
        return None
    try:
        restored = manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
    except (OSError, ValueError, KeyError) as error:
        raise WorkdirError(f"{manager.directory}: step {step} cannot be read: {error}") from error
    return dict(restored["progress"])


def restore_state(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """Restore the newest checkpoint into a state of the same structure and sharding.

    Raises:
        WorkdirError: if there is none, it is damaged, or it is of another model.
    """
    step = manager.latest_step()
    if step is None:
        raise WorkdirError(f"{manager.directory}: holds no checkpoint")
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        arrays_of(state),
    )
    try:
        restored = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        )
    except (OSError, ValueError, KeyError) as error:
        raise WorkdirError(f"{manager.directory}: step {step} cannot be read: {error}") from error
    return state.replace(**restored["state"])
