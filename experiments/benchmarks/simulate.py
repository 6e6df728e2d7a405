"""How many fields of 512 x 512 a second are simulated.

What: `fluxseg.simulation`: fields with their instance labels, drawn from all of the ranges, in one
    process and in one process per CPU core; and recordings of the main job, with masks, in one
    process. Numerical libraries use one thread in each process.
Command: python -m experiments.benchmarks.simulate
Takes: 3 minutes.
"""

import json
import multiprocessing
import os
import time

import numpy as np

from experiments.benchmarks import measure

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


def run_worker(worker: str, fields: int) -> dict[str, float]:
    """Do one variant's work; return `fields_per_second` and `cpu_ms` of a field."""
    work = simulate_session if worker == "recording" else simulate_labelled
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
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run_worker(arguments.worker, arguments.fields)))
        return
    variants = [
        measure.make_worker(name, "simulate", worker, THREADS, fields=arguments.fields)
        for name, worker in {ONE: "one", RECORDING: "recording", ALL: "all"}.items()
    ]
    results = measure.run_interleaved(variants, arguments.rounds)
    summary = measure.compare(results, "Fields", "fields_per_second", ONE, "fields/s")
    summary |= measure.compare(results, "Processor time of a field", "cpu_ms", ONE, "ms", False)
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
