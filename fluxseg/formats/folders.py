"""Folders: what is in them, and which hold the labels of which."""

import os
from pathlib import Path

from fluxseg.formats.label_names import folder_role, is_image_name

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
