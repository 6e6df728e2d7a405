"""A soak: one process trains for hundreds of epochs, and is watched for anything that grows.

What: a tiny network takes 20,000 steps of 4 crops of 64 x 64 px through the main job, 40 steps an
    epoch, with validation, checkpoint and logs after each. Once a second the memory of the
    process, its threads and open files, and the sizes of checkpoints and logs are noted; after
    each epoch also the functions that JAX has traced and compiled, its live arrays, and the
    blocks of memory that Python holds. Then checkpoints alone are saved, without steps: what each
    leaves in memory is told apart from what the steps do. Memory must be flat after the first
    fifth but for that of the checkpoints, which has a limit of its own, nothing may be traced
    after the first epoch, and the rest must not grow; else the exit code is 1.
    The workdir is that of a run: the same command goes on with it after an interruption.
Hardware: Linux; about 7 minutes on two CPU cores.
Command: python -m experiments.studies.soak --workdir DIR
    (experiments/studies/soak.py; writes experiments/benchmarks/results/soak.json and
    docs/figures/soak.png)
"""

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import FIGURES, RESULTS, write_results
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config, DataConfig, ModelConfig, SimulatorConfig, TrainConfig
from fluxseg.console import configure_logging, create_console
from fluxseg.launch import tune_allocator

STEPS_PER_EPOCH = 40
WARM_UP = 0.2
"""Share of a session's steps before memory is judged."""
BLOCKS = 20
"""Neighbouring samples are alike: the slope is fitted to the medians of so many stretches."""
MOST_MB = 1.0
"""Growth of the memory by steps that is called flat, MB per 1000 steps: twice what 20,000 steps can
tell from nothing."""
MOST_CHECKPOINT_MB = 0.1
"""Growth of the memory that is allowed for a checkpoint: tensorstore keeps the strings in which
Orbax asks it about each array. A thousand checkpoints are so allowed 100 MB."""
CHECKPOINTS = 300
"""Checkpoints that are saved without steps, or as many as the run had epochs, if they are less."""
MOST_BLOCKS = 100
"""Growth of Python's blocks that is allowed each epoch: its row of the history takes 25."""
TRACED = "/jax/core/compile/jaxpr_trace_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"
LOGS = ("metrics.jsonl", "metrics.csv", "tensorboard")

Sample = dict[str, Any]
"""What was seen at one moment; `kind` is "second" or "epoch"."""


def create_config(steps: int) -> Config:
    """Create the settings of a run of about so many steps: 160 training crops, 40 steps an epoch.

    Args:
        steps: steps in all; rounded up to whole epochs.
    """
    return Config(
        data=DataConfig(tile=64, split_seed=1),
        simulator=SimulatorConfig(containers=14, sessions=1, size=256),
        model=ModelConfig(features=(4, 8), convs=1, stem=1),
        train=TrainConfig(epochs=-(-steps // STEPS_PER_EPOCH), batch_size=4),
    )


class Watch:
    """Notes what a run does to its process and to its folder, while the block runs.

    Args:
        workdir: folder of the run.
        path: samples are appended to this file, one JSON object a line.
        seconds: time between two samples.
    """

    def __init__(self, workdir: Path, path: Path, seconds: float = 1.0):
        self._workdir, self._path, self._seconds = workdir, path, seconds
        self._session = 1 + max((row["session"] for row in read_samples(path)), default=-1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_regularly, name="soak", daemon=True)
        self._writing = threading.Lock()
        self._began = time.monotonic()
        self.step = 0
        self.traces = 0
        self.compilations = 0

    def __enter__(self) -> "Watch":
        import jax

        self._path.parent.mkdir(parents=True, exist_ok=True)
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import jax

        self._ended.set()
        self._thread.join()
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def on_step(self, step: int, _total: int) -> None:
        """Note a step; to be called by the run."""
        self.step = step

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Note the end of an epoch; to be called by the run."""
        self._write({"kind": "epoch", "epoch": row["epoch"], **count_objects()})

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.traces += event == TRACED
        self.compilations += event == COMPILED

    def _sample_regularly(self) -> None:
        while not self._ended.wait(self._seconds):
            self._write({"kind": "second"})

    def _write(self, more: Sample) -> None:
        sample = {
            **more,
            "session": self._session,
            "seconds": round(time.monotonic() - self._began, 3),
            "step": self.step,
            "traces": self.traces,
            "compilations": self.compilations,
            **measure_process(),
            **measure_folder(self._workdir),
        }
        # Opened anew each time: a file that stays open would be one of those that are counted.
        with self._writing, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample) + "\n")


def measure_process() -> Sample:
    """Measure this process: memory in MB, threads, and open files."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return {
        # Pages of files, such as the libraries' code, come and go as the system likes.
        "memory_mb": round((resident - shared) * page, 3),
        "files_mb": round(shared * page, 3),
        "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
        # The listing itself takes one.
        "handles": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
    }


def count_objects() -> Sample:
    """Count what the run holds: live arrays of JAX and their bytes, and blocks of Python's."""
    import jax

    # What waits in cycles is no leak.
    gc.collect()
    arrays = jax.live_arrays()
    return {
        "live_arrays": len(arrays),
        "live_array_bytes": sum(array.nbytes for array in arrays),
        "blocks": sys.getallocatedblocks(),
    }


def measure_folder(workdir: Path) -> Sample:
    """Measure a run's folder: bytes and number of files of the checkpoints and of each log."""
    sizes: Sample = {}
    for name in ("checkpoints", *LOGS):
        sizes[f"{name}_bytes"], sizes[f"{name}_files"] = measure_size(workdir / name)
    return sizes


def measure_size(path: Path) -> tuple[int, int]:
    """Return the bytes and the number of files below a path, while others write there."""
    if path.is_file():
        return path.stat().st_size, 1
    size = count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(folder) / name).stat().st_size
                count += 1
    return size, count


def read_samples(path: Path) -> list[Sample]:
    """Read the samples of all sessions; a last line that is not whole is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def fit_slope(steps: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Fit a line that single outliers do not move.

    Theil-Sen: the median of the slopes between all pairs of stretches' medians, with the interval
    of Sen (1968), "Estimates of the regression coefficient based on Kendall's tau".

    Args:
        steps: `[N]`, ascending.
        values: `[N]`.

    Returns:
        Slope per 1000 steps, and both ends of its 95 % interval.
    """
    from scipy.stats import theilslopes

    parts = np.array_split(np.arange(len(steps)), min(BLOCKS, len(steps)))
    x = [np.median(steps[part]) / 1000 for part in parts]
    y = [np.median(values[part]) for part in parts]
    slope, _, low, high = theilslopes(y, x, 0.95)
    return float(slope), float(low), float(high)


def measure_checkpoints(config: Config, count: int) -> dict[str, float]:
    """Save checkpoints one after the other, without steps, and measure what each leaves behind.

    Args:
        config: settings of the run whose state is saved.
        count: how many, after the first five, which fill what is kept.

    Returns:
        MB of memory, with both ends of its 95 % interval, and blocks of Python's, for each.
    """
    from fluxseg.training.checkpoints import open_checkpoints, save_checkpoint
    from fluxseg.training.state import create_train_state

    state = create_train_state(config, np.ones(2, np.float32), count)
    memory, blocks = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = open_checkpoints(Path(folder))
        for step in range(1, count + 6):
            save_checkpoint(checkpoints.last, state.replace(step=np.int32(step)), {})
            checkpoints.wait()
            gc.collect()
            memory.append(measure_process()["memory_mb"])
            blocks.append(sys.getallocatedblocks())
        checkpoints.close()
    slopes = fit_slope(np.arange(count), np.array(memory[5:]))
    names = ("memory_mb_per_checkpoint", "memory_mb_per_checkpoint_low")
    figures = dict(zip((*names, "memory_mb_per_checkpoint_high"), slopes, strict=True))
    # The fit is for a thousand.
    figures = {name: slope / 1000 for name, slope in figures.items()}
    per_checkpoint = fit_slope(np.arange(count), np.array(blocks[5:]))[0] / 1000
    return {**figures, "blocks_per_checkpoint": per_checkpoint}


def summarise(
    samples: Sequence[Sample], checkpoints: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Compute the figures of the longest session.

    Args:
        samples: of all sessions; at least one of them must have ended two epochs.
        checkpoints: from `measure_checkpoints`; by default they leave nothing behind.

    Returns:
        Figures by name; "_last" is at the end of the last epoch, "_growth" the difference
        between that and the end of the warm-up.
    """
    session = longest_session(samples)
    epochs = [row for row in session if row["kind"] == "epoch"]
    warm = find_warm(session)
    seconds = [row for row in warm if row["kind"] == "second"]
    steps = np.array([row["step"] for row in seconds], float)
    slope, low, high = fit_slope(steps, np.array([row["memory_mb"] for row in seconds]))
    first, last = epochs[0], epochs[-1]
    warmed = next(row for row in warm if row["kind"] == "epoch")
    half = len(seconds) // 2
    figures: dict[str, float] = {
        "sessions": 1 + max(row["session"] for row in samples),
        "steps": last["step"] - first["step"] + first["step"] // first["epoch"],
        "epochs": len(epochs),
        "minutes": (last["seconds"] - epochs[0]["seconds"]) / 60,
        "memory_mb_warm": warmed["memory_mb"],
        "memory_mb_last": last["memory_mb"],
        "memory_slope": slope,
        "memory_slope_low": low,
        "memory_slope_high": high,
        "traces_first_epoch": first["traces"],
        "traces_later": last["traces"] - first["traces"],
        "compilations_first_epoch": first["compilations"],
        "compilations_later": last["compilations"] - first["compilations"],
    }
    left = checkpoints or dict.fromkeys(("memory_mb_per_checkpoint", "blocks_per_checkpoint"), 0.0)
    figures |= left
    # One is saved at the end of each epoch.
    share = left["memory_mb_per_checkpoint"] * 1000 * len(epochs) / figures["steps"]
    for end in ("", "_low", "_high"):
        figures[f"memory_slope_of_steps{end}"] = figures[f"memory_slope{end}"] - share
    for name in ("threads", "handles"):
        figures[f"{name}_median"] = float(np.median([row[name] for row in seconds]))
        figures[f"{name}_most_earlier"] = max(row[name] for row in seconds[:half])
        figures[f"{name}_most_later"] = max(row[name] for row in seconds[half:])
    for name in ("live_arrays", "live_array_bytes", "blocks"):
        figures[f"{name}_last"] = last[name]
        figures[f"{name}_growth"] = last[name] - warmed[name]
    figures["blocks_per_epoch"] = figures["blocks_growth"] / max(last["epoch"] - warmed["epoch"], 1)
    for name in ("checkpoints_bytes", "checkpoints_files"):
        figures[f"{name}_most_earlier"] = max(row[name] for row in seconds[:half])
        figures[f"{name}_most_later"] = max(row[name] for row in seconds[half:])
    for name in LOGS:
        figures[f"{name}_bytes_last"] = last[f"{name}_bytes"]
        figures[f"{name}_bytes_per_epoch"] = (last[f"{name}_bytes"] - first[f"{name}_bytes"]) / max(
            len(epochs) - 1, 1
        )
    return figures


def longest_session(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of the session with the most epochs, up to its last."""
    epochs = [row["session"] for row in samples if row["kind"] == "epoch"]
    if not epochs:
        raise SystemExit("no epoch has ended yet: run this again")
    chosen = max(set(epochs), key=epochs.count)
    session = [row for row in samples if row["session"] == chosen]
    ends = [number for number, row in enumerate(session) if row["kind"] == "epoch"]
    return session[: ends[-1] + 1]


def find_warm(session: Sequence[Sample]) -> list[Sample]:
    """Return the samples of a session after its warm-up."""
    ends = [row["step"] for row in session if row["kind"] == "epoch"]
    bound = ends[0] + WARM_UP * (ends[-1] - ends[0])
    return [row for row in session if row["step"] >= bound]


def judge(figures: dict[str, float]) -> list[str]:
    """List what grows and must not; an empty list is a pass."""
    failures = []
    slope = figures["memory_slope_of_steps"]
    if figures["memory_slope_of_steps_low"] > 0 and slope > MOST_MB:
        failures.append(f"memory grows by {slope:.3f} MB per 1000 steps, checkpoints aside")
    each = figures["memory_mb_per_checkpoint"]
    if each > MOST_CHECKPOINT_MB:
        failures.append(f"memory grows by {each:.3f} MB at each checkpoint")
    blocks = figures["blocks_per_epoch"] - figures["blocks_per_checkpoint"]
    if blocks > MOST_BLOCKS:
        text = f"memory: {blocks:.0f} more blocks of Python's after each epoch, checkpoints aside"
        failures.append(text)
    for name in ("traces", "compilations"):
        if figures[f"{name}_later"]:
            failures.append(f"{figures[f'{name}_later']:.0f} {name} after the first epoch")
    for name in ("threads", "handles", "checkpoints_bytes", "checkpoints_files"):
        before, after = figures[f"{name}_most_earlier"], figures[f"{name}_most_later"]
        # Each checkpoint holds the history: two last ones, the best, and one being written.
        history = 4 * figures["metrics.jsonl_bytes_last"] if name == "checkpoints_bytes" else 0
        if after > 1.25 * before + history:
            failures.append(f"{name}: at most {before:.0f} at first, later {after:.0f}")
    if figures["live_arrays_growth"] > 0:
        failures.append(f"{figures['live_arrays_growth']:.0f} more live arrays than at first")
    return failures


def print_figures(figures: dict[str, float]) -> None:
    """Print the figures as a table."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value:,.4g}" if value < 1e4 else f"{name:{width}}  {value:,.0f}")


def draw_soak(path: Path, samples: Sequence[Sample], figures: dict[str, float]) -> None:
    """Draw the memory of the longest session with its slope, and its threads and open files."""
    import matplotlib.pyplot as plt

    rows = [row for row in longest_session(samples) if row["kind"] == "second"]
    warm = [row for row in find_warm(longest_session(samples)) if row["kind"] == "second"]
    steps = [row["step"] for row in rows]
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9, 5.5), dpi=100, layout="constrained", sharex=True, height_ratios=(2, 1)
    )
    upper.plot(steps, [row["memory_mb"] for row in rows], linewidth=1, label="once a second")
    x = np.array([warm[0]["step"], warm[-1]["step"]])
    middle = float(np.median([row["memory_mb"] for row in warm]))
    slope, low, high = (figures[f"memory_slope{end}"] for end in ("", "_low", "_high"))
    upper.plot(
        x,
        middle + slope * (x - x.mean()) / 1000,
        "C1--",
        label=f"{slope:+.3f} MB per 1000 steps, 95 % interval [{low:+.3f}, {high:+.3f}]",
    )
    upper.axvspan(0, float(x[0]), color="0.92", label="warm-up")
    upper.set_ylim(0, 1.25 * max(row["memory_mb"] for row in rows))
    upper.set_ylabel("memory of the process, MB")
    upper.legend(loc="lower right")
    for name, label in (("threads", "threads"), ("handles", "open files")):
        lower.plot(steps, [row[name] for row in rows], linewidth=1, label=label)
    lower.set_ylim(0)
    lower.set_xlabel("training steps")
    lower.set_ylabel("number")
    lower.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def run_soak(config: Config, workdir: Path, path: Path, seconds: float = 1.0) -> list[Sample]:
    """Run the main job, or go on with it, and watch it.

    Args:
        config: settings of the run.
        workdir: its folder.
        path: file of the samples; they are added to those of the sessions before.
        seconds: time between two samples.

    Returns:
        The samples of all sessions.
    """
    from fluxseg.training.loop import Callbacks, train_and_evaluate

    with Watch(workdir, path, seconds) as watch:
        callbacks = Callbacks(on_step=watch.on_step, on_epoch=watch.on_epoch)
        train_and_evaluate(config, workdir, callbacks)
    return read_samples(path)


def main() -> int:
    """Run the soak, judge it, and write its record and picture; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="time between two samples")
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    parser.add_argument("--figure", type=Path, default=FIGURES / "soak.png")
    arguments = parser.parse_args()
    configure_logging(create_console())
    enable_compilation_cache()
    path = arguments.workdir / "soak.jsonl"
    config = create_config(arguments.steps)
    samples = run_soak(config, arguments.workdir, path, arguments.seconds)
    epochs = sum(row["kind"] == "epoch" for row in longest_session(samples))
    figures = summarise(samples, measure_checkpoints(config, min(CHECKPOINTS, epochs)))
    failures = judge(figures)
    print_figures(figures)
    draw_soak(arguments.figure, samples, figures)
    curve = [
        {name: row[name] for name in ("step", "memory_mb", "threads", "handles")}
        for row in longest_session(samples)
        if row["kind"] == "second"
    ]
    thinned = curve[:: max(1, len(curve) // 200)]
    command = f"python -m experiments.studies.soak --workdir DIR --steps {arguments.steps}"
    more = {"command": command, "failures": failures, "curve": thinned}
    write_results(arguments.output, {"soak": [figures]}, more=more)
    print(
        f"Of steps: {figures['memory_slope_of_steps']:+.2f} MB per 1000; "
        f"of checkpoints: {figures['memory_mb_per_checkpoint']:+.3f} MB each."
    )
    print("\n".join(f"FAILED: {failure}" for failure in failures) or "Nothing grows.")
    return 1 if failures else 0


if __name__ == "__main__":
    tune_allocator()
    sys.exit(main())
