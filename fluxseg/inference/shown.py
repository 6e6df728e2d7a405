"""What people look at: outlines on the image, a table of the neurons, and what is doubtful."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from fluxseg.data.checks import inspect_image
from fluxseg.data.recording import YELLOW
from fluxseg.data.resample import MOST, disc_diameter
from fluxseg.data.transforms import normalize_image, to_uint8
from fluxseg.formats.own import MARK
from fluxseg.inference.objects.rois import Rois, compare_with_rim
from fluxseg.io.files import atomic_path

WIDE = 900  # smaller images are drawn enlarged, so that outlines hide little of the cells, px
RIM = 0.25  # width of the rim that a neuron's brightness is compared with, in its diameters
UNLIKE = 1.6  # the given diameter is doubtful if so many times larger or smaller
FEW = 5  # fewer cells tell nothing of their typical diameter


def draw_overlay(image: np.ndarray, labels: np.ndarray, numbers: bool = False) -> np.ndarray:
    """Draw the outlines of neurons, labels `[H, W]` int, on an image `[H, W]` of any real dtype.

    The image is shown from its 1st to its 99.5th percentile; `numbers` also writes the number of
    each neuron at its centre. Returns `[s H, s W, 3]` uint8; small images are enlarged s times.
    """
    scale = max(1, round(WIDE / max(image.shape)))
    gray = to_uint8(normalize_image(image))
    large = labels.repeat(scale, 0).repeat(scale, 1)
    picture = np.repeat(gray.repeat(scale, 0).repeat(scale, 1)[..., None], 3, axis=-1)
    edge = outline_labels(large)
    # Two pixels wide where cells are large enough, so that small copies show them too.
    picture[edge | outline_labels(np.where(edge, 0, large)) if scale > 1 else edge] = YELLOW
    if numbers and labels.any():
        from PIL import Image, ImageDraw

        drawn = Image.fromarray(picture)
        pen = ImageDraw.Draw(drawn)
        count = int(labels.max())
        for number, centre in enumerate(
            ndimage.center_of_mass(large > 0, large, range(1, count + 1)), 1
        ):
            pen.text((centre[1], centre[0]), str(number), fill=(90, 220, 255), anchor="mm")
        picture = np.asarray(drawn)
    return picture


def write_overlay(path: Path, picture: np.ndarray) -> None:
    """Write a picture `[H, W, 3]` or `[H, W]` uint8 as PNG that `is_prediction` knows."""
    from PIL import Image, PngImagePlugin

    facts = PngImagePlugin.PngInfo()
    facts.add_text("Software", MARK)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=facts)


def tabulate_neurons(image: np.ndarray, rois: Rois) -> list[dict[str, Any]]:
    """List the neurons found in an image `[H, W]` of any real dtype: rows of `TABLE_COLUMNS`.

    The centre is that of the pixels, from 0. The contrast is the mean brightness of a neuron less
    that of the rim around, over the displayed range.
    """
    sizes = disc_diameter(rois.area)
    width = max(RIM * float(np.median(sizes)), 1.5) if len(rois) else 0.0
    inside, around = compare_with_rim(rois.labels, normalize_image(image), width)
    contrast = inside - around
    scale = rois.um_per_px
    return [
        {
            "neuron": number + 1,
            "x_px": round(float(rois.centroid[number, 1]), 2),
            "y_px": round(float(rois.centroid[number, 0]), 2),
            "area_px": int(rois.area[number]),
            "area_um2": None if scale is None else round(float(rois.area[number]) * scale**2, 2),
            "diameter_px": round(float(sizes[number]), 2),
            "mean_probability": round(float(rois.probability[number]), 4),
            "confidence": round(float(rois.confidence[number]), 4),
            "contrast": round(float(contrast[number]), 4),
        }
        for number in range(len(rois))
    ]


def find_doubts(
    image: np.ndarray, rois: Rois, given: float | None, trained_px: float | None
) -> list[str]:
    """Say what makes the ROIs found in an image `[H, W]` of any real dtype doubtful, as warnings.

    `given` is the diameter of the cells that the user has given, px, or None if it was estimated;
    `trained_px` that of the cells that the model was trained on, if it knows it.
    """
    unusable, remarks = inspect_image(image)
    doubts = [unusable] if unusable else []
    doubts += remarks
    if given is not None and given > min(image.shape) / 2:
        doubts.append(f"--diameter {given:g} is more than half of the image's side")
    elif given is not None and trained_px and not 1 / MOST <= trained_px / given <= MOST:
        low, high = trained_px / MOST, trained_px * MOST
        doubts.append(f"--diameter {given:g} is far from cells of {low:.0f} to {high:.0f} px")
    if not len(rois):
        return doubts if unusable else [*doubts, "no neuron was found"]
    size = float(np.median(disc_diameter(rois.area)))
    if given and len(rois) >= FEW and not 1 / UNLIKE < size / given < UNLIKE:
        doubts.append(
            f"the cells found are about {size:.0f} px across, not {given:g}: without --diameter it "
            "is estimated"
        )
    return doubts


def outline_labels(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels of ROIs of which one of the four neighbours is of another ROI, or of none."""
    padded = np.pad(labels, 1)
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    outlines: np.ndarray = np.logical_or.reduce([labels != other for other in beside])
    return outlines & (labels > 0)
