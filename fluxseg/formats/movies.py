"""Movies as streams of blocks of frames: TIFF and HDF5 files, of which little is held in memory."""

import contextlib
import dataclasses
import json
import math
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.hdf5 import (
    MAGIC,
    check_dataset,
    find_dataset,
    find_group,
    list_datasets,
    list_groups,
    open_hdf5,
    read_attribute,
)
from fluxseg.formats.npy import naming_file, open_regular
from fluxseg.formats.nwb import read_spacing
from fluxseg.formats.pixels import (
    DEFLATE,
    MAGICS,
    MAX_PIXELS,
    RAW,
    check_segments,
    first_series,
    open_tiff,
    read_scale,
    write_image_tiff,
)
from fluxseg.formats.plane_masks import Order

BLOCK_BYTES = 2**24
"""Bytes of a block of frames, if its length is not chosen."""
MAX_CHUNK = 2**28
"""Bytes that a stored chunk of an HDF5 dataset may take in memory."""
_MAX_DEPTH = 8
_MOST_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class MovieFacts:
    """What is known about a movie before it is read.

    Attributes:
        frames: number of frames.
        shape: height and width of a frame, px.
        dtype: of the pixels, in the byte order of the machine.
        um_per_px: size of the pixels, or None.
        dataset: path of the dataset in an HDF5 file, else "".
    """

    frames: int
    shape: tuple[int, int]
    dtype: np.dtype
    um_per_px: float | None = None
    dataset: str = ""


def read_movie_facts(path: Path | str, dataset: str = "", order: Order | None = None) -> MovieFacts:
    """Tell length, size and dtype of a movie without reading its frames.

    Args:
        path: see `iterate_frames`.
        dataset: see `iterate_frames`.
        order: see `iterate_frames`.

    Raises:
        RecordingError: naming the file, if it holds no movie, or several.
    """
    path = Path(path)
    if _is_hdf5(path):
        with open_hdf5(path) as file:
            return _describe_dataset(_choose(file, dataset), order)[0]
    with naming_file(path), open_tiff(path) as tiff:
        return _describe_tiff(path, tiff)[0]


def iterate_frames(
    path: Path | str, chunk: int = 0, dataset: str = "", order: Order | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a movie in blocks.

    Args:
        path: TIFF file of one channel and one plane, with a page for each frame or all frames in
            one page (ImageJ's large stacks, BigTIFF included), or an HDF5 file.
        chunk: frames of a block; 0: as many as take `BLOCK_BYTES`.
        dataset: path of the dataset `[T, H, W]` in an HDF5 file; needed if there are several.
        order: order of the axes of a frame in an HDF5 file; None: (y, x), but (x, y) as the
            schema says for a series of an NWB file.

    Yields:
        `[T, H, W]` of the movie's dtype, T at most `chunk`.

    Raises:
        RecordingError: naming the file, if it holds no movie, or several, or is damaged.
    """
    path = Path(path)
    if _is_hdf5(path):
        with open_hdf5(path) as file:
            found = _choose(file, dataset)
            facts, transposed = _describe_dataset(found, order)
            step = _block_length(facts, chunk, found.chunks)
            for start in range(0, facts.frames, step):
                frames = np.asarray(found[start : start + step])
                yield (frames.transpose(0, 2, 1) if transposed else frames).astype(facts.dtype)
        return
    with naming_file(path), open_tiff(path) as tiff:
        facts, offset = _describe_tiff(path, tiff)
        step = _block_length(facts, chunk, None)
        blocks = _read_pages(path, tiff, facts, step) if offset is None else None
        yield from blocks or _read_contiguous(path, tiff, facts, step, offset or 0)


def _is_hdf5(path: Path) -> bool:
    with naming_file(path), open_regular(path) as (file, _):
        start = file.read(len(MAGIC))
        if start != MAGIC and MAGICS.get(start[:4]) != "TIFF":
            raise RecordingError("", "is neither a TIFF nor an HDF5 file")
        return start == MAGIC


def _block_length(facts: MovieFacts, chunk: int, stored: tuple[int, ...] | None) -> int:
    if chunk > 0:
        return chunk
    length = max(1, BLOCK_BYTES // (math.prod(facts.shape) * facts.dtype.itemsize))
    # A stored chunk that two blocks share would be unpacked twice.
    return max(1, length // stored[0]) * stored[0] if stored and stored[0] <= 4 * length else length


def _choose(file: h5py.Group, wanted: str) -> h5py.Dataset:
    if wanted:
        found = find_dataset(file, wanted) or find_dataset(file, f"{wanted}/data")
    else:
        movies = list(_movies(file, 0))
        if len(movies) != 1:
            names = ", ".join(ascii(movie.name)[1:-1] for movie in movies[:20]) or "none"
            raise RecordingError("dataset", f"choose the dataset [T, H, W]; there are: {names}")
        found = movies[0]
    if found is None:
        raise RecordingError("dataset", f"there is no {wanted!a}")
    return found


def _movies(group: h5py.Group, depth: int) -> Iterator[h5py.Dataset]:
    """Yield the datasets that can be movies; masks and templates of an NWB file are none."""
    if depth > _MAX_DEPTH:
        return
    for name, dataset in list_datasets(group):
        numbers = dataset.dtype.kind in "biuf" and name != "image_mask"
        if numbers and dataset.shape is not None and len(dataset.shape) == 3:
            yield dataset
    for name, inner in list_groups(group):
        if not (depth == 0 and name in ("stimulus", "specifications")):
            yield from _movies(inner, depth + 1)


def _describe_dataset(dataset: h5py.Dataset, order: Order | None) -> tuple[MovieFacts, bool]:
    """Return the facts, and whether frames must be transposed."""
    check_dataset(dataset, MAX_CHUNK)
    if len(dataset.shape) != 3 or dataset.dtype.names:
        raise RecordingError(str(dataset.name), f"must be [T, H, W], got {list(dataset.shape)}")
    series = read_attribute(dataset.parent, "neurodata_type") is not None
    transposed = (order or ("xy" if series else "yx")) == "xy"
    frames, *sides = map(int, dataset.shape)
    imaging = find_group(dataset.parent, "imaging_plane")
    facts = MovieFacts(
        frames=frames,
        shape=(sides[1], sides[0]) if transposed else (sides[0], sides[1]),
        dtype=dataset.dtype.newbyteorder("="),
        um_per_px=None if imaging is None else read_spacing(imaging, []),
        dataset=str(dataset.name),
    )
    return _check(facts), transposed


def _check(facts: MovieFacts) -> MovieFacts:
    if not facts.frames or not math.prod(facts.shape):
        raise RecordingError("", f"has no frames: {facts.frames} of {list(facts.shape)} px")
    if math.prod(facts.shape) > MAX_PIXELS:
        raise RecordingError("", f"has frames of {list(facts.shape)} px, more than {MAX_PIXELS}")
    return facts


def _check_axes(tiff: Any, page: Any) -> None:
    """Raise if the frames are of several channels, or of several planes at several times."""
    text = str(page.description)[:100_000]
    sizes = {name: int(size) for name, size in re.findall(r'\bSize([CZT])="(\d{1,9})"', text)}
    if tiff.is_imagej:
        told = tiff.imagej_metadata or {}
        names = {"C": "channels", "Z": "slices", "T": "frames"}
        sizes = {axis: int(told.get(name, 1)) for axis, name in names.items()}
    elif tiff.is_scanimage:
        told = (tiff.scanimage_metadata or {}).get("FrameData", {})
        sizes["C"] = np.size(told.get("SI.hChannels.channelSave", 1))
    elif page.is_shaped:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            shape = [side for side in json.loads(page.shaped_description)["shape"] if side > 1]
            sizes = {"Z": 2, "T": 2} if len(shape) > 3 else {}
    channels, planes, times = (sizes.get(axis, 1) for axis in "CZT")
    if channels > _MOST_CHANNELS and planes == times == 1:
        # Writers that are not told what the axis of a movie is call it the channels.
        channels = 1
    if channels > 1 or min(planes, times) > 1:
        raise RecordingError("", "holds several channels, or planes; save one channel of one plane")


def _declared_frames(tiff: Any, page: Any) -> int:
    """Return how many frames ImageJ's and tifffile's own files say there are, or 0."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if tiff.is_imagej:
            return int((tiff.imagej_metadata or {})["images"])
        if page.is_shaped:
            shape = json.loads(page.shaped_description)["shape"]
            return math.prod(shape) // max(1, math.prod(page.shape))
    return 0


def _check_end(path: Path, tiff: Any, pages: int) -> None:
    """Raise unless the chain of pages ends as it should; a broken one is read up to the break."""
    form, last = tiff.tiff, tiff.pages.get(pages - 1, None, aspage=True)
    with path.open("rb") as file:
        file.seek(last.offset)
        count = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
        file.seek(last.offset + form.tagnosize + count * form.tagsize)
        following = file.read(form.offsetsize)
    if len(following) < form.offsetsize or any(following):
        raise RecordingError("", f"is truncated, or damaged: what follows page {pages} is missing")


def _describe_tiff(path: Path, tiff: Any) -> tuple[MovieFacts, int | None]:
    """Return the facts, and where the pixels begin if all frames are stored as one page."""
    tiff.pages.useframes = False
    page = tiff.pages[0]
    shape = tuple(side for side in page.shape if side != 1) if len(page.shape) > 2 else page.shape
    if len(shape) != 2 or page.imagedepth > 1 or page.dtype is None:
        raise RecordingError("", f"has pages of {list(page.shape)} values; save one channel")
    _check_axes(tiff, page)
    dtype = np.dtype(page.dtype).newbyteorder("=")
    frames = len(tiff.pages)
    _check_end(path, tiff, frames)
    offset = None
    if frames == 1:
        # ImageJ's files beyond 4 GB, and tifffile's own, declare one page and store all frames.
        series = first_series(tiff)
        frames = math.prod(series.shape) // math.prod(shape)
        offset = series.dataoffset if frames > 1 else None
        if frames > 1 and offset is None:
            raise RecordingError("", f"stores {frames} frames as one page, packed; save pages")
    scale = read_scale(tiff, page)
    declared = _declared_frames(tiff, page)
    if declared > frames:
        raise RecordingError("", f"is truncated: it declares {declared} frames, {frames} are there")
    if dtype.kind not in "biuf":
        raise RecordingError("", f"must hold real numbers, got {dtype}")
    return _check(MovieFacts(frames, (shape[0], shape[1]), dtype, scale)), offset


def _read_contiguous(
    path: Path, tiff: Any, facts: MovieFacts, step: int, offset: int
) -> Iterator[np.ndarray]:
    page = tiff.pages[0]
    stored = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
    size = math.prod(facts.shape) * stored.itemsize
    if page.bitspersample != stored.itemsize * 8:
        raise RecordingError("", f"stores {page.bitspersample} bits a pixel; save 8 or 16")
    if offset + facts.frames * size > path.stat().st_size:
        raise RecordingError("", f"is truncated: {facts.frames} frames do not fit in it")
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, facts.frames, step):
            count = min(step, facts.frames - start)
            data = file.read(count * size)
            if len(data) < count * size:
                raise RecordingError("", f"is truncated after frame {start}")
            yield np.frombuffer(data, stored).reshape(count, *facts.shape).astype(facts.dtype)


def _read_pages(path: Path, tiff: Any, facts: MovieFacts, step: int) -> Iterator[np.ndarray]:
    block: list[np.ndarray] = []
    first = tiff.pages[0]
    with contextlib.ExitStack() as opened:
        pillow = None
        for number in range(facts.frames):
            page = tiff.pages.get(number, None, aspage=True)
            if page.shape != first.shape or page.dtype != first.dtype:
                what = f"{list(page.shape)} of {page.dtype}"
                raise RecordingError("", f"page {number + 1} is {what}, unlike the first")
            if page.compression in (RAW, *DEFLATE):
                check_segments(path, page)
                frame = page.asarray()
            else:
                pillow = pillow or opened.enter_context(_open_pillow(path, page))
                frame = _seek(pillow, number)
            block.append(frame.reshape(facts.shape).astype(facts.dtype))
            if len(block) == step or number == facts.frames - 1:
                yield np.stack(block)
                block.clear()


def _seek(pillow: Any, number: int) -> np.ndarray:
    with warnings.catch_warnings():
        # What it warns of in damaged files either fails or does not matter.
        warnings.simplefilter("ignore")
        pillow.seek(number)
        return np.asarray(pillow)


def _open_pillow(path: Path, page: Any) -> Any:
    from PIL import Image

    # Its library knows other compressions, but not every depth exactly.
    if page.bitspersample > 16:
        raise RecordingError("", "has a compression that is not known; save it without")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path, formats=("TIFF",))


def write_projection(path: Path | str, image: np.ndarray, um_per_px: float | None) -> None:
    """Write a projection as TIFF with the size of its pixels, if known.

    Args:
        path: file to write, whole or not at all.
        image: `[H, W]` real numbers; booleans are written as 0 and 1.
        um_per_px: size of the pixels, um.

    Raises:
        WorkdirError: if the file cannot be written.
    """
    values = image.astype(np.uint8) if image.dtype == bool else image
    write_image_tiff(path, values, um_per_px, compress=True)
