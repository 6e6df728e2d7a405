"""Do traces follow the true activity?

What: simulated movies of known activity (spikes, decay, neuropil over the cells, shot noise, a
    drift of half a pixel), ROIs as drawn, cells with at least 40 pixels of their own; the median
    correlation of each trace with the truth. Beside it that of Suite2p's own extraction with the
    same ROIs, if `--suite2p` names a Python of an environment that has it.
Found: 74 cells: F 0.899, F - 0.7 Fneu 0.976, dF/F 0.971, spikes 0.990. Suite2p 1.1.0: F 0.899,
    F - 0.7 Fneu 0.976, spikes 0.990; it has no dF/F.
Hardware: any; a minute.
Command: python -m experiments.studies.traces --suite2p PYTHON
    It writes docs/figures/traces.png.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

from fluxseg import plot
from fluxseg.data.recording import draw_outlines
from fluxseg.report.plots import STYLE, save_png
from fluxseg.report.traces import most_active
from fluxseg.simulation.activity import Activity, simulate_movie
from fluxseg.simulation.sessions import simulate_session
from fluxseg.traces.extract import Traces, extract

PICTURE = Path(__file__).parents[2] / "docs" / "figures" / "traces.png"
RATE, TAU = 10.0, 1.0
SUITE2P = """
import runpy, sys
sys.meta_path.append(runpy.run_path("tests/traces/suite2p_reference.py")["_Absent"]())
import numpy as np, torch
from suite2p import default_settings, extraction
from suite2p.detection import roi_stats
case, cpu = np.load(sys.argv[1]), torch.device("cpu")
movie, rate, tau = case["movie"], float(case["rate"]), float(case["tau"])
places = [np.nonzero(mask) for mask in case["masks"]]
stat = [{"ypix": y, "xpix": x, "lam": np.ones(len(y), np.float32)} for y, x in places]
stat = roi_stats(np.array(stat), *movie.shape[1:], max_overlap=0.99)
settings = default_settings()["extraction"]
f, neuropil, *_ = extraction.extraction_wrapper(stat, movie, settings=settings, device=cpu)
corrected = f - 0.7 * neuropil
changes = extraction.preprocess(corrected, "maximin", 60.0, 10.0, rate, device=cpu)
np.savez(sys.argv[2], f, corrected, extraction.oasis(changes, 500, tau, rate))
"""
"""Arguments: the case, and where to write the traces."""


def measure(activity: Activity, traces: Traces, suite2p: str) -> dict[str, list[float]]:
    """Return the correlation of each kind of trace with the truth, cell by cell."""
    alone = activity.masks & (activity.masks.sum(0) == 1)
    cells = np.flatnonzero(alone.sum((1, 2)) >= 40)
    kinds = {
        "F": (traces.f, activity.change),
        "F - 0.7 Fneu": (traces.corrected, activity.change),
        "dF/F": (traces.dff, activity.change),
        "spikes": (traces.spikes, activity.spikes),
    }
    if suite2p:
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{folder}/case.npz", f"{folder}/traces.npz"]
            np.savez(files[0], movie=activity.movie, masks=activity.masks, rate=RATE, tau=TAU)
            command = [suite2p, "-W", "ignore", "-c", SUITE2P, *files]
            subprocess.run(command, check=True, capture_output=True)
            with np.load(files[1]) as found:
                f, corrected, spikes = found.values()
        kinds["F of Suite2p"] = f, activity.change
        kinds["F - 0.7 Fneu of Suite2p"] = corrected, activity.change
        kinds["spikes of Suite2p"] = spikes, activity.spikes
    return {
        name: [float(np.corrcoef(values[k], truth[k])[0, 1]) for k in cells]
        for name, (values, truth) in kinds.items()
    }


def draw(activity: Activity, traces: Traces) -> None:
    """Draw the field with its ROIs beside the most active traces."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        left.imshow(draw_outlines(activity.movie.max(0), activity.masks))
        left.set_axis_off()
        plot.traces(traces, most_active(traces)[:8], ax=right)
    save_png(figure, PICTURE)


def main() -> None:
    """Simulate, extract, compare and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite2p", default="", help="Python of an environment with suite2p")
    suite2p = parser.parse_args().suite2p
    found: dict[str, list[float]] = {}
    for number in range(4):
        field, _ = simulate_session((31, number), 0, (160, 160))
        rng = np.random.default_rng(number)
        activity = simulate_movie(rng, field, 600, RATE, tau=TAU, photons=10.0)
        traces = extract(activity.movie, activity.masks, rate=RATE, tau=TAU)
        for name, values in measure(activity, traces, suite2p).items():
            found.setdefault(name, []).extend(values)
        if number == 0:
            draw(activity, traces)
    print(f"{len(found['F'])} cells")
    for name, values in found.items():
        low = np.quantile(values, 0.1)
        print(f"{name:<23} median r {np.median(values):.3f}, a tenth below {low:.3f}")


if __name__ == "__main__":
    main()
