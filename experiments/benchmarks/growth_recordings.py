"""Cost against the number of recordings: check, audit, split, report.

What: `fluxseg check` of 1250 to 10,000 small files by one worker; the search for near-duplicates
    among as many fingerprints, of which one in ten shows the field of another; dividing as many
    recordings into splits and looking for pairs that straddle them; the report of a run with 172 to
    1376 scored recordings, and the size of its page. Each in a process of its own, without the time
    that it takes to start, with the exponent of a power law fitted to it.
Command: python -m experiments.benchmarks.growth_recordings
Takes: 4 minutes with two rounds, and 300 MB in the folder for temporary files.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import (
    FIGURES,
    Results,
    Variant,
    create_parser,
    print_json,
    run_interleaved,
    write_results,
)

COUNTS = (1250, 2500, 5000, 10_000)
REPORTED = (172, 344, 688, 1376)
SIZES = {"check": COUNTS, "audit": COUNTS, "split": COUNTS, "report": REPORTED}
LABELS = {
    "check": "fluxseg check, small files",
    "audit": "search for near-duplicates",
    "split": "split and its audit",
    "report": "report",
}


def write_files(folder: Path, count: int, size: int = 64) -> None:
    """Write small recordings of random texture, and folders of links to the first of them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    counts = [number for number in COUNTS if number <= count] or [count]
    for number in counts:
        (folder / str(number)).mkdir()
    for number in range(count):
        masks = np.zeros((2, size, size), np.uint8)
        masks[0, 8:20, 8:20] = masks[1, 30:40, 30:40] = 1
        values = {
            "id": f"recording-{number}",
            "metadata": {"experiment_container_id": number // 3},
            "max_projection": rng.integers(100, 1000, (size, size), np.uint16),
            "roi_ids": [0, 1],
            "roi_mask_array": masks,
        }
        path = folder / str(counts[-1]) / f"{number:06d}.npy"
        np.save(path, np.array(values, object), allow_pickle=True)
        for other in counts[:-1]:
            if number < other:
                os.link(path, folder / str(other) / path.name)


def time_check(folder: Path, count: int) -> dict[str, float]:
    """Check the folder of so many files."""
    from fluxseg.data.checks import check_source
    from fluxseg.formats.sources import FolderSource

    began = time.perf_counter()
    report = check_source(FolderSource(str(folder / str(count))), workers=1)
    seconds = time.perf_counter() - began
    assert len(report.rows) == count
    return {"seconds": seconds}


def time_audit(count: int) -> dict[str, float]:
    """Look for near-duplicates among so many fingerprints."""
    from fluxseg.data.duplicates import near_duplicates
    from fluxseg.data.fingerprint import SPECTRUM_SIZE, THUMBNAIL, Fingerprint

    rng = np.random.default_rng(0)

    def draw() -> Fingerprint:
        spectrum = rng.integers(-90, 91, SPECTRUM_SIZE, np.int8)
        return Fingerprint(spectrum, rng.integers(-90, 91, (THUMBNAIL, THUMBNAIL), np.int8))

    copies = count // 10
    marks = [draw() for _ in range(count - copies)]
    for original in marks[:copies]:
        noise = draw()
        mixed = {
            field.name: getattr(original, field.name) // 2 + getattr(noise, field.name) // 2
            for field in dataclasses.fields(Fingerprint)
        }
        marks.append(Fingerprint(**mixed))
    began = time.perf_counter()
    pairs = near_duplicates(marks)
    seconds = time.perf_counter() - began
    wanted = {(number, count - copies + number) for number in range(copies)}
    assert {(pair.first, pair.second) for pair in pairs} == wanted
    return {"seconds": seconds}


def time_split(count: int) -> dict[str, float]:
    """Divide so many recordings, and look for near-duplicates in different splits."""
    from fluxseg.data.splits import SplitItem, apply_manifest, create_manifest, straddling_pairs

    items = [SplitItem(f"{n:06d}.npy", f"group-{n // 3}", f"{n:032x}", 4) for n in range(count)]
    pairs = [(a.key, b.key, 0.5) for a, b in itertools.pairwise(items)]
    began = time.perf_counter()
    manifest = create_manifest(items)
    apply_manifest(manifest, items)
    straddling_pairs(manifest, pairs)
    return {"seconds": time.perf_counter() - began}


def time_report(count: int) -> dict[str, float]:
    """Write the report of a run with so many scored recordings, for the second time."""
    from fluxseg.report.html import write_report

    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), count)
        write_report(folder, versions={})
        began = time.perf_counter()
        page = write_report(folder, versions={})
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "page_mb": page.stat().st_size / 1e6}


def write_run(workdir: Path, count: int) -> None:
    """Write what a run leaves behind: config, data summary, scores of training, validation, test.

    Args:
        workdir: folder to write to.
        count: number of recordings, 70 % of them in training; a fifth has a remark.
    """
    from fluxseg.config import Config, config_to_dict
    from fluxseg.io.files import write_json

    rng = np.random.default_rng(0)
    numbers = {"train": count * 7 // 10, "val": count * 3 // 20}
    numbers["test"] = count - sum(numbers.values())
    first, splits = 0, {}
    for name, number in numbers.items():
        splits[name] = _create_scores(rng, first, number)
        first += number
    remark = "1.3% of the pixels are at the largest value, 4095"
    data = {
        "source": {"kind": "folder", "root": "recordings"},
        "n_files": count + 20,
        "n_used": count,
        "left_out": [{"key": f"{n}.npy", "reason": "is truncated"} for n in range(20)],
        "remarks": [{"key": f"{n:09d}.npy", "remark": remark} for n in range(0, count, 5)],
        "split_by": "group",
        "leaks": False,
        "splits": {
            name: {"recordings": n, "groups": n // 3, "crops": 4 * n, "neuron_share": 0.07}
            for name, n in numbers.items()
        },
    }
    write_json(workdir / "config.json", config_to_dict(Config()))
    write_json(workdir / "data.json", data)
    write_json(workdir / "scores.json", {"splits": splits})
    (workdir / "metrics.jsonl").write_text('{"epoch": 1, "step": 10, "train_loss": 0.5}\n')


def _create_scores(rng: np.random.Generator, first: int, count: int) -> dict[str, Any]:
    from fluxseg.report.workdir import SCORES

    values = rng.uniform(0.3, 0.9, (count, len(SCORES)))
    names = [name for name, _, _ in SCORES]
    confusion = [[240_000, 5_000], [6_000, 11_144]]
    means = dict(zip(names, values.mean(0).tolist(), strict=True))
    return {
        "loss": 0.22,
        "confusion": (np.array(confusion) * count).tolist(),
        "scores": means,
        "intervals": {name: [value - 0.03, value + 0.03] for name, value in means.items()},
        "confidence": 0.95,
        "n_groups": count // 3,
        "n_recordings": count,
        "recordings": [
            {
                "id": f"{first + number:09d}",
                "key": f"{first + number:09d}.npy",
                "group": f"experiment_container_id={number // 3}",
                "confusion": confusion,
                "scores": dict(zip(names, row.tolist(), strict=True)),
            }
            for number, row in enumerate(values)
        ],
    }


def collect_curves(results: Results) -> dict[str, Any]:
    """Compute the medians of each curve and the exponents fitted to them."""
    curves: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        curve: dict[str, Any] = {"sizes": list(sizes)}
        for figure in ("seconds", "peak_mb", "page_mb"):
            rounds = [results[f"{name}, {size}"] for size in sizes]
            if figure not in rounds[0][0]:
                continue
            curve[figure] = [statistics.median(row[figure] for row in rows) for rows in rounds]
            slope = np.polyfit(np.log(curve["sizes"]), np.log(curve[figure]), 1)[0]
            curve[f"exponent_{figure}"] = float(slope)
        # Between the two largest sizes, where what does not grow counts least.
        ratios = [np.log(values[-1] / values[-2]) for values in (curve["seconds"], curve["sizes"])]
        curve["last_exponent_seconds"] = float(ratios[0] / ratios[1])
        curves[name] = curve
    return curves


def draw_curves(path: Path, curves: dict[str, Any]) -> None:
    """Draw time and memory of each curve against the number of recordings, with the exponents."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 4), dpi=100, layout="constrained")
    for name, curve in curves.items():
        for axis, kind, marker in ((times, "seconds", "o-"), (memory, "peak_mb", "s--")):
            label = f"{LABELS[name]}: {curve[f'exponent_{kind}']:.2f}"
            axis.loglog(curve["sizes"], curve[kind], marker, label=label)
    for axis, title in ((times, "seconds"), (memory, "peak memory of the process, MB")):
        axis.set_xlabel("recordings")
        axis.set_ylabel(title)
        axis.legend(title="fitted exponent", fontsize="small")
        axis.grid(alpha=0.3)
    times.set_ylim(top=times.get_ylim()[1] * 20)
    memory.set_ylim(30, 5000)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def run_all(rounds: int, folder: Path) -> Results:
    """Run all sizes in turn, in a folder that is thrown away."""
    this = ("-m", "experiments.benchmarks.growth_recordings", "--folder", str(folder / "files"))
    # By another process: the peak memory of a process counts in its children, too.
    subprocess.run([sys.executable, *this, "--worker", "write"], check=True)
    variants = [
        Variant(f"{name}, {size}", (*this, "--worker", name, "--size", str(size)))
        for name, sizes in SIZES.items()
        for size in sizes
    ]
    return run_interleaved(variants, rounds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "growth_recordings", 2)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "write":
        write_files(arguments.folder, max(COUNTS))
    elif arguments.worker == "check":
        print_json(time_check(arguments.folder, arguments.size))
    elif arguments.worker:
        job = {"audit": time_audit, "split": time_split, "report": time_report}[arguments.worker]
        print_json(job(arguments.size))
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = run_all(arguments.rounds, Path(folder))
        curves = collect_curves(results)
        for name, curve in curves.items():
            print(name, {key: value for key, value in curve.items() if "exponent" in key})
        draw_curves(FIGURES / "growth_recordings.png", curves)
        write_results(arguments.output, results, more={"curves": curves})


if __name__ == "__main__":
    main()
