"""One recording from any format to any other; what a format cannot hold is said in words."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, check_image, pixel_size
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats import coco, neurofinder
from fluxseg.formats.allen import read_allen_npy, write_allen_npy
from fluxseg.formats.allen_nwb import kind_of, read_allen_nwb
from fluxseg.formats.caiman import is_caiman, read_caiman
from fluxseg.formats.cellpose import read_cellpose, write_cellpose, write_cellpose_pair
from fluxseg.formats.finite import finite_image
from fluxseg.formats.formats import Format
from fluxseg.formats.hdf5 import MAGIC as HDF5_MAGIC
from fluxseg.formats.hdf5 import open_hdf5
from fluxseg.formats.imagej import holds_rois, read_imagej, write_imagej
from fluxseg.formats.images import read_image
from fluxseg.formats.json_files import is_coco, is_regions, read_json_file
from fluxseg.formats.label_names import MICROSCOPE_SUFFIXES, SAVE_AS_TIFF, SEG_ENDING, is_image_name
from fluxseg.formats.labels import label_image
from fluxseg.formats.matlab import MAGIC as MATLAB_5
from fluxseg.formats.matlab import MAGIC_HDF5 as MATLAB_73
from fluxseg.formats.matlab import read_mat
from fluxseg.formats.npy import MAGIC as NPY_MAGIC
from fluxseg.formats.npy import explain_damage, naming_file, open_npy, open_regular
from fluxseg.formats.npz import read_npz, write_npz
from fluxseg.formats.nwb import read_nwb
from fluxseg.formats.nwb_write import write_nwb
from fluxseg.formats.pairs import find_image, find_labels
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import MAGICS as IMAGE_MAGICS
from fluxseg.formats.pixels import movie_text, write_image_tiff, write_label_tiff
from fluxseg.formats.suite2p import is_suite2p, read_suite2p, write_suite2p

NEED_IMAGE = ("imagej", "neurofinder", "coco", "cellpose", "caiman")
"""Formats whose image is another file."""
_READERS: dict[str, Callable[..., Recording]] = {
    "allen": read_allen_npy,
    "cellpose": read_cellpose,
    "imagej": read_imagej,
    "allen-nwb": read_allen_nwb,
    "caiman": read_caiman,
    "neurofinder": neurofinder.read_neurofinder,
    "coco": coco.read_coco,
}
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

    Returns one of `Format`, "allen-nwb", "caiman" or "mat", or "image" for TIFF, PNG and other
    images. Raises `RecordingError`, naming the path, if it is in no known format.
    """
    path = Path(path)
    with naming_file(path):
        is_folder = path.is_dir()
    if is_folder:
        if is_suite2p(path) or (path / "suite2p").is_dir() or any(path.glob("plane*/stat.npy")):
            return "suite2p"
        if neurofinder.is_neurofinder(path):
            return "neurofinder"
        raise RecordingError(str(path), "is a folder of no known kind (Suite2p, Neurofinder)")
    with naming_file(path), open_regular(path) as (file, _):
        start = file.read(64)
    if start.startswith(NPY_MAGIC):
        return "cellpose" if path.name.endswith(SEG_ENDING) else "allen"
    if start.startswith(tuple(IMAGE_MAGICS)):
        return "image"
    if start.startswith(b"Iout"):
        return "imagej"
    if start.startswith(b"PK\x03\x04"):
        return _detect_zip(path)
    if start.startswith((MATLAB_5, MATLAB_73)):
        return "mat"
    if start.startswith(HDF5_MAGIC):
        return _detect_hdf5(path)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _detect_json(path)
    if start.startswith(b"\x80"):
        why = "looks like a bare pickle; save the dict with numpy.save instead"
    elif start.startswith(b"PK"):
        why = "is an empty or split .zip file"
    elif path.suffix.lower() in MICROSCOPE_SUFFIXES:
        why = f"is in {SAVE_AS_TIFF}"
    else:
        why = "is in no known format; `fluxseg convert --help` lists them"
    raise RecordingError(str(path), why)


def read_any(path: Path | str, image: Path | str | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from a file or folder in any known format, told by its content.

    `image` is for formats that hold ROIs only; None looks beside the file. Raises `UnsafeFileError`
    if a file asks for anything but plain data, and `RecordingError`, whose text begins with the
    path, if it cannot be used.
    """
    path = Path(path)
    kind = detect_format(path)
    if kind == "image":
        return _read_labelled(path, pick)
    if kind == "nwb":
        return read_nwb(path, plane=pick.plane or None, image=pick.key or None)
    if kind == "suite2p":
        return read_suite2p(path, plane=pick.plane)
    if kind in ("npz", "mat"):
        return (read_npz if kind == "npz" else read_mat)(path, pick)
    if kind == "allen" and (plain := _read_plain(path)) is not None:
        return plain
    reader = _READERS[kind]
    if kind in ("imagej", "coco", "neurofinder") and image is None and path.is_file():
        with naming_file(path):
            image = find_image(path)
    return reader(path, image, pick=pick) if kind in NEED_IMAGE else reader(path)


def _read_plain(path: Path) -> Recording | None:
    """Read a `.npy` file of one image `[H, W]`; None of any other that may be a recording."""
    try:
        array = open_npy(path)
    except RecordingError:
        return None
    with naming_file(path):
        if array.ndim == 3:
            raise RecordingError("", movie_text(len(array)))
        if array.ndim != 2:
            raise RecordingError("", f"holds an array {list(array.shape)}, no image [H, W]")
        check_image(array)
        return Recording(path.stem, np.array(array), None, (), remarks=(NO_GROUP,))


def _read_labelled(path: Path, pick: Pick) -> Recording:
    """Read an image with the labels that belong to it, of whatever kind they are."""
    with naming_file(path):
        labels = find_labels(path)
    if not labels or is_image_name(labels[0]):
        return read_image(path, labels, pick)
    if len(labels) > 1:
        return read_imagej(labels, path, pick=pick)
    return _READERS[detect_format(labels[0])](labels[0], path, pick=pick)


def guess_format(path: Path | str) -> Format:
    """Return the format that the ending of an output's name asks for; a folder is Suite2p's.

    Raises `WorkdirError` if it asks for none.
    """
    name = Path(path).name.lower()
    for ending, kind in _GUESSES.items():
        if name.endswith(ending):
            return kind
    if not Path(path).suffix:
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


def convert(
    source: Path | str,
    target: Path | str,
    format: Format | None = None,
    *,
    image: Path | str | None = None,
    pick: Pick = NO_PICK,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Convert one recording; returns the remarks of `read_any` and of `write_recording`."""
    kind = format or guess_format(target)
    recording = read_any(source, image, pick)
    return (*recording.remarks, *write_recording(target, recording, kind, overwrite=overwrite))


def _write_labels(path: Path, recording: Recording) -> tuple[str, ...]:
    image, changes = finite_image(recording.image)
    write_image_tiff(path, image, pixel_size(recording.metadata))
    if recording.masks is None:
        return (*changes, "it is not annotated: there is no label image")
    labels, remarks = label_image(recording.masks, recording.roi_ids)
    write_label_tiff(path.with_name(f"{path.stem}_labels{path.suffix}"), labels)
    return (*changes, *remarks, "ROI ids, group and metadata have no place in images")


_WRITERS: dict[str, Callable[[Path, Recording], tuple[str, ...]]] = {
    "allen": write_allen_npy,
    "npz": write_npz,
    "labels": _write_labels,
    "cellpose": write_cellpose,
    "cellpose-pair": write_cellpose_pair,
    "suite2p": write_suite2p,
    "imagej": write_imagej,
    "nwb": write_nwb,
    "neurofinder": neurofinder.write_neurofinder,
    "coco": coco.write_coco,
}


def _detect_zip(path: Path) -> str:
    with naming_file(path):
        with explain_damage("is a damaged .zip file"), zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
        if any(name.endswith(".npy") for name in names):
            return "npz"
        if holds_rois(path):
            return "imagej"
        raise RecordingError("", "is a .zip file with neither arrays (.npz) nor ImageJ ROIs in it")


def _detect_hdf5(path: Path) -> str:
    with open_hdf5(path) as file:
        kind = "caiman" if is_caiman(file) else kind_of(file)
        if not kind:
            where = "of a movie make a projection with `fluxseg project`"
            raise RecordingError("", f"is an HDF5 file, but not NWB; {where}")
    return "allen-nwb" if kind == "allen-1" else kind


def _detect_json(path: Path) -> str:
    values = read_json_file(path)
    if is_coco(values):
        return "coco"
    if is_regions(values):
        return "neurofinder"
    raise RecordingError(str(path), "is JSON, but neither COCO nor Neurofinder's regions")
