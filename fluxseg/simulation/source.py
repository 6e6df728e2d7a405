"""A Grain source without a disk: crop number i is simulated when it is read."""

import dataclasses

import numpy as np

from fluxseg.data.transforms import normalize_image
from fluxseg.simulation.fields import Field, simulate_field
from fluxseg.simulation.labels import LabelRules, create_labels
from fluxseg.simulation.optics import Window
from fluxseg.simulation.ranges import Ranges

ENDLESS = 2**31 - 1  # length of a source without end: the last number of an int32


@dataclasses.dataclass(frozen=True)
class SimulatedFields:
    """Random access to simulated crops, which `fluxseg.data.pipeline.make_batches` takes.

    Crop i depends on the seed, the settings and i alone, whoever reads it and in which order. It
    is rendered directly: the rest of its field is never drawn.
    """

    seed: int = 0  # another seed gives other crops
    tile: int = 256  # height and width of a crop, px
    field: int = 512  # side of the field, px, in which crops lie on a grid, as recorded ones do
    ranges: Ranges = dataclasses.field(default_factory=Ranges)  # what the fields are drawn from
    rules: LabelRules = dataclasses.field(default_factory=LabelRules)  # how cells are labelled
    length: int = ENDLESS  # number of crops
    percentiles: tuple[float, float] = (1.0, 99.5)  # which become 0 and 1 (`normalize_image`)

    def __post_init__(self) -> None:
        if self.field % self.tile:
            raise ValueError(f"a field of {self.field} px has no grid of crops of {self.tile} px")
        if not 1 <= self.length <= ENDLESS:
            raise ValueError(f"length must be 1 to {ENDLESS}, got {self.length}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        """Simulate one crop.

        Returns image `[t, t]` float32, normalised; label `[t, t]` uint8, 1 is neuron; valid
        `[t, t]` uint8, 0 on doubtful cells; crop `[]` int32, the number.
        """
        field, rng = self.simulate(item)
        labels = create_labels(field, self.rules, rng)
        return {
            "image": normalize_image(field.image, *self.percentiles),
            "label": (labels.instances > 0).astype(np.uint8),
            "valid": (~labels.ignore).astype(np.uint8),
            "crop": np.array(item, np.int32),
        }

    def simulate(self, item: int) -> tuple[Field, np.random.Generator]:
        """Return a crop as a `Field`, and the generator that its labels' errors come from.

        Raises `IndexError` if there is no such crop.
        """
        item = int(item)
        if not 0 <= item < self.length:
            raise IndexError(f"crop {item} of {self.length}")
        tissue, errors = (
            np.random.default_rng(np.random.SeedSequence((self.seed, item, part)))
            for part in (0, 1)
        )
        parts = self.field // self.tile
        row, column = tissue.integers(0, parts, 2).tolist()
        window = Window(
            (self.tile, self.tile), (self.field, self.field), (row * self.tile, column * self.tile)
        )
        return simulate_field(tissue, self.ranges, window=window), errors
