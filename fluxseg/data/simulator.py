"""Simulated recordings: sessions of a field of view as a microscope and Allen's labels show it."""

import dataclasses
from typing import Any

import numpy as np

from fluxseg.config import SimulatorConfig
from fluxseg.data.augment import blur_image
from fluxseg.data.background import add_patches, overlap
from fluxseg.data.recording import Recording, group_of
from fluxseg.data.tissue import SOFT, Field, draw_cells, simulate_field, soft_step

SIMULATOR_VERSION = 2
"""Raised whenever the same seed gives other recordings, so that caches are made again."""
UM_PER_PX = 0.785
ACTIVE = (0.6, 0.9)
"""Range of the share of cells that fire during a session."""
SHIFT_UM = 4.0
"""Standard deviation of a session's shift along each axis; never more than three of them."""
MOTION_BORDER_UM = 6.0
"""Cells whose outline comes closer than this to the border are not labelled."""
STREAKS_PX = 5
"""Most rows or columns at a border that motion correction fills with their neighbours."""
VISIBLE = 0.2
"""Least contrast of a cell's mean against the background at which it is labelled."""
DISPLACED = 0.2
"""Share of the background's light that is missing where a cell body is."""
MISSED = 0.04
"""Share of such cells that are not labelled all the same."""
FRAMES = 10_000
"""Frames whose maximum the projection is."""
PHOTONS = (1.0, 40.0)
"""Range of the photons of the background in a pixel of a frame, log-uniform."""
TAIL = (0.02, 0.22)
"""Range of the shape of the extreme-value distribution; real projections of shot noise have 0.2."""


def simulate_session(field: Field, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image a field of view once: other cells are active, other noise, a small shift.

    The labels are what an automatic pipeline keeps: active, visible cells away from the border,
    with outlines that are a little off.

    Args:
        field: the tissue.
        rng: source of all randomness.

    Returns:
        image `[H, W]` uint16 in detector units, and masks `[N, H, W]` bool.
    """
    most = 3 * SHIFT_UM
    shift = np.clip(rng.normal(0, SHIFT_UM, 2), -most, most) / field.um_per_px
    count = len(field.cells.centre)
    active = rng.random(count) < rng.uniform(*ACTIVE)
    # A transient multiplies the resting light; silent cells stay as dim as they are at rest.
    peak = np.where(active, rng.gamma(2.2, 0.5, count) + 0.3, 0.14 * rng.random(count))
    strength = (field.cells.brightness * peak).astype(np.float32)
    corner, light, body = draw_cells(field.cells, shift)
    around = _shifted(field.neuropil + field.blobs, shift)
    mean = strength * (light * body).sum((1, 2)) / body.sum((1, 2))
    seen = mean > (VISIBLE + DISPLACED) * _at_centres(around, corner, light.shape[1])
    labelled = active & seen & (rng.random(count) >= MISSED)
    bodies = np.zeros_like(around)
    add_patches(bodies, corner, body)
    signal = around * (1 - np.float32(DISPLACED) * np.minimum(bodies, 1))
    add_patches(signal, corner, strength[:, None, None] * light)
    signal += _shifted(field.fibres, shift) * np.float32(rng.uniform(0.3, 0.9))
    signal = blur_image(signal, rng.uniform(0.6, 1.0))
    signal *= _shifted(field.vessels, shift) * field.illumination
    return detect(signal, rng), _draw_labels(corner, body, labelled, field, rng)


def _shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    # What comes into view at a border mirrors what is there.
    last = len(image) - 1
    row, column = (np.abs(np.arange(last + 1) - round(by)) for by in shift.tolist())
    row, column = (last - np.abs(last - index) for index in (row, column))
    return image[row][:, column]


def _at_centres(image: np.ndarray, corner: np.ndarray, patch: int) -> np.ndarray:
    row, column = np.clip(corner + patch // 2, 0, len(image) - 1).T
    return image[row, column]


def detect(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn light into the maximum over a movie of detector counts.

    Instead of drawing every frame, the noise is drawn from the generalised extreme-value
    distribution, with the bias of a maximum towards bright values included. A shape of 0 is the
    Gumbel distribution, the limit for Gaussian noise; photomultipliers have heavier tails.

    Args:
        signal: `[H, W]` float32, light, of which the background has about 1.
        rng: source of all randomness.

    Returns:
        `[H, W]` uint16, with an offset, a few saturated pixels, and streaks at the borders.
    """
    photons = np.float32(np.exp(rng.uniform(*np.log(PHOTONS))))
    spread = np.sqrt(signal * photons + np.float32(rng.uniform(0.5, 4)))
    # The maximum of n Gaussian values lies here, and varies by one over this.
    location = np.float32(np.sqrt(2 * np.log(FRAMES)))
    shape = np.float32(rng.uniform(*TAIL))
    exponential = np.maximum(rng.standard_exponential(signal.shape, np.float32), 1e-7)
    extreme = (exponential**-shape - 1) / shape
    # Averaging over a few frames before the maximum is taken narrows the noise.
    binned = np.float32(1 / np.sqrt(rng.uniform(1, 6)))
    counts = signal * photons + binned * spread * (location + extreme / location)
    # Motion correction by fractions of a pixel interpolates, by whole pixels it does not.
    counts = blur_image(counts, max(0.0, rng.uniform(-0.4, 0.6)))
    lines = rng.normal(0, 0.004, (len(signal), 1)).astype(np.float32)
    digital = rng.uniform(20, 300) + rng.uniform(8, 60) * counts * (1 + lines)
    top, bottom, left, right = rng.integers(0, STREAKS_PX + 1, 4).tolist()
    height, width = digital.shape
    valid = digital[top : height - bottom, left : width - right]
    digital = np.pad(valid, ((top, bottom), (left, right)), mode="edge")
    limit = np.quantile(digital, 1 - 10 ** rng.uniform(-5, -2.7))
    return np.clip(np.rint(digital), 0, min(65535, limit)).astype(np.uint16)


def _draw_labels(
    corner: np.ndarray,
    body: np.ndarray,
    labelled: np.ndarray,
    field: Field,
    rng: np.random.Generator,
) -> np.ndarray:
    corner, body = corner[labelled], body[labelled]
    size, (count, patch, _) = field.size, body.shape
    # An outline is too wide or too narrow, and off to a side, by parts of the radius.
    error = rng.normal((0.07, 0, 0), 0.06, (count, 3)).astype(np.float32)
    wider, down, across = error.T[..., None, None]
    steps = np.linspace(-1.45, 1.45, patch, dtype=np.float32)
    inside = body > soft_step((wider + down * steps[:, None] + across * steps) / -SOFT)
    # First and last rows, then columns, of each outline.
    lines = np.stack([inside.any(2), inside.any(1)], 1)
    low = (corner + lines.argmax(2)).min(1)
    high = (corner + patch - 1 - lines[:, :, ::-1].argmax(2)).max(1)
    border = MOTION_BORDER_UM / field.um_per_px
    kept = np.flatnonzero((low >= border) & (high < size - border))
    masks = np.zeros((len(kept), size, size), bool)
    for mask, number in zip(masks, kept, strict=True):
        row, column = corner[number].tolist()
        target, part = overlap((size, size), row, column, (patch, patch))
        mask[target] = inside[number][part]
    return masks


def simulate_recording(config: SimulatorConfig, index: int) -> Recording:
    """Simulate one recording; it depends on the config's seed and size and on its index alone.

    Args:
        config: seed, size, and how many sessions share a field of view.
        index: number of the recording; sessions of one container follow each other.

    Returns:
        The recording, with metadata like those of the Allen Brain Observatory.
    """
    container, session = divmod(index, config.sessions)
    tissue, imaging = (
        np.random.default_rng(np.random.SeedSequence((config.seed, container, part)))
        for part in (0, 1 + session)
    )
    image, masks = simulate_session(simulate_field(tissue, config.size, UM_PER_PX), imaging)
    metadata: dict[str, Any] = {
        "experiment_container_id": f"sim-{config.seed}-{container:04d}",
        "specimen_name": f"sim-{config.seed}-mouse-{container // 2:04d}",
        "donor_name": f"sim-{config.seed}-mouse-{container // 2:04d}",
        "ophys_experiment_id": config.seed * 1_000_000 + index,
        "targeted_structure": ("VISp", "VISl", "VISal")[container % 3],
        "imaging_depth_um": (175, 275, 375)[container % 3],
        "cre_line": "simulated",
        "indicator": "simulated",
        "um_per_px": UM_PER_PX,
    }
    return Recording(
        id=_key(container, session),
        image=image,
        masks=masks,
        roi_ids=tuple(str(number) for number in range(len(masks))),
        group=group_of(metadata, ""),
        metadata=metadata,
    )


def _key(container: int, session: int) -> str:
    return f"sim-{container:04d}-{session}"


@dataclasses.dataclass(frozen=True)
class SimulatedSource:
    """Source (see `fluxseg.data.recording.Source`) of simulated recordings.

    Attributes:
        config: how many, and of which kind.
    """

    config: SimulatorConfig

    def keys(self) -> list[str]:
        """Return the sorted names of all recordings."""
        return sorted(self._indices())

    def read(self, key: str) -> Recording:
        """Simulate one recording."""
        return simulate_recording(self.config, self._indices()[key])

    def stamp(self, key: str) -> str:
        """Return a text that differs whenever the recording may differ."""
        config = self.config
        return f"{SIMULATOR_VERSION}/{config.seed}/{config.size}/{config.sessions}/{key}"

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
        return {
            "kind": "simulator",
            "version": SIMULATOR_VERSION,
            **dataclasses.asdict(self.config),
        }

    def _indices(self) -> dict[str, int]:
        config = self.config
        return {
            _key(container, session): container * config.sessions + session
            for container in range(config.containers)
            for session in range(config.sessions)
        }
