"""The picture at the top of README: what `fluxseg predict` finds in a simulated field.

What: one field of the simulator that the shipped network has never seen, predicted with default
    settings, with the outlines that `fluxseg predict` draws.
Hardware: any; half a minute.
Command: python -m experiments.studies.overlay
    It writes docs/figures/overlay.png.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fluxseg.config import SimulatorConfig
from fluxseg.inference.run_model import load_model
from fluxseg.inference.shown import draw_overlay
from fluxseg.simulation.sessions import simulate_recording

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "overlay.png"


def main() -> None:
    """Draw the image beside the same with outlines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=420, help="side of the field, px")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    chosen = parser.parse_args()
    config = SimulatorConfig(size=chosen.size, seed=chosen.seed)
    image = simulate_recording(config, 0).image
    rois = load_model().segment(image)
    nothing = np.zeros_like(rois.labels)
    picture = np.hstack([draw_overlay(image, labels) for labels in (nothing, rois.labels)])
    chosen.figure.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(chosen.figure)
    print(f"{len(rois)} neurons; {chosen.figure}")


if __name__ == "__main__":
    main()
