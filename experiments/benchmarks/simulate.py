"""How many fields of 512 x 512 a second are simulated, against reading recordings from disk.

What: `fluxseg.simulation`: fields with their instance labels, drawn from all of the ranges, in one
    process and in one process per CPU core; recordings of the main job, with masks, in one process;
    and `np.load` of `.npy` files of recordings with about 240 masks, which are in the system's
    cache.
    Numerical libraries use one thread in each process.
Command: python -m experiments.benchmarks.simulate
Takes: 3 minutes.
"""

import argparse
import functools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.prepare import write_files

FILES, ROIS = 6, 240
READ = "np.load of recordings"
RECORDING = "recordings, one process"
ONE = "simulation, one process"
ALL = "simulation, a process per core"
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def simulate_labelled(number: int) -> float:
    """Simulate a field with its labels; return the processor's seconds."""
    from fluxseg.simulation.fields import simulate_field
    from fluxseg.simulation.labels import LabelRules, create_labels

    began = time.process_time()
    rng = np.random.default_rng(number)
    create_labels(simulate_field(rng), LabelRules(), rng)
    return time.process_time() - began


def simulate_session(number: int) -> float:
    """Simulate a recording of the main job; return the processor's seconds."""
    from fluxseg.config import SimulatorConfig
    from fluxseg.simulation.sessions import simulate_recording

    began = time.process_time()
    simulate_recording(SimulatorConfig(containers=number + 1, sessions=1), number)
    return time.process_time() - began


def read_one(folder: Path, number: int) -> float:
    """Read one of the recordings; return the processor's seconds."""
    began = time.process_time()
    np.load(sorted(folder.glob("*.npy"))[number % FILES], allow_pickle=True).item()
    return time.process_time() - began


def run_worker(worker: str, folder: Path, fields: int) -> dict[str, float]:
    """Do one variant's work; return `fields_per_second` and `cpu_ms` of a field."""
    work: Callable[[int], float] = simulate_labelled
    if worker in ("read", "recording"):
        work = functools.partial(read_one, folder) if worker == "read" else simulate_session
    if worker == "all":
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            pool.map(work, range(2 * (count or 1)), chunksize=1)
            began = time.perf_counter()
            used = pool.map(work, range(fields), chunksize=2)
            wall = time.perf_counter() - began
    else:
        work(0)
        began = time.perf_counter()
        used = [work(number) for number in range(fields)]
        wall = time.perf_counter() - began
    return {"fields_per_second": fields / wall, "cpu_ms": 1000 * sum(used) / fields}


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "simulate", 3)
    parser.add_argument("--fields", type=int, default=60, help="fields of each variant")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run_worker(arguments.worker, arguments.folder, arguments.fields)))
        return
    with tempfile.TemporaryDirectory() as folder:
        recordings = Path(folder) / "recordings"
        write_files(recordings, "uint8", FILES, 512, ROIS)
        options = {"folder": recordings, "fields": arguments.fields}
        workers = {READ: "read", RECORDING: "recording", ONE: "one", ALL: "all"}
        variants = [
            measure.make_worker(name, "simulate", worker, THREADS, **options)
            for name, worker in workers.items()
        ]
        results = measure.run_interleaved(variants, arguments.rounds)
    summary = measure.compare(results, "Fields", "fields_per_second", READ, "fields/s")
    summary |= measure.compare(results, "Processor time of a field", "cpu_ms", READ, "ms", False)
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
