"""How fast traces are extracted, against reading the movie once and against Suite2p's extraction.

What: 300 ROIs with their neuropil in a movie of 512 x 512 px, uint16, in the system's cache, as
    TIFF (a page a frame) and as one array. Reading alone; reading and the sums as `fluxseg extract`
    makes them, masks included; the same sums by gathering pixels in JAX; and `extraction_wrapper`
    of Suite2p with the same ROIs on the array, on the CPU, if `--suite2p` names a Python that has
    it. Processes in turn: the clock's time, which gains from a second core that reads ahead, and
    the processor's, in which other load does not count.
Command: python -m experiments.benchmarks.extract --frames 4000 --suite2p PYTHON
Takes: 5 minutes.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import measure

SIDE, ROIS = 512, 300
SUITE2P = """
import runpy, sys, time
sys.meta_path.append(runpy.run_path("tests/traces/suite2p_reference.py")["_Absent"]())
import numpy as np, torch
from suite2p import default_settings, extraction
from suite2p.detection import roi_stats
labels, movie = np.load(sys.argv[1] + "/labels.npy"), np.load(sys.argv[1] + "/movie.npy", "r+")
stat = []
for number in range(1, labels.max() + 1):
    y, x = np.nonzero(labels == number)
    stat.append({"ypix": y, "xpix": x, "lam": np.ones(len(y), np.float32)})
stat = roi_stats(np.array(stat), *labels.shape, max_overlap=0.99)
began = time.process_time(), time.perf_counter()
extraction.extraction_wrapper(
    stat, movie, settings=default_settings()["extraction"], device=torch.device("cpu")
)
print(time.process_time() - began[0], time.perf_counter() - began[1])
"""
"""Arguments: a folder."""


def write_movie(folder: Path, frames: int) -> None:
    """Write a movie as TIFF and as an array, and the labels of its ROIs."""
    import tifffile

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.uint16)
    while labels.max() < ROIS:
        row, column, radius = *rng.uniform(6, SIDE - 6, 2), rng.uniform(5, 8)
        cell = (np.hypot(y - row, x - column) < radius) & (labels == 0)
        if cell.sum() > 60:
            labels[cell] = labels.max() + 1
    block = rng.poisson(100 + 200 * (labels > 0), (50, SIDE, SIDE)).astype(np.uint16)
    movie = np.lib.format.open_memmap(folder / "movie.npy", "w+", np.uint16, (frames, SIDE, SIDE))
    for start in range(0, frames, len(block)):
        movie[start : start + len(block)] = block[: frames - start]
    tifffile.imwrite(folder / "movie.tif", movie, photometric="minisblack")
    np.save(folder / "labels.npy", labels)


def gather(blocks: Iterable[np.ndarray], matrix: Any) -> Iterator[np.ndarray]:
    """Yield the sums of `fluxseg.traces.sums.sum_blocks`, made in JAX."""
    import jax
    import jax.numpy as jnp

    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))

    def add(frame: Any, weights: Any, pixels: Any, rows: Any) -> Any:
        values = frame.astype(jnp.float32)[pixels] * weights
        return jax.ops.segment_sum(values, rows, matrix.shape[0], indices_are_sorted=True)

    add_all = jax.jit(jax.vmap(add, (0, None, None, None)))
    arrays = [jnp.asarray(a) for a in (matrix.data, matrix.indices, rows)]
    for block in blocks:
        yield np.asarray(add_all(block.reshape(len(block), -1), *arrays))


def run_worker(worker: str, folder: Path, frames: int, suite2p: str) -> dict[str, float]:
    """Do one variant's work once; return `cpu_ms` and `wall_ms` of a frame."""
    if worker == "suite2p":
        command = [suite2p, "-W", "ignore", "-c", SUITE2P, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu, wall = (1000 * float(text) / frames for text in done.stdout.split()[-2:])
        return {"cpu_ms": cpu, "wall_ms": wall}
    from fluxseg.formats.movies import iterate_frames
    from fluxseg.traces.masks import create_footprints
    from fluxseg.traces.sums import create_matrix, sum_blocks

    kind, _, what = worker.partition("-")
    labels = np.load(folder / "labels.npy")
    began = time.process_time(), time.perf_counter()
    blocks = iterate_frames(folder / f"movie.{kind}")
    if what != "read":
        matrix = create_matrix(create_footprints(labels, labels.shape))
        blocks = (gather if what == "jax" else sum_blocks)(blocks, matrix)
    count = sum(len(part) for part in blocks)
    spent = time.process_time() - began[0], time.perf_counter() - began[1]
    return {"cpu_ms": 1000 * spent[0] / count, "wall_ms": 1000 * spent[1] / count}


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "extract", 5)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--suite2p", default="", help="Python of an environment with suite2p")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        chosen = (arguments.worker, arguments.folder, arguments.frames, arguments.suite2p)
        print(json.dumps(run_worker(*chosen)))
        return
    workers = {
        "TIFF, read": "tif-read", "TIFF, traces": "tif-traces", "array, read": "npy-read",
        "array, traces": "npy-traces", "array, traces in JAX": "npy-jax",
    }  # fmt: skip
    if arguments.suite2p:
        workers["array, Suite2p"] = "suite2p"
    with tempfile.TemporaryDirectory() as folder:
        write_movie(Path(folder), arguments.frames)
        options = {"folder": folder, "frames": arguments.frames, "suite2p": arguments.suite2p}
        variants = [
            measure.make_worker(name, "extract", worker, **options)
            for name, worker in workers.items()
        ]
        results = measure.run_interleaved(variants, arguments.rounds)
    summary: dict[str, list[measure.Row]] = {}
    for name in ("TIFF, read", "array, read", "array, Suite2p"):
        if name in results:
            for figure in ("wall_ms", "cpu_ms"):
                title = f"Against {name}, {figure}"
                summary |= measure.compare(results, title, figure, name, "ms/frame", False)
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
