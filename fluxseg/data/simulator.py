"""Simulated recordings: sessions of a field of view as a microscope and Allen's labels show it."""

import dataclasses
from typing import Any

import numpy as np

from fluxseg.config import SimulatorConfig
from fluxseg.data.augment import blur_image
from fluxseg.data.recording import Recording, group_of
from fluxseg.data.tissue import Field, add_patches, draw_cells, overlap, simulate_field

SIMULATOR_VERSION = 1
"""Raised whenever the same seed gives other recordings, so that caches are made again."""
UM_PER_PX = 0.785
ACTIVE = (0.55, 0.85)
"""Range of the share of cells that fire during a session."""
SHIFT_UM = 4.0
"""Standard deviation of a session's shift along each axis."""
MOTION_BORDER_UM = 6.0
"""Cells whose outline comes closer than this to the border are not labelled."""
VISIBLE = 0.3
"""Least contrast against the background at which a cell is labelled."""
FRAMES = 10_000
"""Frames whose maximum the projection is."""


def simulate_session(field: Field, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image a field of view once: other cells are active, other noise, a small shift.

    The image is the maximum over a movie. Instead of drawing every frame, its noise is drawn
    from the distribution of a maximum (Gumbel), with the bias towards bright values included.
    The labels are what an automatic pipeline keeps: active, visible cells away from the border,
    with outlines that are a little off.

    Args:
        field: the tissue.
        rng: source of all randomness.

    Returns:
        image `[H, W]` uint16, and masks `[N, H, W]` bool.
    """
    size = field.size
    shift = rng.normal(0, SHIFT_UM / field.um_per_px, 2)
    whole = np.round(shift).astype(int)
    count = len(field.cells.centre)
    active = rng.random(count) < rng.uniform(*ACTIVE)
    # A transient multiplies the resting light; silent cells stay as dim as they are at rest.
    peak = np.where(active, rng.gamma(2.2, 0.55, count) + 0.25, 0.12 * rng.random(count))
    strength = (field.cells.brightness * peak).astype(np.float32)
    corner, light, body = draw_cells(field.cells, shift)
    drawn = np.zeros((size, size), np.float32)
    add_patches(drawn, corner, strength[:, None, None] * light)
    drawn += _rolled(field.fibres, whole) * np.float32(rng.uniform(0.4, 0.9))
    drawn = blur_image(drawn, rng.uniform(0.7, 1.1))
    around = _rolled(field.neuropil + field.blobs, whole)
    signal = (around + drawn) * _rolled(field.transmission, whole)
    image = _detect(signal, rng)
    labelled = active & (strength > VISIBLE * _local(around, corner, light.shape[1]))
    return image, _draw_labels(corner, body, labelled, field, rng)


def _rolled(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.roll(image, tuple(int(s) for s in shift), (0, 1))


def _local(image: np.ndarray, corner: np.ndarray, patch: int) -> np.ndarray:
    # The background of a cell is read at its centre.
    row, column = np.clip(corner + patch // 2, 0, len(image) - 1).T
    return image[row, column]


def _detect(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn light into the maximum over a movie of detector counts."""
    photons = np.float32(rng.uniform(12, 60))
    spread = np.sqrt(signal * photons + np.float32(rng.uniform(0.5, 4)))
    # The maximum of n Gaussian values: location and scale of the Gumbel distribution.
    location = np.sqrt(2 * np.log(FRAMES))
    uniform = rng.random(signal.shape, np.float32)
    gumbel = -np.log(-np.log(np.clip(uniform, 1e-7, 1 - 1e-6)))
    # Averaging over a few frames before the maximum is taken narrows the noise.
    binned = np.float32(1 / np.sqrt(rng.uniform(1.5, 6)))
    counts = signal * photons + binned * spread * (location + gumbel / location)
    # Motion correction interpolates between pixels.
    counts = blur_image(counts, rng.uniform(0.3, 0.6))
    lines = rng.normal(0, 0.004, (len(signal), 1)).astype(np.float32)
    gain = rng.uniform(8, 60)
    digital = rng.uniform(20, 300) + gain * counts * (1 + lines)
    top = np.quantile(digital, 1 - 10 ** rng.uniform(-5, -2.7))
    return np.clip(np.rint(digital), 0, min(65535, top)).astype(np.uint16)


def _draw_labels(
    corner: np.ndarray,
    body: np.ndarray,
    labelled: np.ndarray,
    field: Field,
    rng: np.random.Generator,
) -> np.ndarray:
    size, patch = field.size, body.shape[1]
    border = MOTION_BORDER_UM / field.um_per_px
    level = rng.uniform(0.3, 0.62, len(body))
    wrong = rng.normal(0, 0.45, (len(body), 2)).round().astype(int)
    missed = rng.random(len(body)) < 0.04
    masks = []
    for number in np.flatnonzero(labelled & ~missed):
        inside = body[number] > level[number]
        rows, columns = np.nonzero(inside)
        row, column = corner[number] + wrong[number]
        low = min(row + rows.min(), column + columns.min())
        high = max(row + rows.max(), column + columns.max())
        if low < border or high >= size - border:
            continue
        mask = np.zeros((size, size), bool)
        target, part = overlap((size, size), row, column, (patch, patch))
        mask[target] = inside[part]
        masks.append(mask)
    return np.stack(masks) if masks else np.zeros((0, size, size), bool)


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
        "donor_name": f"sim-{config.seed}-donor-{container // 2:04d}",
        "ophys_experiment_id": config.seed * 1_000_000 + index,
        "targeted_structure": ("VISp", "VISl", "VISal")[container % 3],
        "imaging_depth_um": (175, 275, 375)[container % 3],
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
