"""Simulated recordings: sessions of the same tissue, with labels as an automatic pipeline makes.

A container is one field of view, imaged in several sessions, as in the Allen Brain Observatory:
the tissue stays; which cells fire, the noise, a small drift and the magnification do not.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.config import SimulatorConfig
from fluxseg.data.recording import Recording, group_of
from fluxseg.simulation.fields import Field, simulate_field
from fluxseg.simulation.grids import Shape
from fluxseg.simulation.labels import LabelRules, Labels, create_labels
from fluxseg.simulation.optics import Drift
from fluxseg.simulation.ranges import DEFAULT, FAMILIES, Range, Ranges, draw_parameters

VERSION = 4  # raised whenever the same seed gives other recordings, so that caches are made again
SHIFT_PX, MOST_SHIFT_PX = 4.0, 12.0
"""Standard deviation of a session's drift along each axis, and the most of it."""
ZOOM, MOST_ZOOM = 0.005, 0.015  # the same of its magnification, as a share

RECORDED = dataclasses.replace(
    DEFAULT,
    families=tuple(
        dataclasses.replace(
            FAMILIES[i], density=Range(8e4, 1.8e5, True), brightness=Range(0.4, 2.8, True)
        )
        for i in (0, 1, 2, 6)
    ),
    modes=(1.0, 0.0, 0.0),
    diameter_px=Range(13.0, 15.5),
    stretch=Range(0.97, 1.03, True),
    active=Range(0.6, 0.9),
    transient=Range(3.0, 6.0, True),
)
"""What recordings are drawn from: maximum projections with many cells of about 14 px."""

RULES = LabelRules(
    visible=(1.2, 1.2),
    least_section=(0.0, 0.5),
    active_only=True,
    missed=0.04,
    wider=(0.07, 0.06),
    moved=0.06,
    border_um=10.0,
)
"""Labels as an automatic pipeline makes them: active, visible cells away from the border, a few of
them missed, with outlines that are a little off."""


def margin_of(shape: Shape) -> int:
    """Return how far around a field tissue is drawn, px, so that no drift shows what is not."""
    return int(np.ceil(MOST_SHIFT_PX + max(shape) / 2 * (1 / (1 - MOST_ZOOM) - 1)))


def simulate_session(
    seed: Sequence[int],
    session: int,
    shape: Shape = (512, 512),
    ranges: Ranges | Mapping[str, Any] = RECORDED,
) -> tuple[Field, Labels]:
    """Image a piece of tissue once; all of its sessions have the same seed.

    The number of the session chooses which cells fire, the drift and all noise. `ranges` are what
    the parameters are drawn from, or the parameters themselves. Labels are made by `RULES`.
    """
    tissue, imaging = (
        np.random.default_rng(np.random.SeedSequence((*seed, part))) for part in (0, 1 + session)
    )
    values = draw_parameters(tissue, ranges) if isinstance(ranges, Ranges) else dict(ranges)
    values["photons"] *= np.exp(imaging.normal(0, 0.2))
    shift = np.clip(imaging.normal(0, SHIFT_PX, 2), -MOST_SHIFT_PX, MOST_SHIFT_PX)
    zoom = 1 + np.clip(imaging.normal(0, ZOOM), -MOST_ZOOM, MOST_ZOOM)
    drift = Drift((float(shift[0]), float(shift[1])), float(zoom), margin_of(shape))
    field = simulate_field(tissue, values, shape, drift=drift, imaging=imaging)
    return field, create_labels(field, RULES, imaging)


def simulate_recording(config: SimulatorConfig, index: int) -> Recording:
    """Simulate one recording; it depends on the config's seed and size and on its index alone.

    Args:
        config: seed, size, and how many sessions share a field of view.
        index: number of the recording; sessions of one container follow each other.

    Returns:
        The recording, with metadata like those of the Allen Brain Observatory.
    """
    container, session = divmod(index, config.sessions)
    field, labels = simulate_session((config.seed, container), session, (config.size, config.size))
    masks = labels.whole_masks()
    mouse = f"sim-{config.seed}-mouse-{container // 2:04d}"
    metadata: dict[str, Any] = {
        "experiment_container_id": f"sim-{config.seed}-{container:04d}",
        "specimen_name": mouse,
        "donor_name": mouse,
        "ophys_experiment_id": config.seed * 1_000_000 + index,
        "targeted_structure": ("VISp", "VISl", "VISal")[container % 3],
        "imaging_depth_um": (175, 275, 375)[container % 3],
        "cre_line": field.metadata["family"],
        "indicator": "simulated",
        "um_per_px": field.metadata["um_per_px"],
    }
    return Recording(
        id=_key(container, session),
        image=field.image,
        masks=masks,
        roi_ids=tuple(str(number) for number in range(len(masks))),
        group=group_of(metadata, ""),
        metadata=metadata,
    )


def _key(container: int, session: int) -> str:
    return f"sim-{container:04d}-{session}"


@dataclasses.dataclass(frozen=True)
class SimulatedSource:
    """Source (see `fluxseg.data.recording.Source`) of simulated recordings."""

    config: SimulatorConfig  # how many, and of which size

    def keys(self) -> list[str]:
        """Return the sorted names of all recordings."""
        return sorted(self._indices())

    def read(self, key: str) -> Recording:
        """Simulate one recording."""
        return simulate_recording(self.config, self._indices()[key])

    def stamp(self, key: str) -> str:
        """Return a text that differs whenever the recording may differ."""
        config = self.config
        return f"{VERSION}/{config.seed}/{config.size}/{config.sessions}/{key}"

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
        return {"kind": "simulator", "version": VERSION, **dataclasses.asdict(self.config)}

    def _indices(self) -> dict[str, int]:
        config = self.config
        return {
            _key(container, session): container * config.sessions + session
            for container in range(config.containers)
            for session in range(config.sessions)
        }
