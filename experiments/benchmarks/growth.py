"""How cost grows with size: finding neurons with the area, `check` and `prepare` with recordings.

What: a simulated field, repeated to 512 to 4,096 px, whose neurons are found by the network that
    ships (its second call, at a known diameter); and simulated recordings of 128 px, 25 to 200 of
    them, that are checked and prepared in one process. Processor time, and the exponent of a power
    law fitted to it: 1 is proportional.
Command: python -m experiments.benchmarks.growth
Takes: 3 minutes.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fluxseg.config import DataConfig, SimulatorConfig
from fluxseg.data.checks import check_source
from fluxseg.data.prepare import prepare_cache
from fluxseg.formats.npz import write_npz
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.run_model import load_model
from fluxseg.simulation.sessions import simulate_recording

SIDES = (512, 1024, 2048, 4096)
COUNTS = (25, 50, 100, 200)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def time_fields() -> dict[float, float]:
    """Return the time to find the neurons of a field, by its area in megapixels."""
    model = load_model("pretrained")
    field = simulate_recording(SimulatorConfig(size=512), 0).image
    times = {}
    for side in SIDES:
        image = np.tile(field, (side // 512, side // 512))
        model.segment(image, diameter=model.diameter_px)
        segment = functools.partial(model.segment, image, diameter=model.diameter_px)
        times[side**2 / 1e6] = cpu_seconds(segment)
    return times


def time_recordings(folder: Path) -> tuple[dict[float, float], dict[float, float]]:
    """Return the times to check and to prepare recordings, by their number."""
    config = SimulatorConfig(containers=max(COUNTS), sessions=1, size=128)
    checked, prepared = {}, {}
    for number in range(max(COUNTS)):
        write_npz(folder / f"{number:04d}.npz", simulate_recording(config, number))
        if number + 1 in COUNTS:
            source = FolderSource(str(folder))
            cache, settings = str(folder.parent / f"cache{number}"), DataConfig(workers=1, tile=64)
            checked[number + 1.0] = cpu_seconds(functools.partial(check_source, source))
            prepared[number + 1.0] = cpu_seconds(
                functools.partial(prepare_cache, source, cache, settings)
            )
    return checked, prepared


def describe(title: str, times: Mapping[float, float]) -> str:
    """Return a row of the table, with the exponent of the power law that fits best."""
    slope = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
    cells = ", ".join(f"{size:.4g}: {seconds:.2f} s" for size, seconds in times.items())
    return f"| {title} | {cells} | {slope:.2f} |"


def main() -> None:
    """Measure and print; see the module's docstring."""
    print("| what | by size | exponent |\n|---|---|---|")
    print(describe("neurons of a field, megapixels", time_fields()), flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "recordings"
        folder.mkdir()
        checked, prepared = time_recordings(folder)
    print(describe("check, recordings", checked))
    print(describe("prepare, recordings", prepared))


if __name__ == "__main__":
    main()
