"""What all benchmarks share: processes in turn, medians and ratios, a table, and a JSON record.

A machine's speed drifts, above all if it is shared. So every variant of a benchmark is a process of
its own, the variants take turns, and what is compared are figures of one round. Ratios are what a
benchmark says; absolute figures belong to one machine on one day.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fluxseg.allocator import SWITCH

MALLOC_SETTINGS = {
    "GLIBC_TUNABLES": (
        "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
        "glibc.malloc.arena_max=1:glibc.malloc.top_pad=268435456"
    )
}
"""The allocator settings that fluxseg's commands make (`fluxseg.allocator`), for any process."""
RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[2] / "docs" / "figures"
PACKAGES = ("fluxseg", "jax", "jaxlib", "flax", "optax", "numpy", "grain", "torch")

Figures = dict[str, float]
"""What one process measured."""
Results = dict[str, list[Figures]]
"""Variant -> figures of each round."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One contestant: arguments of the Python interpreter, and variables that it alone gets.

    The last line that its process prints is a JSON object of figures, or nothing at all.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """Median, least and largest of a figure of one variant over all rounds.

    And those of how many times better than the reference it was in the same round.
    """

    name: str
    median: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float


def run_interleaved(variants: Sequence[Variant], rounds: int) -> Results:
    """Run every variant once a round, each as a process of its own, in alternating order.

    Returns:
        Their figures, with `wall_seconds`, `cpu_seconds` and `peak_mb` of the processes.

    Raises:
        RuntimeError: if a process fails.
    """
    results: Results = {variant.name: [] for variant in variants}
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            figures = run_variant(variant)
            results[variant.name].append(figures)
            shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
            print(f"round {number + 1}/{rounds}  {variant.name}: {shown}", flush=True)
    return results


def run_variant(variant: Variant, timeout: float | None = None) -> Figures:
    """Run one variant once, for so many seconds at most; see `run_interleaved`."""
    # The allocator is the variant's own choice: fluxseg's launchers must not change it.
    environment = {SWITCH: "default", **os.environ, **variant.environment}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *variant.command],
            stdout=output,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        if timeout is not None:
            timer = threading.Timer(timeout, process.kill)
            timer.daemon = True
            timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        lines = output.read().decode().strip().splitlines()
        if process.returncode != 0:
            raise RuntimeError(f"{variant.name} failed:\n{errors.read().decode()[-4000:]}")
    figures: Figures = {}
    if lines and lines[-1].startswith("{"):
        figures = json.loads(lines[-1])
    return {
        **figures,
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
    }


def make_worker(
    name: str,
    benchmark: str,
    worker: str,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Variant:
    """Return the variant that runs a benchmark with `--worker` and other options."""
    texts = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    command = ("-m", f"experiments.benchmarks.{benchmark}", "--worker", worker, *texts)
    return Variant(name, command, environment or {})


def time_steps(step: Callable[[], Any], seconds: float) -> float:
    """Return the median duration of a step, after two that are not counted, in seconds."""
    for _ in range(2):
        step()
    durations: list[float] = []
    while sum(durations) < seconds or len(durations) < 2:
        began = time.perf_counter()
        step()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def rate_of(
    step: Callable[[], Any], seconds: float, wait: Callable[[Any], Any] = lambda result: result
) -> float:
    """Return how often a second a step is done, after three that are not counted.

    Args:
        step: what is measured.
        seconds: at least so long.
        wait: waits for the result of a step that only asks for the work.
    """
    for _ in range(3):
        wait(step())
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < seconds:
        last = step()
        count += 1
        # Not so many that what has been asked for but not done takes long.
        if count % 8 == 0:
            wait(last)
    wait(last)
    return count / (time.perf_counter() - began)


def summarise(
    results: Results, figure: str, reference: str, larger_is_better: bool = True
) -> list[Row]:
    """Compute medians, spreads, and ratios to a reference variant, round by round.

    Returns:
        A row for each variant; a ratio above 1 is better than the reference.
    """
    rows = []
    for name, rounds in results.items():
        values = [figures[figure] for figures in rounds]
        others = [figures[figure] for figures in results[reference]]
        pairs = zip(values, others, strict=True)
        ratios = [a / b if larger_is_better else b / a for a, b in pairs]
        spread = [f(part) for part in (values, ratios) for f in (statistics.median, min, max)]
        rows.append(Row(name, *spread))
    return rows


def compare(
    results: Results,
    title: str,
    figure: str,
    reference: str,
    unit: str,
    larger_is_better: bool = True,
) -> dict[str, list[Row]]:
    """Summarise a figure, print it as a table, and return it under its title; see `summarise`."""
    rows = summarise(results, figure, reference, larger_is_better)
    print_table(title, rows, unit)
    return {title: rows}


def print_table(title: str, rows: Sequence[Row], unit: str) -> None:
    """Print rows with the median, its spread, and the ratio with its spread."""
    table = Table(title=title)
    for heading in ("", f"median [{unit}]", "spread", "times the reference", "spread"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.median:.4g}",
            f"{row.low:.4g} to {row.high:.4g}",
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f} to {row.ratio_high:.2f}",
        )
    Console(width=110).print(table)


def write_results(
    path: Path,
    results: Results,
    summary: Mapping[str, Sequence[Row]] | None = None,
    note: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the record of a benchmark: figures, ratios, versions, machine, command."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a benchmark is run with python -m"
    record = {
        "command": "python -m " + " ".join([spec.name, *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "note": note,
        "machine": describe_machine(),
        "versions": {"python": platform.python_version(), **collect_versions(PACKAGES)},
        "summary": {
            title: [dataclasses.asdict(row) for row in rows]
            for title, rows in (summary or {}).items()
        },
        "rounds": results,
        **(more or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Record: {path}")


def describe_machine() -> dict[str, Any]:
    """Describe processor, cores, memory and system; no names."""
    model, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        fields = {name.strip(): value.strip() for name, _, value in pairs}
        model, flags = fields.get("model name", model), fields.get("flags", "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": model,
        "instructions": [name for name in wanted if name in flags.split()],
        "cores": cores,
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.system(),
    }


def collect_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def create_parser(
    module_doc: str | None, name: str, rounds: int, seconds: float = 0.0
) -> argparse.ArgumentParser:
    """Create the arguments that benchmarks have: `--rounds`, `--output`, `--worker`, `--seconds`.

    Rounds and seconds, of measuring in each process, are defaults; 0 seconds: no such option.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.benchmarks.{name}",
        description=module_doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    if seconds:
        parser.add_argument("--seconds", type=float, default=seconds, help="of measuring in each")
    return parser
