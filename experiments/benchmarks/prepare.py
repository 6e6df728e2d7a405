"""Reading and preparing recordings, against what reading their files once takes at the least.

What: files in the form of the Allen data, 512 x 512 px and 250 ROIs, with masks of uint8, bool and
    float32. One process reads them with `np.load`, one prepares them (`fluxseg prepare` with one
    worker), one checks them (`fluxseg check`). Wall and processor time for each file, without the
    start of the process, and the peak memory of the process. The files are in the system's cache.
Command: python -m experiments.benchmarks.prepare
Takes: a minute, and 1.3 GB in the folder for temporary files.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.benchmarks import measure
from fluxseg.config import DataConfig, SimulatorConfig
from fluxseg.data.recording import Recording

ROIS = 250
KINDS = {"uint8": 8, "bool": 4, "float32": 2}
"""Type of the masks -> number of files, each of which take about half a gigabyte or less."""
LOAD, PREPARE, CHECK = "np.load", "fluxseg prepare", "fluxseg check"
WORKERS = {LOAD: "load", PREPARE: "prepare", CHECK: "check"}
FIGURES = {
    "seconds": ("Wall time for each file", "s"),
    "cpu": ("Processor time for each file", "s"),
    "peak_mb": ("Peak memory", "MB"),
}
PASSES = 5


def crowd(recording: Recording, count: int) -> Recording:
    """Give a simulated recording so many ROIs as Allen's have: its own, and shifted ones."""
    masks = recording.masks
    assert masks is not None
    assert len(masks)
    copies = [np.roll(masks, 17 * n, (1, 2)) for n in range(-(-count // len(masks)))]
    crowded = np.concatenate(copies)[:count]
    names = tuple(str(number) for number in range(count))
    return dataclasses.replace(recording, masks=crowded, roi_ids=names)


def write_files(folder: Path, kind: str, count: int, size: int = 512, rois: int = ROIS) -> None:
    """Write recordings of so many ROIs, with masks of a dtype, to a new folder."""
    from fluxseg.formats.allen import write_allen_npy
    from fluxseg.simulation.sessions import simulate_recording

    folder.mkdir(parents=True)
    config = SimulatorConfig(containers=count, sessions=1, size=size)
    for number in range(count):
        recording = crowd(simulate_recording(config, number), rois)
        path = folder / f"{recording.id}.npy"
        write_allen_npy(path, recording)
        if kind != "uint8":
            values = np.load(path, allow_pickle=True).item()
            values["roi_mask_array"] = values["roi_mask_array"].astype(kind)
            np.save(path, np.array(values, object), allow_pickle=True)


def load_files(folder: Path) -> None:
    """Read the files as numpy does, one at a time."""
    for path in sorted(folder.glob("*.npy")):
        np.load(path, allow_pickle=True).item()


def prepare_files(folder: Path) -> None:
    """Prepare the files in this process."""
    from fluxseg.data.prepare import prepare_cache
    from fluxseg.formats.sources import FolderSource

    with tempfile.TemporaryDirectory() as cache:
        prepare_cache(FolderSource(str(folder)), cache, DataConfig(workers=1))


def check_files(folder: Path) -> None:
    """Check the files in this process."""
    from fluxseg.data.checks import check_source
    from fluxseg.formats.sources import FolderSource

    check_source(FolderSource(str(folder)), workers=1)


JOBS: dict[str, Callable[[Path], None]] = {
    "load": load_files,
    "prepare": prepare_files,
    "check": check_files,
}


def time_job(name: str, folder: Path, passes: int = PASSES) -> dict[str, float]:
    """Return the median time of a job for each file, after one pass that is not counted."""
    count = len(list(folder.glob("*.npy")))
    JOBS[name](folder)
    wall, cpu = [], []
    for _ in range(passes):
        began, worked = time.perf_counter(), time.process_time()
        JOBS[name](folder)
        wall.append((time.perf_counter() - began) / count)
        cpu.append((time.process_time() - worked) / count)
    return {"seconds": statistics.median(wall), "cpu": statistics.median(cpu)}


def run_all(rounds: int, folder: Path) -> measure.Results:
    """Write the files of each type to a folder and run all variants on them."""
    variants = []
    for kind in KINDS:
        # By another process: the peak memory of a process counts in its children, too.
        measure.run_variant(measure.make_worker("", "prepare", "write", folder=folder / kind))
        variants += [
            measure.make_worker(f"{name}, {kind} masks", "prepare", worker, folder=folder / kind)
            for name, worker in WORKERS.items()
        ]
    return measure.run_interleaved(variants, rounds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "prepare", 3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "write":
        write_files(arguments.folder, arguments.folder.name, KINDS[arguments.folder.name])
        return
    if arguments.worker:
        print(json.dumps(time_job(arguments.worker, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = run_all(arguments.rounds, Path(folder))
    summary: dict[str, list[measure.Row]] = {}
    for kind in KINDS:
        chosen = {name: found for name, found in results.items() if name.endswith(f"{kind} masks")}
        for figure, (meaning, unit) in FIGURES.items():
            title, reference = f"{meaning}, {kind} masks", f"{LOAD}, {kind} masks"
            summary |= measure.compare(chosen, title, figure, reference, unit, False)
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
