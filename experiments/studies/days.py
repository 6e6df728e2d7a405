"""Does a tool that follows cells over days find the right ones in what `fluxseg extract` writes?

What: three simulated sessions of each of three pieces of tissue (drift of some pixels, a small
    zoom, other noise, other activity), `fluxseg extract` on their movies with the network that
    ships, and Track2p on its three folders, in an environment of its own. A ROI is the cell that it
    overlaps most, if the IoU is above 0.4. A match over all sessions is right if its ROIs are one
    cell.
Result: 94 cells are shown in all sessions, and extract finds 66 of them in all. Track2p 0.6.2 makes
    70 matches over all sessions: 66 (94 %) are right, so that every cell found is followed.
Hardware: any; 75 s of processor time.
Command: python -m experiments.studies.days --track2p PYTHON
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fluxseg.simulation.activity import simulate_movie
from fluxseg.simulation.sessions import simulate_session

SESSIONS, LEAST_IOU = 3, 0.4
TRACK = """
import sys
import matplotlib
matplotlib.use("Agg")
from track2p.ops.default import DefaultTrackOps
from track2p.t2p import run_t2p
options = DefaultTrackOps()
options.save_path, *options.all_ds_path = sys.argv[1:]
options.iscell_thr = None
run_t2p(options)
"""
"""Arguments: a folder for the matches, and that of each session."""


def write_movies(folder: Path, seed: int, side: int, frames: int) -> list[dict[int, np.ndarray]]:
    """Write `day0.npy` and so on; return the mask `[H, W]` of each cell of each session."""
    truth = []
    for session in range(SESSIONS):
        field, _ = simulate_session((seed,), session, (side, side))
        activity = simulate_movie(np.random.default_rng((seed, session)), field, frames)
        np.save(folder / f"day{session}.npy", activity.movie)
        cells = zip(activity.cells.tolist(), activity.masks, strict=True)
        truth.append({cell: mask for cell, mask in cells if mask.any()})
    return truth


def name_rois(stat: np.ndarray, truth: dict[int, np.ndarray]) -> list[int | None]:
    """Return the cell that each ROI of `stat.npy` is, or None."""
    names: list[int | None] = []
    for roi in stat:
        inside = {cell: mask[roi["ypix"], roi["xpix"]].sum() for cell, mask in truth.items()}
        iou = {c: n / (len(roi["ypix"]) + truth[c].sum() - n) for c, n in inside.items()}
        best = max(iou, key=iou.__getitem__)
        names.append(best if iou[best] > LEAST_IOU else None)
    return names


def track(folder: Path, python: str, seed: int) -> dict[str, int]:
    """Simulate, extract and track in a folder.

    Returns:
        How many cells are `shown` in all sessions, how many of these are `found` in all of them,
        `matches` over all sessions, and how many of these are `right`.
    """
    truth = write_movies(folder, seed, side=256, frames=200)
    movies = [str(folder / f"day{session}.npy") for session in range(SESSIONS)]
    output = ["--output", str(folder / "traces"), "--rate", "10"]
    subprocess.run([sys.executable, "-m", "fluxseg", "extract", *movies, *output], check=True)
    days = [folder / "traces" / f"day{session}" for session in range(SESSIONS)]
    command = [python, "-W", "ignore", "-c", TRACK, str(folder), *map(str, days)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    names = []
    for day, cells in zip(days, truth, strict=True):
        stat = np.load(day / "suite2p" / "plane0" / "stat.npy", allow_pickle=True)
        names.append(name_rois(stat, cells))
    found = set.intersection(*map(set, names)) - {None}
    rows = np.load(folder / "track2p" / "plane0_suite2p_indices.npy", allow_pickle=True)
    matches = [
        {names[day][roi] for day, roi in enumerate(row)} for row in rows if None not in row.tolist()
    ]
    right = [cells for cells in matches if len(cells) == 1 and None not in cells]
    shown = set.intersection(*map(set, truth))
    return {
        "shown": len(shown), "found": len(found), "matches": len(matches), "right": len(right)
    }  # fmt: skip


def main() -> None:
    """Follow the cells of three pieces of tissue and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--track2p", required=True, help="Python of an environment with track2p")
    python = parser.parse_args().track2p
    for seed in (41, 42, 43):
        with tempfile.TemporaryDirectory() as folder:
            print(track(Path(folder), python, seed))


if __name__ == "__main__":
    main()
