"""From a probability to separate neurons: h-maxima watershed, areas, holes, borders, quality."""

import dataclasses
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.labels import label_components
from fluxseg.inference.objects.confidence import describe_cells, rate_cells
from fluxseg.inference.objects.levels import keep_surest, levels_around
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
        return self.labels == np.arange(1, len(self) + 1, dtype=self.labels.dtype)[:, None, None]

    def to_recording(self, image: np.ndarray, name: str = "prediction") -> Recording:
        """Return a recording of these ROIs, which `write_recording` writes in any format.

        Args:
            image: `[H, W]`, any real dtype, the image that they were found in.
            name: id of the recording.

        Returns:
            The recording; its metadata tell the pixel size, if it is known, and the quality of
            each ROI.

        Raises:
            RecordingError: if the image is of another shape.
        """
        metadata: dict[str, Any] = {"roi_quality": np.round(self.quality, 4).tolist()}
        if self.um_per_px is not None:
            metadata["um_per_px"] = self.um_per_px
        names = tuple(str(number) for number in range(1, len(self) + 1))
        return Recording(name, image, self.masks(), names, metadata=metadata)

    @property
    def area_um2(self) -> np.ndarray | None:
        """`[N]` float64, um^2; None if the size of a pixel is unknown."""
        return None if self.um_per_px is None else self.area * self.um_per_px**2


def find_rois(
    probability: np.ndarray,
    *,
    threshold: float = 0.5,
    um_per_px: float | None = None,
    h: float | None = None,
    smooth: float | None = None,
    min_area: float | None = None,
    max_area: float | None = None,
    fill_holes: bool = True,
    border: Literal["keep", "drop"] = "keep",
    diameter: float | None = None,
    min_confidence: float = 0.0,
) -> Rois:
    """Find separate neurons in a probability.

    Pixels of at least `threshold` are foreground. Components (pixels that touch at a corner are
    connected) smaller than `min_area` are noise, `split_mask` takes touching cells apart, and
    holes inside of a single one, such as a dim nucleus, are filled. Holes are left alone before
    that: in crowded fields they are gaps that tell where cells meet.

    Lengths are in um and areas in um^2 if `um_per_px` is given, else in px; the defaults are
    those of cells 12 um across, taken at 0.785 um per px if neither the pixel size nor the
    cells' diameter is known.

    Args:
        probability: `[H, W]` real, 0 to 1, of "neuron"; NaN is outside of the field. A mask
            `[H, W]` bool does as well.
        threshold: least probability of the foreground, above 0, at most 1.
        um_per_px: size of a pixel, um.
        h: see `split_mask`; 0.2 um by default.
        smooth: see `split_mask`; 0.8 um by default.
        min_area: smallest ROI; by default 25 um^2, or 0.4 times the area of a cell of `diameter`.
        max_area: largest ROI, after splitting; no limit by default.
        fill_holes: whether holes that border on one ROI only are filled.
        border: "drop" leaves out ROIs that touch the border of the image.
        diameter: typical diameter of the cells, px; what is given by default goes by it, rather
            than by the pixel size.
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
    _check_settings(threshold, um_per_px, h, smooth, min_area, max_area, border, diameter)
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence must be 0 to 1, got {min_confidence!r}")
    unit = um_per_px or 1.0
    known = CELL_UM / diameter if diameter else um_per_px or UM_PER_PX
    h_px = H_UM / known if h is None else h / unit
    smooth_px = SMOOTH_UM / known if smooth is None else smooth / unit
    least = np.pi / 4 * MIN_SHARE * diameter**2 if diameter else MIN_AREA_UM2 / known**2
    min_px = least if min_area is None else min_area / unit**2
    valid = np.isfinite(probability)
    seen = np.where(valid, probability, 0)

    def find_at(level: float) -> Rois:
        labels = split_mask(seen >= level, h=h_px, smooth=smooth_px, min_area=min_px)
        if fill_holes:
            labels = np.where(valid, _fill_enclosed(labels), labels)
        area = np.bincount(labels.ravel())
        keep = area >= min_px
        if max_area is not None:
            keep &= area <= max_area / unit**2
        if border == "drop":
            keep[np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])] = False
        return measure(_renumber(labels, keep), level)

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
    """Leave some ROIs out.

    Args:
        rois: N ROIs.
        keep: `[N]` bool, which ones stay; their measures do too, their numbers do not.

    Returns:
        Those that stay.
    """
    values = {
        name: getattr(rois, name)[keep]
        for name in ("area", "centroid", "probability", "quality", "confidence")
    }
    labels = _renumber(rois.labels, np.insert(keep, 0, False)).astype(rois.labels.dtype)
    return Rois(labels=labels, um_per_px=rois.um_per_px, **values)


def split_mask(mask: np.ndarray, *, h: float, smooth: float, min_area: float) -> np.ndarray:
    """Take touching cells of a mask apart by their outlines.

    The distance to the background is smoothed; each of its maxima that rises by more than `h`
    above the passes to higher ones is a cell (extended maxima: P. Soille, "Morphological Image
    Analysis", 2003, section 6.3.4), and a watershed from these markers (Beucher and Lantuejoul
    1979; scikit-image's `watershed`, which floods by priority) shares out the mask. Markers whose
    basin stays below `min_area` are given up, and their neighbours grow into it.

    Args:
        mask: `[H, W]` bool.
        h: depth of the waist between two cells, px.
        smooth: standard deviation of the Gaussian, px; 0 for none.
        min_area: area of the smallest cell, px; smaller components are dropped.

    Returns:
        `[H, W]` int, 0 is background, cells from 1.
    """
    components = label_components(mask)
    small = np.bincount(components.ravel()) < min_area
    components[small[components]] = 0
    mask = components > 0
    if not mask.any():
        return np.zeros(mask.shape, np.int64)
    # What lies beyond the image is background, so that a mask of all pixels has a distance too.
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    if smooth:
        distance = ndimage.gaussian_filter(distance, smooth)
    # Regional maxima of the reconstruction, as equal peaks with a shallow pass count as one.
    peaks = local_maxima(lower_peaks(distance, h), connectivity=2) & mask
    reached = np.zeros(len(small), bool)
    reached[components[peaks]] = True
    markers = label_components(peaks | (mask & ~reached[components]))
    labels = watershed(-distance, markers, mask=mask, connectivity=2)
    keep = _large_or_largest(labels, components, min_area)
    if not keep.all():
        markers[~keep[markers]] = 0
        labels = watershed(-distance, markers, mask=mask, connectivity=2)
    return labels


def lower_peaks(distance: np.ndarray, h: float) -> np.ndarray:
    """Reconstruct `distance - h` below `distance` (grey-scale reconstruction by dilation).

    It sorts all pixels, most of which are at distance 0, where nothing above 0 passes: so it is
    done component by component, with the same result.

    Args:
        distance: `[H, W]` float, 0 or more.
        h: what is taken away, above 0.

    Returns:
        `[H, W]` float64.
    """
    parts, _ = ndimage.label(distance > 0, np.ones((3, 3)))
    floor = min(distance.max() - h, 0.0)
    result = np.full(distance.shape, floor)
    for number, where in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[where] == number
        part = np.where(inside, distance[where], 0)
        lowered = np.maximum(reconstruction(part - h, part), floor)
        result[where][inside] = lowered[inside]
    return result


def _large_or_largest(labels: np.ndarray, components: np.ndarray, min_area: float) -> np.ndarray:
    """Tell which basins have `min_area` or are the largest ones of their component."""
    area = np.bincount(labels.ravel())
    component = np.zeros(len(area), np.int64)
    component[labels.ravel()] = components.ravel()
    order = np.lexsort((-area, component))
    keep = area >= min_area
    keep[order[np.unique(component[order], return_index=True)[1]]] = True
    keep[0] = True
    return keep


def _fill_enclosed(labels: np.ndarray) -> np.ndarray:
    """Fill the holes that border on one ROI only."""
    padded = np.pad(labels, 1)
    holes, count = ndimage.label(padded == 0)
    low, high = np.full(count + 1, labels.max() + 1), np.zeros(count + 1, labels.dtype)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(padded, step, axis)
        edge = (holes > 0) & (beside > 0)
        np.minimum.at(low, holes[edge], beside[edge])
        np.maximum.at(high, holes[edge], beside[edge])
    high[low != high] = 0
    high[holes[0, 0]] = 0
    return np.where(holes > 0, high[holes], padded)[1:-1, 1:-1]


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

    The quality of a ROI is the mean probability inside minus that in its rim: the background
    pixels within `rim` that are nearer to it than to others. It is 1 for a sure cell with a sharp
    outline and near 0 for a faint swelling. Negative values count as 0. A ROI that has no
    background around it is compared with `threshold`.

    Args:
        labels: `[H, W]` int, 0 is background, ROIs are numbered from 1 without gaps.
        probability: `[H, W]` float, 0 to 1; pixels that are not finite are left out.
        threshold: see above.
        rim: width of the rim, px.
        um_per_px: size of a pixel, um, handed on.
        diameter: typical diameter of the cells, px; None for that of the ROIs.

    Returns:
        The ROIs.
    """
    count = int(labels.max(initial=0))
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner = np.where(distance <= rim, labels[tuple(nearest)], 0)
    inside = labels > 0
    mean = _means(labels, probability, inside, count, 0.0)
    around = _means(owner, probability, ~inside, count, threshold)
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


def _means(
    labels: np.ndarray, values: np.ndarray, where: np.ndarray, count: int, empty: float
) -> np.ndarray:
    where = where & (labels > 0) & np.isfinite(values)
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
    h: float | None,
    smooth: float | None,
    min_area: float | None,
    max_area: float | None,
    border: str,
    diameter: float | None,
) -> None:
    low = 0.0 if min_area is None else min_area
    checks = (
        ("threshold", threshold, 0 < threshold <= 1, "above 0 and at most 1"),
        ("um_per_px", um_per_px, um_per_px is None or 0 < um_per_px < np.inf, "above 0"),
        ("h", h, h is None or 0 < h < np.inf, "above 0"),
        ("smooth", smooth, smooth is None or 0 <= smooth < np.inf, "0 or more"),
        ("min_area", min_area, 0 <= low < np.inf, "0 or more"),
        ("max_area", max_area, max_area is None or max_area >= max(low, 0), "at least min_area"),
        ("border", border, border in ("keep", "drop"), "keep or drop"),
        ("diameter", diameter, diameter is None or 1 <= diameter < np.inf, "at least 1 px"),
    )
    for name, value, valid, expected in checks:
        if not valid:
            raise ConfigError(f"{name} must be {expected}, got {value!r}")
