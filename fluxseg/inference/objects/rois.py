"""From a probability to separate neurons, and their measures."""

import dataclasses
from typing import Any

import numpy as np
from scipy import ndimage

from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.labels import masks_from_labels
from fluxseg.inference.objects.confidence import describe_cells, rate_cells
from fluxseg.inference.objects.levels import keep_surest, levels_around
from fluxseg.inference.objects.split import fill_enclosed, split_mask
from fluxseg.io.markup import render_table

UM_PER_PX = 0.785
"""Pixel size that the defaults below are converted with where it is not known."""
CELL_UM = 12.0
"""Diameter of the cells that the defaults below are made for."""
H_UM = 0.2
"""Depth of the waist, in the smoothed distance to the edge, at which two cells are taken apart."""
SMOOTH_UM = 0.8
"""Standard deviation of the smoothing of that distance."""
MIN_AREA_UM2 = 25.0
"""A seventh of the area of a typical cell."""
MIN_SHARE = 0.4
"""Least area relative to that of a typical cell, where its diameter is known."""
RIM_UM = 2.4
"""Width of the rim that a ROI is compared with."""
MAX_SHOWN = 10
"""ROIs that a notebook shows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rois:
    """Separate neurons of one field of view; entry i of each array is the ROI with label i + 1.

    Attributes:
        labels: `[H, W]` uint16, uint32 above 65535 ROIs; 0 is background.
        area: `[N]` int64, px.
        centroid: `[N, 2]` float64, row and column, px; pixel centres are whole numbers.
        probability: `[N]` float64, mean probability inside.
        quality: `[N]` float64, 0 to 1: mean probability inside minus that in the rim around.
        confidence: `[N]` float64, 0 to 1, how surely a person would mark it (see
            `fluxseg.inference.objects.confidence`).
        um_per_px: size of a pixel, um; None if unknown.
    """

    labels: np.ndarray
    area: np.ndarray
    centroid: np.ndarray
    probability: np.ndarray
    quality: np.ndarray
    confidence: np.ndarray
    um_per_px: float | None = None

    def __len__(self) -> int:
        """Return the number of ROIs."""
        return len(self.area)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the first ROIs and their measures."""
        unit = "px" if self.um_per_px is None else "um^2"
        areas = self.area if self.area_um2 is None else self.area_um2
        values = zip(areas, self.centroid, self.probability, self.confidence, strict=True)
        rows = [
            (str(number), f"{area:.0f}", f"{y:.1f}, {x:.1f}", f"{mean:.2f}", f"{sure:.2f}")
            for number, (area, (y, x), mean, sure) in enumerate(values, 1)
            if number <= MAX_SHOWN
        ]
        if len(self) > MAX_SHOWN:
            rows.append((f"and {len(self) - MAX_SHOWN} more", "", "", "", ""))
        header = ("label", f"area, {unit}", "row, column", "mean probability", "confidence")
        height, width = self.labels.shape
        title = f"{len(self)} neurons in {height} x {width} px"
        return render_table(rows, header, title=title)

    def masks(self) -> np.ndarray:
        """Return one mask for each ROI, `[N, H, W]` bool."""
        return masks_from_labels(self.labels)[0]

    def to_recording(self, image: np.ndarray, name: str = "prediction") -> Recording:
        """Return a recording of these ROIs and their confidence, to write in any format.

        Args:
            image: `[H, W]`, any real dtype, the image that they were found in.
            name: id of the recording.

        Raises:
            RecordingError: if the image is of another shape.
        """
        metadata: dict[str, Any] = {"roi_quality": np.round(self.confidence, 4).tolist()}
        if self.um_per_px is not None:
            metadata["um_per_px"] = self.um_per_px
        masks, names = masks_from_labels(self.labels)
        return Recording(name, image, masks, names, metadata=metadata)

    @property
    def area_um2(self) -> np.ndarray | None:
        """`[N]` float64, um^2; None if the size of a pixel is unknown."""
        return None if self.um_per_px is None else self.area * self.um_per_px**2


def find_rois(
    probability: np.ndarray,
    *,
    threshold: float = 0.5,
    um_per_px: float | None = None,
    min_area: float | None = None,
    diameter: float | None = None,
    min_confidence: float = 0.0,
) -> Rois:
    """Find separate neurons in a probability.

    Pixels of at least `threshold` are foreground. Components (pixels that touch at a corner are
    connected) smaller than `min_area` are noise, `split_mask` takes touching cells apart, and
    holes inside of a single one, such as a dim nucleus, are filled. Holes are left alone before
    that: in crowded fields they are gaps that tell where cells meet.

    Args:
        probability: `[H, W]` real, 0 to 1, of "neuron"; NaN is outside of the field. A mask
            `[H, W]` bool does as well.
        threshold: least probability of the foreground, above 0, at most 1.
        um_per_px: size of a pixel, um; 0.785 is taken if neither this nor the diameter is known.
        min_area: smallest ROI, um^2 if `um_per_px` is given, else px; by default 25 um^2, or 0.4
            times the area of a cell of `diameter`.
        diameter: typical diameter of the cells, px; by default they are 12 um across.
        min_confidence: ROIs of less confidence are left out, 0 to 1. Above 0 it is the confidence
            that decides what a cell is: they are looked for below and above `threshold`, too, and
            of those that overlap the surest is kept (see `fluxseg.inference.objects.levels`).

    Returns:
        The ROIs, numbered from 1 without gaps, from top to bottom.

    Raises:
        RecordingError: if the probability is not a 2-D array of real numbers from 0 to 1.
        ConfigError: naming the setting that is out of its range.
    """
    probability = _check_probability(probability)
    _check_settings(threshold, um_per_px, min_area, diameter, min_confidence)
    known = CELL_UM / diameter if diameter else um_per_px or UM_PER_PX
    least = np.pi / 4 * MIN_SHARE * diameter**2 if diameter else MIN_AREA_UM2 / known**2
    least = least if min_area is None else min_area / (um_per_px or 1.0) ** 2
    valid = np.isfinite(probability)
    seen = np.where(valid, probability, 0)

    def find_at(level: float) -> Rois:
        mask = seen >= level
        labels = split_mask(mask, h=H_UM / known, smooth=SMOOTH_UM / known, min_area=least)
        labels = np.where(valid, fill_enclosed(labels), labels)
        return measure(_renumber(labels, np.bincount(labels.ravel()) >= least), level)

    def measure(labels: np.ndarray, level: float) -> Rois:
        return measure_rois(
            labels, probability, threshold=level, rim=RIM_UM / known, um_per_px=um_per_px,
            diameter=diameter,
        )  # fmt: skip

    if not min_confidence:
        return find_at(threshold)
    found = [find_at(level) for level in levels_around(threshold)]
    labels, confidence = keep_surest(
        [rois.labels for rois in found], [rois.confidence for rois in found], min_confidence
    )
    return dataclasses.replace(measure(labels, threshold), confidence=confidence)


def choose_rois(rois: Rois, keep: np.ndarray) -> Rois:
    """Return those of N ROIs that stay, by `keep` `[N]` bool, numbered anew."""
    values = {
        name: getattr(rois, name)[keep]
        for name in ("area", "centroid", "probability", "quality", "confidence")
    }
    labels = _renumber(rois.labels, np.insert(keep, 0, False)).astype(rois.labels.dtype)
    return Rois(labels=labels, um_per_px=rois.um_per_px, **values)


def measure_rois(
    labels: np.ndarray,
    probability: np.ndarray,
    *,
    threshold: float = 0.5,
    rim: float = RIM_UM / UM_PER_PX,
    um_per_px: float | None = None,
    diameter: float | None = None,
) -> Rois:
    """Measure the ROIs of a label image.

    The quality of a ROI is the mean probability inside minus that in its rim, see
    `compare_with_rim`. It is 1 for a sure cell with a sharp outline and near 0 for a faint
    swelling. Negative values count as 0. A ROI without background around is compared with
    `threshold`.

    Args:
        labels: `[H, W]` int, 0 is background, ROIs are numbered from 1 without gaps.
        probability: `[H, W]` float, 0 to 1; pixels that are not finite are left out.
        threshold: see above.
        rim: width of the rim, px.
        um_per_px: size of a pixel, um, handed on.
        diameter: typical diameter of the cells, px; None for that of the ROIs.
    """
    count = int(labels.max(initial=0))
    inside = labels > 0
    mean, around = compare_with_rim(labels, probability, rim, threshold)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    rows, columns = np.nonzero(inside)
    which = labels[inside]
    sums = [np.bincount(which, at, count + 1)[1:] for at in (rows, columns)]
    quality = np.clip(mean - around, 0, 1)
    return Rois(
        labels=labels.astype(np.uint16 if count < 2**16 else np.uint32),
        area=area,
        centroid=np.stack(sums, 1) / np.maximum(area, 1)[:, None],
        probability=mean,
        quality=quality,
        confidence=rate_cells(describe_cells(labels, area, mean, quality, diameter)),
        um_per_px=um_per_px,
    )


def compare_with_rim(
    labels: np.ndarray, values: np.ndarray, width: float, without: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of values in each ROI, and in its rim: the background nearest to it, up to a width.

    Args:
        labels: `[H, W]` int, 0 is background, ROIs are numbered from 1 without gaps.
        values: `[H, W]` real; pixels that are not finite are left out.
        width: of the rim, px.
        without: what stands for the mean of a rim without a pixel.

    Returns:
        `[N]` float64 each.
    """
    count = int(labels.max(initial=0))
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    rim = np.where((labels == 0) & (distance <= width), labels[tuple(nearest)], 0)
    return _means(labels, values, count, 0.0), _means(rim, values, count, without)


def _means(labels: np.ndarray, values: np.ndarray, count: int, empty: float) -> np.ndarray:
    where = (labels > 0) & np.isfinite(values)
    pixels = np.bincount(labels[where], minlength=count + 1)[1:]
    sums = np.bincount(labels[where], values[where], count + 1)[1:]
    return np.where(pixels > 0, sums / np.maximum(pixels, 1), empty)


def _renumber(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0)[labels]


def _check_probability(probability: Any) -> np.ndarray:
    array = np.asarray(probability)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise RecordingError(
            "probability",
            f"must be real numbers [H, W], got {array.dtype} of shape {list(array.shape)}",
        )
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    finite = array[np.isfinite(array)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
        raise RecordingError(
            "probability",
            f"must lie between 0 and 1, found {finite.min():g} to {finite.max():g}; logits need "
            "a softmax, 8-bit images a division by 255",
        )
    return array


def _check_settings(
    threshold: float,
    um_per_px: float | None,
    min_area: float | None,
    diameter: float | None,
    min_confidence: float,
) -> None:
    checks = (
        ("threshold", threshold, 0 < threshold <= 1, "above 0 and at most 1"),
        ("um_per_px", um_per_px, um_per_px is None or 0 < um_per_px < np.inf, "above 0"),
        ("min_area", min_area, min_area is None or 0 <= min_area < np.inf, "0 or more"),
        ("diameter", diameter, diameter is None or 1 <= diameter < np.inf, "at least 1 px"),
        ("min_confidence", min_confidence, 0 <= min_confidence <= 1, "0 to 1"),
    )
    for name, value, valid, expected in checks:
        if not valid:
            raise ConfigError(f"{name} must be {expected}, got {value!r}")
