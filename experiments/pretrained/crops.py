"""The simulated crops that the shipped network learns from.

What: crops are drawn once into a folder and seen again in other displays, turns, sharpness and
    noise; drawing one takes a fifth of a second, as long as the network's work on it.
Hardware: 2 CPU cores, about half an hour for 1,200 crops beside other work.
Command: python -m experiments.pretrained.crops --pool runs/crops --count 1600
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from fluxseg.data.transforms import normalize_image
from fluxseg.io.files import atomic_path
from fluxseg.simulation.display import draw_display
from fluxseg.simulation.kinds import AVERAGES, DENSE, FAINT, MESOSCOPE, MODERATE, RINGS
from fluxseg.simulation.labels import LabelRules, create_labels
from fluxseg.simulation.ranges import Range, Ranges
from fluxseg.simulation.source import ENDLESS, SimulatedFields

DIAMETERS_PX = Range(9.0, 22.0, log=True)
"""Median diameters of cell bodies in the crops."""
RULES = LabelRules(visible=(0.3, 0.7), least_section=(0.5, 0.7), fuller=0.3, wider=(-0.05, 0.0))
"""What is learnt as a cell: dim ones too if they are clear in their surroundings, but none of which
only the top or bottom shows; outlines about where people draw them."""
BORDER_WEIGHT = 4
"""Pixels where two cells touch count this often in the loss."""


def training_ranges() -> tuple[Ranges, ...]:
    """Return what crops are drawn from, in turn."""
    wide, dense, rings, faint, moderate, averages, mesoscope = (
        dataclasses.replace(part, diameter_px=DIAMETERS_PX)
        for part in (Ranges(), DENSE, RINGS, FAINT, MODERATE, AVERAGES, MESOSCOPE)
    )
    return (
        wide, dense, rings, faint, dense, rings, moderate, faint,
        dense, rings, faint, averages, dense, rings, faint, mesoscope,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Crops:
    """A Grain source of simulated crops, whose labels leave a gap where cells touch.

    Crop i is number i modulo `count` of the pool, in a display of its own.

    Attributes:
        seed: another seed gives other crops.
        pool: folder of the crops that have been drawn; missing ones are drawn.
        count: number of different crops.
        tile: side of a crop, px.
    """

    seed: int
    pool: Path
    count: int
    tile: int = 256

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        image, instances, ignore, diameter = self.read(int(item) % self.count)
        rng = np.random.default_rng((self.seed, int(item)))
        border = find_borders(instances)
        weight = np.where(border, BORDER_WEIGHT, ~ignore)
        return {
            "image": draw_display(rng, normalize_image(image, 1.0, 99.5), diameter),
            "label": ((instances > 0) & ~border).astype(np.uint8),
            "valid": weight.astype(np.uint8),
            "crop": np.array(item, np.int32),
        }

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return image, instances, doubtful pixels and the cells' diameter of a crop."""
        path = self.pool / f"{self.seed}_{self.tile}_{number:05d}.npz"
        if not path.exists():
            self._draw(number, path)
        with np.load(path) as content:
            return (
                content["image"], content["instances"], content["ignore"],
                float(content["diameter"]),
            )  # fmt: skip

    def _draw(self, number: int, path: Path) -> None:
        kinds = training_ranges()
        source = SimulatedFields(
            self.seed, self.tile, ranges=kinds[number % len(kinds)], rules=RULES
        )
        field, rng = source.simulate(number)
        labels = create_labels(field, RULES, rng)
        diameter = 2 * float(field.metadata["radius"]) / float(field.metadata["um_per_px"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                image=field.image,
                instances=labels.instances.astype(np.uint16),
                ignore=labels.ignore,
                diameter=diameter,
            )


def find_borders(instances: np.ndarray) -> np.ndarray:
    """Find the pixels of cells that have a pixel of another cell beside them.

    Args:
        instances: `[H, W]` int, 0 or the number of a cell.

    Returns:
        `[H, W]` bool.
    """
    border = np.zeros(instances.shape, bool)
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
    ):
        one, other = instances[first], instances[second]
        meet = (one != other) & (one > 0) & (other > 0)
        border[first] |= meet
        border[second] |= meet
    return border


def main() -> None:
    """Draw the crops beforehand; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    crops = Crops(arguments.seed, arguments.pool, arguments.count)
    for number in range(arguments.count):
        crops.read(number)


if __name__ == "__main__":
    main()
