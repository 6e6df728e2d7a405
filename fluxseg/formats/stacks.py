"""The images of a TIFF file: of which time, plane and channel each is.

`fluxseg.formats.descriptions` reads what the programs say. Images of another size or kind than the
first (thumbnails, levels of a pyramid, further series) do not count.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.descriptions import Told, read_description
from fluxseg.formats.microscope_xml import find_recorded
from fluxseg.formats.pick import Pick, choose_places
from fluxseg.formats.tiff import check_end, get_page, read_scale


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """The images of a TIFF file."""

    # `[N]` int, numbers of the pages; or of the images that follow each other from `offset` on, if
    # they are stored behind a single page
    numbers: np.ndarray
    places: np.ndarray  # `[N, 3]` int, of each its time, plane and channel, from 0
    told: Told  # names of the channels, size of the pixels, rate, and what was odd
    offset: int | None  # byte where the pixels begin, or None
    samples: bool  # whether the channels are samples of the pixels of one image

    def select(self, pick: Pick) -> np.ndarray:
        """Return the `numbers` of one channel of one plane, in the order of time.

        Raises `RecordingError`, listing what there is, if there are several and none is picked.
        """
        wanted = dataclasses.replace(pick, channel="") if self.samples else pick
        return self.numbers[choose_places(self.places, self.told.channels, wanted)]


def read_stack(path: Path, tiff: Any, pick: Pick) -> Stack:
    """Tell of which time, plane and channel the images of an opened TIFF file are.

    The axes of `pick` replace what the file tells; with a plane, ImageJ's slices are planes.
    """
    page = get_page(tiff, 0)
    count = len(tiff.pages)
    check_end(path, tiff, count)
    recorded = None if pick.axes else find_recorded(path)
    if recorded is None:
        told = read_description(path, tiff, page, count, pick)
    else:
        told = Told(
            channels=recorded.channels, places=dict(recorded.files[path.name]),
            um_per_px=recorded.um_per_px, rate=recorded.rate,
        )  # fmt: skip
    remarks = list(told.remarks)
    offset = None
    if count == 1 and told.declared > 1 and page.compression == 1 and told.places is None:
        count, offset = _count_behind(path, page, told.declared)
        numbers = np.arange(count)
    else:
        numbers = _alike(tiff, page, count)
        if len(numbers) < count:
            remarks.append(f"{count - len(numbers)} smaller or other pages are left out")
    if 0 < len(numbers) < told.declared:
        remarks.append(f"its description tells of {told.declared} images, it holds {len(numbers)}")
    if told.places is not None:
        kept = [number for number in numbers.tolist() if number in told.places]
        numbers = np.array(kept, int)
        places = np.array([told.places[number] for number in kept], int).reshape(-1, 3)
    else:
        places = _unravel(len(numbers), told.axes, told.sizes)
    if told.planes:
        # What a fast scan takes while the focus flies back is no plane.
        numbers, places = numbers[places[:, 1] < told.planes], places[places[:, 1] < told.planes]
    if not len(numbers):
        raise RecordingError("", "holds no image")
    scale = told.um_per_px or read_scale(tiff, page)
    told = dataclasses.replace(told, um_per_px=scale, remarks=tuple(remarks))
    samples = page.size > page.imagelength * page.imagewidth and not places[:, 2].any()
    return Stack(numbers, places, told, offset, samples)


def _unravel(count: int, axes: str, sizes: Sequence[int]) -> np.ndarray:
    """Return `[N, 3]`, the time, plane and channel of images in the order of the axes."""
    rest = np.arange(count)
    places = np.zeros((count, 3), int)
    factors = {"T": 1, "Z": 1, "C": 1}
    for axis, size in zip(reversed(axes[1:]), reversed(sizes), strict=True):
        places[:, "TZC".index(axis)] += rest % size * factors[axis]
        factors[axis] *= size
        rest //= size
    places[:, "TZC".index(axes[0])] += rest * factors[axes[0]]
    return places


def _alike(tiff: Any, first: Any, count: int) -> np.ndarray:
    """Return the numbers of the pages that are of the same kind as the first."""

    def is_alike(number: int) -> bool:
        page = tiff.pages.get(number, None, aspage=True)
        same = page.shape == first.shape and page.dtype == first.dtype
        return bool(same and not page.subfiletype & 5)

    if all(is_alike(number) for number in {1, count - 1} - {0} if number < count):
        # Each page is looked at when it is read.
        return np.arange(count)
    return np.array([0, *(number for number in range(1, count) if is_alike(number))])


def _count_behind(path: Path, page: Any, declared: int) -> tuple[int, int | None]:
    """Count the images that are stored behind a single page, as ImageJ does beyond 4 GB."""
    if page.bitspersample % 8 or page.size != page.imagelength * page.imagewidth:
        raise RecordingError("", f"stores {declared} images as one page, packed; save it as pages")
    begin, size = page.dataoffsets[0], page.nbytes
    there, left = divmod(path.stat().st_size - begin, max(size, 1))
    if 1 < there < declared and left:
        raise RecordingError("", f"is truncated: it declares {declared} images, {there} are whole")
    count = min(declared, there)
    return (count, begin) if count > 1 else (1, None)
