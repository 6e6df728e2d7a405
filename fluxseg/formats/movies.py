"""Movies as streams of blocks of frames, of which little is held in memory.

TIFF and HDF5 files, arrays in `.npy` files, the `data.bin` of Suite2p, and frames as PNG files.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.hdf5_movies import axes_of, choose_movie, read_rate
from fluxseg.formats.label_names import MICROSCOPE_SUFFIXES, SAVE_AS_TIFF
from fluxseg.formats.microscope_xml import Recorded, find_recorded, open_raw
from fluxseg.formats.npy import MAGIC as NPY_MAGIC
from fluxseg.formats.npy import file_error, naming_file, open_npy, open_regular
from fluxseg.formats.nwb import read_spacing
from fluxseg.formats.pick import NO_PICK, Pick, choose
from fluxseg.formats.pixels import MAGICS, PNG_MAGIC, read_image_of, read_pixels
from fluxseg.formats.stacks import read_stack
from fluxseg.formats.suite2p_ops import field_shape, read_ops, read_ops_metadata
from fluxseg.formats.tiff import MAX_PIXELS, get_page, open_tiff

BLOCK_BYTES = 2**24  # bytes of a block of frames, if its length is not chosen
MAX_CHUNK = 2**28  # bytes that a stored chunk of an HDF5 dataset may take in memory
Read = Callable[[int, int], np.ndarray]
"""Gives so many frames `[T, H, W]` from a number on, of those that there are."""


@dataclasses.dataclass(frozen=True)
class MovieFacts:
    """What is known about a movie before it is read."""

    frames: int  # number of frames
    shape: tuple[int, int]  # height and width of a frame, px
    dtype: np.dtype  # of the pixels, in the byte order of the machine
    um_per_px: float | None = None  # size of the pixels, or None
    rate: float | None = None  # frames per second, or None
    remarks: tuple[str, ...] = ()  # what was odd


def read_movie_facts(path: Path | str | Sequence[Path], pick: Pick = NO_PICK) -> MovieFacts:
    """Tell length, size and dtype of a movie (see `iterate_frames`) without reading its frames."""
    parts, found = _parts(path), []
    for part in parts:
        with _open(part, pick) as (facts, _, _):
            found.append(facts)
        if (facts.shape, facts.dtype) != (found[0].shape, found[0].dtype):
            what = f"{list(facts.shape)} px of {facts.dtype}"
            raise file_error(part, f"has frames of {what}, unlike {parts[0].name}")
    remarks = dict.fromkeys(remark for facts in found for remark in facts.remarks)
    frames = sum(facts.frames for facts in found)
    return dataclasses.replace(found[0], frames=frames, remarks=tuple(remarks))


def iterate_frames(
    path: Path | str | Sequence[Path], chunk: int = 0, pick: Pick = NO_PICK, start: int = 0
) -> Iterator[np.ndarray]:
    """Yield the frames of a movie in blocks `[T, H, W]` of its dtype, T at most `chunk`.

    A movie is a TIFF file, with a page for each frame or all frames behind one page (ImageJ's large
    stacks, BigTIFF included), an HDF5 file, a `.npy` file of `[T, H, W]`, or `data.bin` with
    Suite2p's `ops.npy` beside it; several are parts of one movie. With a `chunk` of 0 a block has
    as many frames as take `BLOCK_BYTES`. The first `start` frames are left out.

    The `key` of `pick` is the dataset in an HDF5 file, and `axes` the order of its axes, where the
    file does not tell it: then (time, height, width), but (time, width, height) as the schema says
    for a series of an NWB file.
    """
    facts = read_movie_facts(path, pick)
    length = chunk or max(1, BLOCK_BYTES // (math.prod(facts.shape) * facts.dtype.itemsize))
    block: list[np.ndarray] = []
    for part in _parts(path):
        with _open(part, pick) as (facts, read, stored):
            # A stored chunk that two blocks share would be unpacked twice.
            step = max(1, length // stored) * stored if stored <= 4 * length else length
            for begin in range(start, facts.frames, step):
                frames = read(begin, step)
                if len(frames) == length and not block:
                    yield frames
                    continue
                block += list(frames)
                while len(block) >= length:
                    yield np.stack(block[:length])
                    del block[:length]
            start = max(start - facts.frames, 0)
    if block:
        yield np.stack(block)


def read_ahead(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks; while one is worked on, a thread reads and decodes the next."""
    coming = iter(blocks)
    with ThreadPoolExecutor(1) as pool:
        block = pool.submit(next, coming, None)
        while (found := block.result()) is not None:
            block = pool.submit(next, coming, None)
            yield found


def _parts(path: Path | str | Sequence[Path]) -> list[Path]:
    return [Path(path)] if isinstance(path, Path | str) else list(path)


def _kind(path: Path) -> str:
    """Return HDF5, TIFF, PNG or array."""
    with naming_file(path), open_regular(path) as (file, _):
        start = file.read(512 + len(hdf5.MAGIC))
        if start.startswith(hdf5.MAGIC) or start[512:] == hdf5.MAGIC:
            return "HDF5"
        if start.startswith(NPY_MAGIC) or is_suite2p_movie(path) or find_raw(path):
            return "array"
        if start.startswith(PNG_MAGIC):
            return "PNG"
        if MAGICS.get(start[:4]) != "TIFF":
            if path.suffix.lower() in MICROSCOPE_SUFFIXES:
                raise RecordingError("", f"is in {SAVE_AS_TIFF}")
            raise RecordingError("", "is no movie: neither TIFF, HDF5, .npy nor Suite2p's data.bin")
        return "TIFF"


def is_suite2p_movie(path: Path) -> bool:
    """Tell whether a file is the registered movie of a plane of Suite2p."""
    return path.suffix == ".bin" and (path.parent / "ops.npy").is_file()


def find_raw(path: Path) -> Recorded | None:
    """Return the recording of a raw file of ThorImage; None of any other file."""
    return find_recorded(path) if path.suffix.lower() == ".raw" else None


def _open_array(path: Path, pick: Pick) -> tuple[np.ndarray, MovieFacts]:
    """Map a movie that is one array into memory."""
    if recorded := find_raw(path):
        array = open_raw(path, recorded, pick)
        scale, rate = recorded.um_per_px, recorded.rate
        return array, MovieFacts(len(array), recorded.raw[1:], array.dtype, scale, rate)
    if path.suffix != ".bin":
        array = open_npy(path)
        if array.ndim != 3 or array.dtype.kind == "c":
            what = f"{list(array.shape)} of {array.dtype}"
            raise RecordingError("", f"must be [T, H, W] of real numbers, got {what}")
        count, height, width = array.shape
        return array, MovieFacts(count, (height, width), array.dtype.newbyteorder("="))
    ops = read_ops(path.parent)
    with naming_file("ops.npy"):
        height, width = field_shape(ops)
    count, left = divmod(path.stat().st_size, 2 * height * width)
    declared = ops.get("nframes")
    remarks: tuple[str, ...] = ()
    if left or (isinstance(declared, int | np.integer) and declared != count):
        remarks = (f"data.bin holds {count} whole frames, ops.npy declares {declared}",)
    found = ops.get("fs")
    rate = float(found) if isinstance(found, int | float | np.floating) else 0.0
    scale, known = read_ops_metadata(ops).get("um_per_px"), rate if 0 < rate < 1e5 else None
    array = np.memmap(path, np.int16, "r", 0, (count, height, width)) if count else np.zeros(0)
    dtype = np.dtype(np.int16)
    return array, MovieFacts(count, (height, width), dtype, scale, known, remarks)


def _read_part(
    path: Path, array: np.ndarray, facts: MovieFacts, start: int, count: int
) -> np.ndarray:
    """Read frames of a mapped array; mapped pages would count as the memory of the process."""
    frames = np.asarray(array[start : start + count])
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        offset = array.offset + start * array[0].nbytes
        stored = np.fromfile(path, array.dtype, frames.size, offset=offset)
        frames = stored.reshape(frames.shape)
    return frames.astype(facts.dtype, copy=False)


@contextlib.contextmanager
def _open(path: Path, pick: Pick) -> Iterator[tuple[MovieFacts, Read, int]]:
    """Open one file; give what is known, what reads it, and how many frames are stored as one."""
    kind = _kind(path)
    if kind == "HDF5":
        with hdf5.open_hdf5(path) as file:
            dataset = choose_movie(file, pick.key)
            facts, axes = _describe_dataset(dataset, pick)
            stored = dataset.chunks[axes.index("T")] if dataset.chunks else 1
            yield facts, functools.partial(_read_dataset, dataset, facts, axes, pick), stored
    elif kind == "array":
        with naming_file(path):
            array, facts = _open_array(path, pick)
            yield _check(facts), functools.partial(_read_part, path, array, facts), 1
    elif kind == "PNG":
        image, _ = read_pixels(path, pick=pick)
        yield MovieFacts(1, image.shape, image.dtype), lambda *_: image[None], 1
    else:
        with naming_file(path), open_tiff(path) as tiff:
            stack, page = read_stack(path, tiff, pick), get_page(tiff, 0)
            numbers, shape = stack.select(pick), (page.imagelength, page.imagewidth)
            dtype = np.dtype(np.uint8) if page.photometric == 3 else page.dtype.newbyteorder("=")
            told = stack.told
            facts = MovieFacts(len(numbers), shape, dtype, told.um_per_px, told.rate, told.remarks)

            def read(start: int, count: int) -> np.ndarray:
                chosen = numbers[start : start + count].tolist()
                frames = np.stack([read_image_of(path, tiff, stack, n, pick) for n in chosen])
                return frames.astype(frames.dtype.newbyteorder("="), copy=False)

            yield _check(facts), read, 1


def _check(facts: MovieFacts) -> MovieFacts:
    if not facts.frames or not math.prod(facts.shape):
        raise RecordingError("", f"has no frames: {facts.frames} of {list(facts.shape)} px")
    if math.prod(facts.shape) > MAX_PIXELS:
        raise RecordingError("", f"has frames of {list(facts.shape)} px, more than {MAX_PIXELS}")
    return facts


def _describe_dataset(dataset: h5py.Dataset, pick: Pick) -> tuple[MovieFacts, str]:
    """Return the facts, and the letters of the axes."""
    hdf5.check_dataset(dataset, MAX_CHUNK)
    if not 3 <= len(dataset.shape) <= 5 or dataset.dtype.names:
        raise RecordingError(str(dataset.name), f"must be [T, H, W], got {list(dataset.shape)}")
    axes = axes_of(dataset, pick)
    sizes = dict(zip(axes, map(int, dataset.shape), strict=True))
    for axis, what, wanted in (("C", "channel", pick.channel), ("Z", "plane", pick.plane)):
        choose(what, [str(n + 1) for n in range(min(sizes.get(axis, 1), 1000))], wanted)
    imaging = hdf5.find_group(dataset.parent, "imaging_plane")
    scale = None if imaging is None else read_spacing(imaging, [])
    shape, dtype = (sizes["Y"], sizes["X"]), dataset.dtype.newbyteorder("=")
    return _check(MovieFacts(sizes["T"], shape, dtype, scale, read_rate(dataset))), axes


def _read_dataset(
    dataset: h5py.Dataset, facts: MovieFacts, axes: str, pick: Pick, start: int, count: int
) -> np.ndarray:
    where: dict[str, Any] = {"C": int(pick.channel or 1) - 1, "Z": int(pick.plane or 1) - 1}
    where["T"] = slice(start, start + count)
    frames = np.asarray(dataset[tuple(where.get(axis, slice(None)) for axis in axes)])
    order = [[axis for axis in axes if axis in "TYX"].index(axis) for axis in "TYX"]
    return frames.transpose(order).astype(facts.dtype)
