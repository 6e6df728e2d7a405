"""Running the members of a sweep: together in one program where they can be, else in turn."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.data.pipeline import make_batches
from fluxseg.errors import FluxsegError, InterruptedRunError, TrainingError
from fluxseg.io.files import read_json, write_json
from fluxseg.training.checkpoints import open_checkpoints
from fluxseg.training.epochs import Callbacks, Run, close_epoch, record_step
from fluxseg.training.lock import claim_workdir
from fluxseg.training.loop import (
    TrainResult,
    open_dataset,
    resume_run,
    start_training,
    train_and_evaluate,
)
from fluxseg.training.programs import make_eval_step
from fluxseg.training.progress import Progress
from fluxseg.training.sharding import ON_DEVICE, count_parts, make_mesh, place_state
from fluxseg.training.stacked import (
    Numbers,
    StackedStep,
    align_state,
    create_numbers,
    make_stacked_step,
    stack_key,
    stack_states,
    unstack_states,
)
from fluxseg.training.state import TrainState
from fluxseg.training.stopping import StopFlag, catch_signals
from fluxseg.training.sweep_plan import Member
from fluxseg.training.versions import collect_versions
from fluxseg.training.writers import TensorBoard

logger = logging.getLogger(__name__)

Finish = Callable[[Config, Path, TrainResult], None]


@dataclasses.dataclass
class _Trained:
    """A member while it trains."""

    run: Run
    state: TrainState
    progress: Progress


def run_sweep(
    members: Sequence[Member],
    folder: Path,
    finish: Finish,
    *,
    together: bool = False,
    most: int = 8,
) -> dict[str, str]:
    """Train all runs of a sweep that are not finished, each in a workdir of its own.

    Args:
        members: the runs.
        folder: gets `runs/NAME` for each, and the prepared crops that they share.
        finish: told config, workdir and result of a run that is trained, to score and report it.
        together: train those that differ in numbers only (see `stack_key`) in one program.
        most: runs in one program; memory grows with them.

    Returns:
        Name -> why it has failed, of those that have.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM, when everything is saved.
    """
    failures: dict[str, str] = {}
    waiting = [
        dataclasses.replace(member, config=share_cache(member.config, folder))
        for member in members
        if not is_finished(member, folder)
    ]
    done = len(members) - len(waiting)
    if done:
        logger.info("%d of %d runs are finished already", done, len(members))
    for group in group_members(waiting, most if together else 1):
        if len(group) > 1:
            logger.info("Training %d runs in one program", len(group))
            failures |= train_together(group, folder)
        for member in group:
            if member.name in failures:
                continue
            logger.info("Run %s", member.name)
            workdir = run_folder(folder, member)
            try:
                # What was trained together is only scored here.
                finish(member.config, workdir, train_and_evaluate(member.config, workdir))
            except InterruptedRunError:
                raise
            except FluxsegError as error:
                failures[member.name] = str(error)
                logger.warning("%s has failed: %s", member.name, error)
    return failures


def run_folder(folder: Path, member: Member) -> Path:
    """Return the workdir of a run."""
    return folder / "runs" / member.name


def is_finished(member: Member, folder: Path) -> bool:
    """Tell whether a run has its scores and its report, which is written last."""
    workdir = run_folder(folder, member)
    if not all((workdir / name).is_file() for name in ("scores.json", "report.html")):
        return False
    saved = config_from_dict(read_json(workdir / "config.json"))
    return saved == share_cache(member.config, folder)


def share_cache(config: Config, folder: Path) -> Config:
    """Let runs of equal data share their prepared crops, unless the config names a cache."""
    if config.data.cache:
        return config
    values = config_to_dict(dataclasses.replace(config.data, threads=0, workers=0))
    text = repr((values, config_to_dict(config.simulator)))
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    cache = str(folder.resolve() / "caches" / digest)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache))


def group_members(members: Sequence[Member], most: int) -> list[list[Member]]:
    """Divide runs into groups with one `stack_key`, of at most `most` members each."""
    found: dict[Config, list[Member]] = {}
    for member in members:
        found.setdefault(stack_key(member.config), []).append(member)
    return [
        group[first : first + most]
        for group in found.values()
        for first in range(0, len(group), most)
    ]


def train_together(members: Sequence[Member], folder: Path) -> dict[str, str]:
    """Train runs of one `stack_key` in one program, up to their last epochs.

    Their workdirs are then as those of single runs whose last checkpoint is just written;
    `train_and_evaluate` of each gives its scores. Those whose loss is not finite are left out;
    the others go on.

    Args:
        members: the runs; those that were interrupted at different steps go on in turn.
        folder: folder of the sweep.

    Returns:
        Name -> why it has failed, of those that have.

    Raises:
        InterruptedRunError: if the process was asked to stop; everything is saved.
        FluxsegError: for unusable data or settings.
    """
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(catch_signals())
        mesh = make_mesh(jax.devices()[:1])
        eval_step, like = make_eval_step(mesh), list[TrainState]()
        trained = {}
        for member in members:
            one = _open_member(member, folder, stop, stack, mesh)
            like.append(one.state)
            score = functools.partial(_score_aligned, eval_step, like[0])
            trained[member.name] = dataclasses.replace(
                one, run=dataclasses.replace(one.run, eval_step=score)
            )
        while waiting := {
            name: one
            for name, one in trained.items()
            if name not in failures and not one.progress.is_finished(one.run.config.train)
        }:
            # Those that are behind first, so that all end up at the same step.
            step = min(one.progress.step for one in waiting.values())
            group = {name: one for name, one in waiting.items() if one.progress.step == step}
            ahead = [one.progress.step for one in waiting.values() if one.progress.step > step]
            until = min(ahead, default=None)
            failures |= _train_stack(group, until)
    return failures


def _score_aligned(eval_step: Any, like: TrainState, state: TrainState, batch: Any) -> Any:
    # What evaluation does not use is that of the first, so that one program serves all.
    aligned = align_state(state, like).replace(loss_fn=state.loss_fn, opt_state=None)
    return eval_step(aligned, batch)


def _open_member(
    member: Member, folder: Path, stop: StopFlag, stack: contextlib.ExitStack, mesh: Any
) -> _Trained:
    config, workdir = member.config, run_folder(folder, member)
    stack.enter_context(claim_workdir(workdir))
    checkpoints = open_checkpoints(workdir, tidy=True)
    stack.callback(checkpoints.close)
    dataset = open_dataset(config, workdir, checkpoints)
    source, state = start_training(config, dataset, checkpoints)
    state, progress = resume_run(place_state(state, mesh), checkpoints, dataset, workdir)
    write_json(workdir / "versions.json", collect_versions())
    tensorboard = TensorBoard(workdir, progress.step)
    stack.callback(tensorboard.close)
    run = Run(
        config, workdir, dataset, mesh, source, checkpoints, tensorboard, Callbacks(), stop,
        _never, _never,
    )  # fmt: skip
    return _Trained(run, state, progress)


def _never(*_: Any) -> Any:
    raise AssertionError("a member of a stack has no step of its own")


def _train_stack(trained: Mapping[str, _Trained], until: int | None) -> dict[str, str]:
    """Train members that are at the same step until one ends, fails, or `until` is reached."""
    failures: dict[str, str] = {}
    ones = list(trained.values())
    run, owns = ones[0].run, [one.state for one in ones]
    numbers = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(create_numbers(one.run.config, run.total_steps) for one in ones),
    )
    stacked = stack_states(owns)
    step_together = make_stacked_step(run.config, count_parts(run.config, run.mesh))
    batches: dict[Any, Any] = {}
    for one in ones:
        # Members that see the same crops in the same order share what is read.
        if _order(one.run) not in batches:
            batches[_order(one.run)] = _open_batches(one)
    while True:
        began = time.monotonic()
        stacked = _take_steps(trained, stacked, numbers, batches, step_together, failures)
        share = (time.monotonic() - began) / len(ones)
        stopped: InterruptedRunError | None = None
        for (name, one), state in zip(trained.items(), unstack_states(stacked, owns), strict=True):
            one.state = state
            if name in failures:
                continue
            iterator = batches[_order(one.run)].get_state()
            logger.info("Run %s", name)
            try:
                one.progress = close_epoch(
                    one.run, state, one.progress, iterator, time.monotonic() - share
                )
            except InterruptedRunError as error:
                stopped = error
        if stopped:
            raise stopped
        ended = any(one.progress.is_finished(one.run.config.train) for one in ones)
        if ended or failures or (until is not None and ones[0].progress.step >= until):
            return failures


def _take_steps(
    trained: Mapping[str, _Trained],
    stacked: TrainState,
    numbers: Numbers,
    batches: Mapping[Any, Any],
    step_together: StackedStep,
    failures: dict[str, str],
) -> TrainState:
    """Take the steps of one epoch; progress and failures of the members are noted."""
    ones = list(trained.values())
    run, progress = ones[0].run, ones[0].progress
    step, taken, log_every = progress.step, progress.step_in_epoch, run.config.train.log_every
    pending: deque[tuple[int, Any]] = deque()
    while taken < run.steps_per_epoch and not run.stop():
        found = {order: next(iterator) for order, iterator in batches.items()}
        own = [found[_order(one.run)] for one in ones]
        batch = {name: np.stack([rows[name] for rows in own]) for name in ON_DEVICE}
        stacked, metrics = step_together(stacked, numbers, batch)
        step, taken = step + 1, taken + 1
        pending.append((step, metrics))
        if len(pending) >= 2 * log_every:
            # The older half is long computed: fetching it does not hold up the device.
            _record(trained, [pending.popleft() for _ in range(log_every)], failures)
    _record(trained, list(pending), failures)
    for one in ones:
        one.progress = dataclasses.replace(one.progress, step=step, step_in_epoch=taken)
    return stacked


def _record(
    trained: Mapping[str, _Trained], steps: list[tuple[int, Any]], failures: dict[str, str]
) -> None:
    for step, metrics in jax.device_get(steps):
        for place, (name, one) in enumerate(trained.items()):
            if name in failures:
                continue
            own = jax.tree.map(lambda leaf, n=place: leaf[n], metrics)
            try:
                totals = record_step(one.run, step, own, one.progress.totals)
            except TrainingError as error:
                failures[name] = str(error)
                logger.warning("%s has failed: %s", name, error)
                continue
            one.progress = dataclasses.replace(one.progress, totals=totals)


def _order(run: Run) -> tuple[Any, ...]:
    return run.config.train.seed, run.config.augment


def _open_batches(one: _Trained) -> Any:
    config = one.run.config
    batches = make_batches(
        one.run.train_source,
        config.train.batch_size,
        augment=config.augment,
        seed=config.train.seed,
        epochs=None,
        threads=config.data.threads,
    )
    if one.progress.iterator is not None:
        batches.set_state(one.progress.iterator)
    return batches
