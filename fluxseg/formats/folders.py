"""Files and folders: what they are, and which folders hold the labels of which."""

import os
from pathlib import Path

from fluxseg.formats.imagej import holds_rois
from fluxseg.formats.json_files import look_into
from fluxseg.formats.label_names import (
    MICROSCOPE_SUFFIXES,
    SAVE_AS_TIFF,
    SEG_ENDING,
    SUITE2P_FILES,
    folder_role,
    is_image_name,
    is_label_name,
)
from fluxseg.formats.microscope_xml import is_accessory, recorded_in
from fluxseg.formats.own import OWN, is_copy, is_prediction

RECORDING_SUFFIXES = (".npy", ".npz", ".nwb", ".mat")  # endings of recordings that are no images
LABELS = ("labels", "seg", "rois", "roi", "coco")  # roles of files with labels
ROLES = ("image", "copy", "recording", *LABELS)
SYSTEM = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")
"""Names that operating systems give, in lower case: like hidden ones they are passed over."""


def list_folder(folder: Path, *, folders: bool = False) -> list[Path]:
    """List the files, or the folders, in a folder, but hidden ones and those of the system.

    Raises `OSError` if it cannot be read.
    """
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if entry.is_dir() == folders]
    return [folder / n for n in sorted(names) if n[0] != "." and n.lower() not in SYSTEM]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder; none if it cannot be read."""
    try:
        return list_folder(folder, folders=True)
    except OSError:
        return []


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder; none if it cannot be read."""
    try:
        return list_folder(folder)
    except OSError:
        return []


def label_folders(folder: Path) -> list[Path]:
    """Return the folders with labels of the images in a folder."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    role, which = folder_role(folder.name)
    found = [path for path in folders_in(folder) if folder_role(path.name) == ("labels", "")]
    # masks beside images, and train_masks beside train.
    which = which if role == "images" else folder.name.casefold()
    found += [p for p in folders_in(folder.parent) if folder_role(p.name) == ("labels", which)]
    return [*found, *_across(folder, "images", "labels")]


def _across(folder: Path, role: str, other: str) -> list[Path]:
    """Return the folders of this name in those of the other role: masks/train of images/train."""
    own, which = folder_role(folder.parent.name)
    if own != role or folder_role(folder.name)[0]:
        return []
    beside = [p for p in folders_in(folder.parent.parent) if folder_role(p.name) == (other, which)]
    return [path / folder.name for path in beside if (path / folder.name).is_dir()]


def image_folders(folder: Path) -> list[Path]:
    """Return the folders with the images of a folder of labels; none if it is no such folder."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    role, which = folder_role(folder.name)
    found = _across(folder, "labels", "images")
    if role == "labels":
        for path in folders_in(folder.parent):
            if folder_role(path.name) == ("images", which) or path.name.casefold() == which:
                found.append(path)
        found += [] if which else [folder.parent]
    return [path for path in found if any(map(is_image_name, files_in(path)))]


def role_of(path: Path) -> str:
    """Return one of `ROLES`, told by the ending of a file or by its content, or why it has none."""
    suffix = path.suffix.lower()
    if is_prediction(path):
        return "copy" if is_image_name(path) and is_copy(path) else OWN
    if path.name.endswith(SEG_ENDING):
        return "seg"
    if path.name in SUITE2P_FILES:
        return "of Suite2p: stat.npy and ops.npy must be beside each other"
    if is_accessory(path):
        return "settings or a preview of ThorImage or PrairieView"
    if suffix == ".raw" and recorded_in(path.parent):
        return "a movie of ThorImage: fluxseg project"
    if is_image_name(path):
        return "labels" if is_label_name(path) else "image"
    if suffix in RECORDING_SUFFIXES:
        return "recording"
    if suffix == ".zip":
        return "rois" if holds_rois(path) else "holds no ROIs"
    if suffix == ".json":
        return {"neurofinder": "rois", "coco": "coco"}.get(look_into(path)[0], "holds no ROIs")
    if suffix in (".h5", ".hdf5"):
        from fluxseg.formats.caiman import holds_caiman  # slow to import

        return "recording" if holds_caiman(path) else "HDF5; a movie? fluxseg project"
    if suffix in MICROSCOPE_SUFFIXES:
        return SAVE_AS_TIFF
    return "roi" if suffix == ".roi" else "ending that is not read"
