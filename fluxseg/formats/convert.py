"""Recordings from any format and to any; what a format cannot hold is said in words."""

import functools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, annotated_masks, check_image
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats import allen_nwb, coco, hdf5, json_files, matlab, neurofinder, npy, pixels
from fluxseg.formats.allen import read_allen_npy, write_allen_npy
from fluxseg.formats.caiman import holds_caiman, read_caiman
from fluxseg.formats.cellpose import close_gaps, read_cellpose, write_cellpose
from fluxseg.formats.finite import write_image
from fluxseg.formats.formats import Format
from fluxseg.formats.imagej import holds_rois, read_imagej, write_imagej
from fluxseg.formats.images import read_image
from fluxseg.formats.label_names import (
    MICROSCOPE_SUFFIXES,
    SAVE_AS_TIFF,
    SEG_ENDING,
    is_image_name,
    is_label_name,
)
from fluxseg.formats.labels import label_image
from fluxseg.formats.npz import read_npz, write_npz
from fluxseg.formats.nwb import read_nwb
from fluxseg.formats.nwb_write import write_nwb
from fluxseg.formats.pairs import find_image, find_labels
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.suite2p import is_suite2p, read_suite2p, write_suite2p

NEED_IMAGE = ("imagej", "neurofinder", "coco", "cellpose", "caiman")
"""Formats whose image is another file."""
_GUESSES: dict[str, Format] = {
    "_seg.npy": "cellpose",
    ".npy": "allen",
    ".npz": "npz",
    ".tif": "labels",
    ".tiff": "labels",
    ".zip": "imagej",
    ".nwb": "nwb",
    ".json": "coco",
}


def detect_format(path: Path | str) -> str:
    """Tell the format of a file, or folder of Suite2p or Neurofinder, by its content.

    Returns one of `Format`, "caiman" or "mat", or "image" for TIFF, PNG and other images.
    """
    path = Path(path)
    with npy.naming_file(path):
        if path.is_dir():
            if is_suite2p(path) or (path / "suite2p").is_dir() or any(path.glob("plane*/stat.npy")):
                return "suite2p"
            if neurofinder.is_neurofinder(path):
                return "neurofinder"
            raise RecordingError("", "is a folder of no known kind (Suite2p, Neurofinder)")
        with npy.open_regular(path) as (file, _):
            start = file.read(64)
        kind, why = _tell(path, start)
        if not kind:
            raise RecordingError("", why)
        return kind


def _tell(path: Path, start: bytes) -> tuple[str, str]:
    """Return the format of a file that begins so, or "" and what it is instead."""
    if start.startswith(npy.MAGIC):
        return "cellpose" if path.name.endswith(SEG_ENDING) else "allen", ""
    if start.startswith(tuple(pixels.MAGICS)):
        return "image", ""
    if start.startswith(b"Iout"):
        return "imagej", ""
    if start.startswith(b"PK\x03\x04"):
        with npy.explain_damage("is a damaged .zip file"), zipfile.ZipFile(path) as archive:
            arrays = any(name.lower().endswith(".npy") for name in archive.namelist())
        kind = "npz" if arrays else "imagej" if holds_rois(path) else ""
        return kind, "is a .zip file with neither arrays (.npz) nor ImageJ ROIs in it"
    if start.startswith((matlab.MAGIC, matlab.MAGIC_HDF5)):
        return "mat", ""
    if start.startswith(hdf5.MAGIC):
        with hdf5.open_hdf5(path) as opened:
            kind = "nwb" if allen_nwb.kind_of(opened) else "caiman" if holds_caiman(path) else ""
        what = "is an HDF5 file, but not NWB"
        return kind, f"{what}; of a movie make a projection with `fluxseg project`"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        kind = json_files.kind_of(json_files.read_json_file(path))
        return kind, "is JSON, but neither COCO nor Neurofinder's regions"
    if start.startswith(b"\x80"):
        return "", "looks like a bare pickle; save the dict with numpy.save instead"
    if start.startswith(b"PK"):
        return "", "is an empty or split .zip file"
    if path.suffix.lower() in MICROSCOPE_SUFFIXES:
        return "", f"is in {SAVE_AS_TIFF}"
    return "", "is in no known format; `fluxseg convert --help` lists them"


def read_recording(
    path: Path | str, image: Path | str | None = None, pick: Pick = NO_PICK
) -> Recording:
    """Read a recording in any known format, which its content tells, not its name.

    Args:
        path: `.npy` (a dict as Allen's, or Cellpose's `_seg.npy`), `.npz`, TIFF, PNG or JPEG file
            (its labels are looked for, see `fluxseg.formats.pairs`), NWB file, Suite2p or
            Neurofinder folder, ImageJ ROI set, COCO file with an image beside it.
        image: the image of a file that holds ROIs only, as a label image does; None looks beside
            the file.
        pick: which channel, plane or array is read, if there are several.

    Returns:
        The recording.

    Raises:
        UnsafeFileError: if the file asks for anything but plain data, naming it.
        RecordingError: whose text begins with the path, if the file cannot be used.
    """
    path = Path(path)
    kind = detect_format(path)
    with npy.naming_file(path):
        if kind in ("imagej", "coco", "neurofinder") and image is None and path.is_file():
            image = find_image(path)
        return _READERS[kind](path, None if image is None else Path(image), pick)


def _read_plain(path: Path) -> Recording | None:
    """Read a `.npy` file of one image `[H, W]`; None of any other that may be a recording."""
    try:
        array = npy.open_npy(path)
    except RecordingError:
        return None
    if array.ndim == 3:
        raise RecordingError("", pixels.movie_text(len(array)))
    if array.ndim != 2:
        raise RecordingError("", f"holds an array {list(array.shape)}, no image [H, W]")
    check_image(array)
    return Recording(path.stem, np.array(array), None, (), remarks=(NO_GROUP,))


def _read_labelled(path: Path, pick: Pick) -> Recording:
    """Read an image with the labels that belong to it, of whatever kind they are."""
    labels = find_labels(path)
    if not labels or is_image_name(labels[0]):
        return read_image(path, labels, pick)
    if len(labels) > 1:
        return read_imagej(labels, path, pick)
    return _READERS[detect_format(labels[0])](labels[0], path, pick)


_READERS: dict[str, Callable[[Path, Path | None, Pick], Recording]] = {
    "image": lambda path, image, pick: (
        read_image(image, [path], pick) if image else _read_labelled(path, pick)
    ),
    "allen": lambda path, *_: _read_plain(path) or read_allen_npy(path),
    "npz": lambda path, _, pick: read_npz(path, pick),
    "mat": lambda path, _, pick: matlab.read_mat(path, pick),
    "nwb": lambda path, _, pick: read_nwb(path, plane=pick.plane, image=pick.key),
    "suite2p": lambda path, _, pick: read_suite2p(path, plane=pick.plane),
    "cellpose": read_cellpose,
    "imagej": read_imagej,
    "caiman": read_caiman,
    "neurofinder": neurofinder.read_neurofinder,
    "coco": coco.read_coco,
}


def guess_format(path: Path) -> Format:
    """Return the format that the ending of an output's name asks for; a folder is Suite2p's."""
    for ending, kind in _GUESSES.items():
        if path.name.lower().endswith(ending):
            return kind
    if not path.suffix:
        return "suite2p"
    known = ", ".join(_GUESSES)
    raise WorkdirError(f"{path}: its ending tells no format; use --format, or one of {known}")


def write_recording(
    path: Path | str, recording: Recording, format: Format | None = None, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Write a recording in any format.

    Args:
        path: file to write, or folder for Suite2p and Neurofinder.
        recording: with masks; NWB, npz and labels can do without.
        format: the format; None follows the ending of the path.
        overwrite: write over what is there.

    Returns:
        Remarks on what the format cannot hold.

    Raises:
        RecordingError: if the format needs what the recording does not have.
        WorkdirError: if something is there already, or it cannot be written.
    """
    path = Path(path)
    kind = format or guess_format(path)
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise WorkdirError(f"{path}: is there already; choose another name, or --overwrite")
    if kind == "neurofinder":
        # Frames of an earlier, larger result must not stay beside the new one.
        for name in ("regions", "images"):
            shutil.rmtree(path / name, ignore_errors=True)
    return _WRITERS[kind](path, recording)


def _write_pair(path: Path, recording: Recording, word: str) -> tuple[str, ...]:
    """Write a recording as `NAME.tif` and `NAME_WORD.tif`; Cellpose trains on such, with masks."""
    if path.suffix not in (".tif", ".tiff") or (word == "masks" and is_label_name(path)):
        raise WorkdirError(f"{path}: must be named as an image: NAME.tif, not as masks")
    if recording.masks is None and word == "labels":
        return (*write_image(path, recording), "it is not annotated: there is no label image")
    labels, remarks = label_image(annotated_masks(recording), recording.roi_ids)
    changes = write_image(path, recording)
    beside = path.with_name(f"{path.stem}_{word}{path.suffix}")
    # Cellpose wants no gaps; else label k stays the k-th ROI, to which traces belong.
    labels = close_gaps(labels)[0] if word == "masks" else labels
    pixels.write_image_tiff(beside, labels, compress=True)
    return (*changes, *remarks, "ROI ids, group and metadata have no place in a pair of images")


_WRITERS: dict[str, Callable[[Path, Recording], tuple[str, ...]]] = {
    "allen": write_allen_npy,
    "npz": write_npz,
    "labels": functools.partial(_write_pair, word="labels"),
    "cellpose": write_cellpose,
    "cellpose-pair": functools.partial(_write_pair, word="masks"),
    "suite2p": write_suite2p,
    "imagej": write_imagej,
    "nwb": write_nwb,
    "neurofinder": neurofinder.write_neurofinder,
    "coco": coco.write_coco,
}
