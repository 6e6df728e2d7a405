"""Where the time of a training step goes: a trace of some steps, and a table of their shares."""

import dataclasses
import itertools
import logging
import queue
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from fluxseg.io.files import write_json
from fluxseg.training.epochs import Callbacks

logger = logging.getLogger(__name__)

FIRST, COUNT = 10, 6
"""Number of the first step that is traced, from 1, and how many are."""
LISTED = 15
"""Operations in the table."""

Interval = tuple[float, float]
"""Begin and end, seconds."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a compiled program that ran on a device.

    Attributes:
        name: name of the operation, such as "dot_general.38".
        program: name of the program, such as "jit_train_step".
        run: number of the execution of the program that it was part of.
        begin: seconds.
        end: seconds.
    """

    name: str
    program: str
    run: int
    begin: float
    end: float


@dataclasses.dataclass
class StepTimes:
    """When the host and the device were how far with a step, seconds.

    Attributes:
        idle: the host had finished the step before and turned to the data of this one.
        called: the data were there.
        dispatched: the host was free again.
        done: the device had finished.
    """

    idle: float
    called: float
    dispatched: float = 0.0
    done: float = 0.0


def choose_steps(steps: int) -> tuple[int, int]:
    """Choose the steps to trace: 10 to 15, or some in the middle of a shorter epoch.

    Args:
        steps: steps of the epoch.

    Returns:
        The first and the last one, counted from 1. The first step of all, which compiles, is
        chosen only if there is no other.
    """
    first = min(FIRST, max(1, steps // 2))
    if first == 1 and steps > 1:
        first = 2
    return first, max(first, min(first + COUNT - 1, steps))


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that overlap or touch; the result is in order."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def device_shares(operations: Sequence[Operation]) -> dict[str, float | None]:
    """Say how much of the time a device worked, and how long it waited for the host.

    It works from the first operation of a program's execution to the last; between executions it
    has nothing to do. The time counts from its first operation to its last.

    Args:
        operations: those of one device.

    Returns:
        `busy` and `idle` as shares of the time, `longest_idle_seconds`, and `seconds` in all;
        None where there were no operations.
    """
    runs: dict[int, Interval] = {}
    for operation in operations:
        begin, end = runs.get(operation.run, (operation.begin, operation.end))
        runs[operation.run] = (min(begin, operation.begin), max(end, operation.end))
    merged = merge_intervals(runs.values())
    if not merged or merged[-1][1] <= merged[0][0]:
        return dict.fromkeys(("busy", "idle", "longest_idle_seconds", "seconds"))
    seconds = merged[-1][1] - merged[0][0]
    busy = sum(end - begin for begin, end in merged) / seconds
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(merged)]
    return {
        "busy": busy,
        "idle": 1 - busy,
        "longest_idle_seconds": max(gaps, default=0.0),
        "seconds": seconds,
    }


def top_operations(operations: Sequence[Operation], steps: int) -> list[dict[str, Any]]:
    """List the kinds of operations that took most time.

    Args:
        operations: those of all devices and threads.
        steps: number of steps that they belong to.

    Returns:
        Rows with `program`, `operation` (its name without number), `milliseconds` a step summed
        over threads, and the `share` of the time of all operations; the largest first.
    """
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for operation in operations:
        kind = re.sub(r"[.\d]+$", "", operation.name)
        seconds[operation.program, kind] += operation.end - operation.begin
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:LISTED]
    return [
        {
            "program": program,
            "operation": kind,
            "milliseconds": 1000 * value / max(steps, 1),
            "share": value / total if total else 0.0,
        }
        for (program, kind), value in largest
    ]


def host_shares(times: Sequence[StepTimes], end: float) -> dict[str, float]:
    """Say what the host did, as shares of the time of consecutive steps.

    Args:
        times: the steps.
        end: when the host was through with the last one.

    Returns:
        `waiting_for_data` and `dispatch` (handing a step to the device).
    """
    seconds = max(end - times[0].idle, 1e-9)
    return {
        "waiting_for_data": sum(t.called - t.idle for t in times) / seconds,
        "dispatch": sum(t.dispatched - t.called for t in times) / seconds,
    }


def read_operations(folder: Path) -> list[Operation]:
    """Read the operations that ran on devices from the newest trace of a folder.

    Needs no TensorFlow.
    """
    paths = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not paths:
        return []
    found: list[Operation] = []
    for plane in jax.profiler.ProfileData.from_file(str(paths[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" not in stats or "hlo_module" not in stats:
                    continue
                begin = event.start_ns / 1e9
                end = begin + event.duration_ns / 1e9
                # Without a number of the execution, each operation stands for itself.
                run = int(stats.get("run_id", len(found)))
                found.append(Operation(event.name, str(stats["hlo_module"]), run, begin, end))
    return found


def announce_first_step(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Have a training step tell in the log when it has been taken for the first time.

    Args:
        train_step: the step.

    Returns:
        The same step.
    """
    first = True

    def step(*args: Any) -> Any:
        nonlocal first
        if not first:
            return train_step(*args)
        first = False
        began = time.perf_counter()
        result = jax.block_until_ready(train_step(*args))
        seconds = time.perf_counter() - began
        logger.info("First step done; with its compilation it took %.1f s", seconds)
        return result

    return step


class StepProfiler:
    """Times the steps of a run and traces some of them.

    Args:
        folder: the trace goes there, for TensorBoard's profile plugin or Perfetto, and
            `steps.json` with the shares of a step.
        steps: steps of an epoch.
    """

    def __init__(self, folder: Path, steps: int):
        self._folder = folder
        self._first, self._last = choose_steps(steps)
        self._times: list[StepTimes] = []
        self._idle = time.perf_counter()
        self._tracing = self._finished = False
        self._computing: queue.SimpleQueue[tuple[StepTimes, Any] | None] = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def wrap(
        self, train_step: Callable[..., Any], callbacks: Callbacks
    ) -> tuple[Callable[..., Any], Callbacks]:
        """Return a training step and callbacks that do the same and are timed."""

        def step(state: Any, batch: Any) -> Any:
            if self._finished:
                return train_step(state, batch)
            times = StepTimes(self._idle, time.perf_counter())
            number = len(self._times) + 1
            if number == self._first:
                jax.block_until_ready(state)
                self._start()
                times.idle = times.called = time.perf_counter()
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                state, metrics = train_step(state, batch)
            times.dispatched = time.perf_counter()
            self._times.append(times)
            self._computing.put((times, metrics))
            return state, metrics

        def on_step(done: int, total: int) -> None:
            if callbacks.on_step:
                callbacks.on_step(done, total)
            if len(self._times) == self._last:
                self.close()
            self._idle = time.perf_counter()

        return step, dataclasses.replace(callbacks, on_step=on_step)

    def close(self) -> None:
        """End the trace and write and log the table, unless that has been done."""
        if self._finished:
            return
        self._finished = True
        end = time.perf_counter()
        self._computing.put(None)
        self._watcher.join()
        if not self._tracing:
            logger.warning("The run ended before step %d: there is no profile", self._first)
            return
        jax.profiler.stop_trace()
        table = self._table(end)
        write_json(self._folder / "steps.json", table)
        for line in format_table(table):
            logger.info(line)
        logger.info("Profile: %s", self._folder)

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        # Traced calls of Python functions would slow down what is to be measured.
        options.python_tracer_level = 0
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._tracing = True

    def _watch(self) -> None:
        # Steps are computed while the host runs ahead; waiting in a thread disturbs neither.
        while (item := self._computing.get()) is not None:
            times, metrics = item
            jax.block_until_ready(metrics)
            times.done = time.perf_counter()

    def _table(self, end: float) -> dict[str, Any]:
        traced = self._times[self._first - 1 :]
        operations = read_operations(self._folder)
        return {
            "steps": [self._first, self._first + len(traced) - 1],
            "step_seconds": {
                "traced": _median_step(traced),
                "not_traced": _median_step(self._times[1 : self._first - 1]),
            },
            "host": host_shares(traced, max(end, traced[-1].done)),
            "device": device_shares(operations),
            "operations": top_operations(operations, len(traced)),
        }


def _median_step(times: Sequence[StepTimes]) -> float | None:
    seconds = [b.done - a.done for a, b in itertools.pairwise(times)]
    return statistics.median(seconds) if seconds else None


def format_table(table: dict[str, Any]) -> list[str]:
    """Format the content of `steps.json` as lines of text."""

    def percent(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.2f} %"

    def seconds(value: float | None) -> str:
        return "unknown" if value is None else f"{1000 * value:.1f} ms"

    host, device, step = table["host"], table["device"], table["step_seconds"]
    lines = [
        "Steps {} to {}: median {} traced, {} before".format(
            *table["steps"], seconds(step["traced"]), seconds(step["not_traced"])
        ),
        f"  device busy {percent(device['busy'])}, idle between programs "
        f"{percent(device['idle'])} (longest {seconds(device['longest_idle_seconds'])})",
        f"  host: waiting for data {percent(host['waiting_for_data'])}, "
        f"dispatch {percent(host['dispatch'])}",
    ]
    for row in table["operations"]:
        lines.append(
            f"  {percent(row['share']):>8}  {row['milliseconds']:8.1f} ms a step  "
            f"{row['operation']} ({row['program']})"
        )
    return lines
