"""Do the labels of a recording fit its image? Signs that they were exported or paired wrongly."""

import numpy as np

TINY_AREA, TINY_ROIS = 12, 20
"""Mean area of ROIs, px, that is remarked on, and the least number of such ROIs."""
PARTS = 4  # separate parts for each ROI that are remarked on
WELL, BETTER = 0.15, 0.1
"""Correlation with the image from which labels fit, and by how much others must fit better. Of 34
real fields with labels by people the lowest is 0.11; turned or shifted, the highest is 0.09 but
for shifts of a few pixels."""
FEW_ROIS = 5  # with fewer ROIs it is not judged how they fit, but of how many parts they are
ACROSS = 128  # side, px, to which an image is reduced for that
FLAT, ZERO = 0.9, 0.25
"""Least shares of a label image: equal neighbours within its labels, and background."""


def equal_neighbours(image: np.ndarray) -> float:
    """Return the share of equal pairs among neighbours in a row that are both not 0; 1 if few."""
    left, right = image[:, :-1], image[:, 1:]
    beside = (left != 0) & (right != 0)
    pairs = np.count_nonzero(beside)
    return np.count_nonzero(beside & (left == right)) / pairs if pairs > 100 else 1.0


def looks_like_labels(image: np.ndarray) -> bool:
    """Tell whether an image `[H, W]` is a label image or a mask: flat areas on a ground of 0."""
    if image.dtype == np.bool_:
        return True
    zero = image.size - np.count_nonzero(image)
    return bool(ZERO * image.size < zero < image.size and equal_neighbours(image) > FLAT)


def inspect_labels(image: np.ndarray, count: int, label: np.ndarray) -> tuple[str, ...]:
    """Return remarks on signs that labels were exported or paired wrongly.

    `image` is `[H, W]` of any real dtype, `label` `[H, W]` bool all ROIs, `count` their number, at
    least one.
    """
    from scipy import ndimage  # slow to import

    remarks = []
    parts = int(ndimage.label(label, np.ones((3, 3)))[1]) if count < FEW_ROIS else 0
    if parts > PARTS * count:
        what = "1 ROI has" if count == 1 else f"{count} ROIs have"
        remarks.append(
            f"{what} {parts} separate parts: for a mask of all cells, name the file NAME_mask"
        )
    if count >= TINY_ROIS and (area := np.count_nonzero(label) / count) < TINY_AREA:
        remarks.append(
            f"{count} ROIs have {area:.0f} px on average: is this a mask with smooth edges?"
        )
    if count >= FEW_ROIS and (better := find_better_fit(image, label)):
        remarks.append(f"the ROIs would fit the image better {better}: compare them")
    return tuple(remarks)


def find_better_fit(image: np.ndarray, label: np.ndarray) -> str:
    """Say how labels would fit their image better: turned, flipped or shifted, if at all.

    What is correlated are the merged masks `[H, W]` bool and the rank of each pixel's brightness,
    both less their surroundings.
    """
    from scipy import ndimage

    step = max(1, min(image.shape) // ACROSS)
    floats = image.dtype.kind == "f"
    value = _reduce(np.nan_to_num(image, posinf=0, neginf=0) if floats else image, step)
    rank = np.empty(value.shape, np.float32)
    rank.ravel()[np.argsort(value, axis=None)] = np.linspace(-1, 1, value.size)
    rank -= ndimage.uniform_filter(rank, 25)
    inside = _reduce(label, step)
    inside -= inside.mean()
    size = float(np.sqrt((rank**2).sum() * (inside**2).sum()))
    own = float((rank * inside).sum()) / size if size > 0 else 1.0
    if own > WELL:
        return ""
    turned = {
        "transposed": inside.T, "flipped left to right": inside[:, ::-1],
        "flipped upside down": inside[::-1], "turned by 180 degrees": inside[::-1, ::-1],
        "turned by 90 degrees": np.rot90(inside), "turned by 270 degrees": np.rot90(inside, 3),
        "transposed and turned by 180 degrees": np.rot90(inside.T, 2),
    }  # fmt: skip
    fits = {
        name: float((rank * other).sum()) / size
        for name, other in turned.items()
        if other.shape == rank.shape
    }
    product = np.fft.rfft2(rank) * np.conj(np.fft.rfft2(inside))
    around = np.fft.irfft2(product, rank.shape) / size
    height, width = value.shape
    row, column = divmod(int(around.argmax()), width)
    rows = ((row + height // 2) % height - height // 2) * step
    columns = ((column + width // 2) % width - width // 2) * step
    fits[f"shifted by about {rows} rows and {columns} columns"] = float(around.max()) - BETTER / 2
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] > max(own, 0) + BETTER and fits[best] > WELL else ""


def _reduce(values: np.ndarray, step: int) -> np.ndarray:
    """Add up blocks of `step` x `step` px; slice by slice, which is 20 times as fast as a mean."""
    height, width = (side - side % step for side in values.shape)
    # Large numbers of 64 bits would overflow in 32.
    rows = values[0:height:step, :width].astype(np.promote_types(values.dtype, np.float32))
    for offset in range(1, step):
        rows += values[offset:height:step, :width]
    result: np.ndarray = rows[:, ::step].copy()
    for offset in range(1, step):
        result += rows[:, offset::step]
    return result
