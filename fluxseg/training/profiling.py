"""What the log says of the first step, its time and memory, and a trace of some steps."""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

logger = logging.getLogger(__name__)

FIRST, COUNT = 10, 6  # number of the first step that is traced, from 1, and how many are


def watch_steps(
    train_step: Callable[..., Any], stack: contextlib.ExitStack, trace: Path | None, steps: int
) -> Callable[..., Any]:
    """Have a training step tell in the log how long its first call took, and trace some steps.

    The folder `trace` gets a trace for TensorBoard or Perfetto, which `stack` ends where the
    `steps` of the epoch do not; None: no trace.
    """
    # Not the first one, which compiles, unless there is no other.
    first = min(FIRST, max(2, steps // 2), steps)
    last = min(first + COUNT - 1, steps)
    number, tracing = 0, stack.enter_context(contextlib.ExitStack())

    def step(state: Any, batch: Any) -> Any:
        nonlocal number
        number += 1
        if trace and number == first:
            tracing.enter_context(jax.profiler.trace(trace))
        began = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            result = train_step(state, batch)
        if number == 1:
            jax.block_until_ready(result)
            seconds = time.perf_counter() - began
            logger.info("First step done; with its compilation it took %.1f s", seconds)
        if trace and number == last:
            jax.block_until_ready(result)
            tracing.close()
            logger.info("Profile of steps %d to %d: %s", first, last, trace)
        return result

    return step


def log_memory_once(program: Any) -> Callable[..., Any]:
    """Have a jitted function tell in the log, at its first call, what it takes of memory.

    The compiler has laid out every buffer of the program: nothing is estimated.
    """
    first = True

    def call(*args: Any) -> Any:
        nonlocal first
        if first:
            first = False
            # The call below finds what is compiled here.
            found = program.lower(*args).compile().memory_analysis()
            if found is not None:
                arguments = found.argument_size_in_bytes
                results = found.output_size_in_bytes - found.alias_size_in_bytes
                logger.info(
                    "Memory per device: %.0f MB (%.0f MB temporary)",
                    (arguments + results + found.temp_size_in_bytes) / 1e6,
                    found.temp_size_in_bytes / 1e6,
                )
        return program(*args)

    return call
