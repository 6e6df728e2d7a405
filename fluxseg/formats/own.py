"""What `fluxseg predict` has written, told by what is in it: it is never taken for an input.

Every output holds `MARK`, most near their begin or end. Labels, NWB and COCO files, and folders of
Suite2p and Neurofinder also hold a checksum of the labels: once somebody has corrected them they
are labels like any others.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import FluxsegError
from fluxseg.formats.finite import COPY
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.pixels import write_image_tiff

MARK = "fluxseg predict"  # in every file that `fluxseg predict` writes
OWN = "written by fluxseg predict"  # why such a file is not used
TABLE_COLUMNS = (
    "neuron", "x_px", "y_px", "area_px", "area_um2", "diameter_px", "mean_probability",
    "confidence", "contrast",
)  # fmt: skip
"""Columns of the table of neurons, by which such a file is known."""
LOOKED_AT = 2**16  # bytes at the begin and the end of a file in which the mark is looked for
_SUM = re.compile(rf"{MARK} \[[0-9a-f]{{8}}\]".encode())


def is_prediction(path: Path) -> bool:
    """Tell whether a file is what `fluxseg predict` has written, and not corrected since."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            if MARK.encode() not in start and path.suffix.lower() in (".zip", ".json", ".npy"):
                file.seek(max(path.stat().st_size - LOOKED_AT, 0))
                start = file.read(LOOKED_AT)
    except IsADirectoryError:
        return _is_own_recording(path)
    except OSError:
        return False
    if path.suffix.lower() == ".nwb":
        return _is_own_recording(path)
    if MARK.encode() not in start:
        return start.replace(b'"', b"").startswith(",".join(TABLE_COLUMNS[:6]).encode())
    found = _SUM.search(start)
    if found and path.suffix.lower() == ".json":
        return _is_own_recording(path)
    if found is None:
        return True
    import tifffile

    try:
        return sign_masks(tifffile.imread(path)) == found[0].decode()
    except Exception:
        # Damaged files meet the library with exceptions of any kind, and are no predictions.
        return False


def is_copy(path: Path) -> bool:
    """Tell whether a file is an image that `fluxseg predict` has copied beside its labels."""
    with path.open("rb") as file:
        return COPY.encode() in file.read(4096)


def sign_masks(labels: np.ndarray) -> str:
    """Return the text `made_by` that metadata of predicted `labels` `[H, W]` hold in all formats.

    It tells, wherever the metadata can be read again, whether somebody has corrected the masks. The
    checksum in it does not depend on the dtype.
    """
    return f"{MARK} [{zlib.crc32(np.ascontiguousarray(labels, '<u4').tobytes()):08x}]"


def _is_own_recording(path: Path) -> bool:
    """Tell of a file of NWB or COCO, or a folder of Suite2p or Neurofinder."""
    # Slow to import, and needed for few files.
    from fluxseg.formats.coco import read_coco
    from fluxseg.formats.hdf5 import open_hdf5, read_plain
    from fluxseg.formats.neurofinder import read_neurofinder
    from fluxseg.formats.nwb import read_nwb
    from fluxseg.formats.suite2p import read_suite2p

    recording = None
    try:
        if path.is_dir():
            readers: dict[str, Any] = {"ops.npy": read_suite2p, "info.json": read_neurofinder}
            for name, read in readers.items():
                if (path / name).is_file() and MARK.encode() in (path / name).read_bytes():
                    recording = read(path)
        elif path.suffix.lower() == ".json":
            recording = read_coco(path)
        else:
            with open_hdf5(path) as file:
                marked = MARK in str(read_plain(file, "general/notes"))
            recording = read_nwb(path) if marked else None
    except (OSError, FluxsegError):
        return False
    if recording is None or recording.masks is None:
        return False
    return bool(recording.metadata.get("made_by") == sign_masks(merge_labels(recording.masks)))


def write_labels(path: Path, labels: np.ndarray, um_per_px: float | None) -> None:
    """Write predicted labels `[H, W]` uint16 or uint32 as a TIFF that ImageJ shows in colours.

    ImageJ knows no uint32 and shows it in grey. `um_per_px` is None if it is not known.
    """
    top = max(int(labels.max(initial=0)), 1)
    shown = {"min": 0, "max": top, "LUTs": [palette().T]} if labels.dtype == np.uint16 else None
    code = sign_masks(labels)
    write_image_tiff(path, labels, um_per_px, compress=True, software=code, imagej=shown)


def palette() -> np.ndarray:
    """Return 256 colours `[256, 3]` uint8: black, then ones unlike their neighbours in number."""
    # Steps of the golden ratio set the hues of successive numbers far apart.
    hues = (np.arange(256) * 0.618034) % 1
    colors = 0.5 + 0.5 * np.cos(2 * np.pi * (hues[:, None] + np.array([0, 1, 2]) / 3))
    colors = np.rint(55 + 200 * colors).astype(np.uint8)
    colors[0] = 0
    return colors
