"""Two pictures of simulated fields: what `fluxseg predict` finds, and what the simulator draws.

What: a field that the shipped network has never seen, predicted with default settings, beside the
    outlines that `fluxseg predict` draws (README); eight fields above the outlines of their labels,
    doubtful cells yellow (docs/simulator.md).
Hardware: any; half a minute.
Command: python -m experiments.studies.overlay
    It writes overlay.png and simulator.png to docs/figures.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from fluxseg.config import SimulatorConfig
from fluxseg.data.transforms import normalize_image
from fluxseg.inference.run_model import load_model
from fluxseg.inference.shown import draw_overlay
from fluxseg.simulation.fields import simulate_field
from fluxseg.simulation.labels import LabelRules, create_labels
from fluxseg.simulation.ranges import Range, Ranges
from fluxseg.simulation.sessions import simulate_recording

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
SEED = 20260101


def draw_found(path: Path) -> None:
    """Draw a field beside the same with the outlines of what is found in it."""
    image = simulate_recording(SimulatorConfig(size=420, seed=7), 0).image
    labels = load_model().segment(image).labels
    pictures = [draw_overlay(image, shown) for shown in (np.zeros_like(labels), labels)]
    Image.fromarray(np.hstack(pictures)).save(path)


def draw_fields(path: Path) -> None:
    """Draw eight fields with the outlines of their labels below, as a small PNG."""
    ranges, tiles = Ranges(um_per_px=Range(0.6, 1.3)), []
    for number in range(8):
        field = simulate_field(np.random.default_rng((SEED, 1000 + number)), ranges, (168, 168))
        labels = create_labels(field, LabelRules(), np.random.default_rng(number))
        grey = (np.clip(normalize_image(field.image), 0, 1) * 255).astype(np.uint8) & 0xF8
        above, below = np.stack([grey] * 3, -1), np.stack([grey] * 3, -1)
        below[find_boundaries(labels.ignore, mode="inner")] = (230, 160, 0)
        below[find_boundaries(labels.instances, mode="inner")] = (0, 200, 80)
        tiles.append(np.pad(np.concatenate([above, below]), ((2, 2), (2, 2), (0, 0))))
    rows = [np.concatenate(tiles[i : i + 4], 1) for i in (0, 4)]
    Image.fromarray(np.concatenate(rows)).quantize(48).save(path, optimize=True)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=Path, default=FIGURES)
    figures = parser.parse_args().figures
    figures.mkdir(parents=True, exist_ok=True)
    draw_found(figures / "overlay.png")
    draw_fields(figures / "simulator.png")


if __name__ == "__main__":
    main()
