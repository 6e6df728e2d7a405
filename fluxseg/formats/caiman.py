"""CaImAn's results in HDF5, as `CNMF.save` writes them.

`estimates/A` is a sparse matrix [pixels, ROIs] whose pixels run down the columns of the field,
`dims` are its height and width, `estimates/idx_components` the ROIs that were accepted, and
`estimates/Cn` the correlation image (CaImAn 1.9, `caiman/source_extraction/cnmf`).
"""

from pathlib import Path

import numpy as np

from fluxseg.data.recording import Recording, check_image
from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.labels import masks_from_array
from fluxseg.formats.matlab import read_csc
from fluxseg.formats.metadata import create_recording
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels


def read_caiman(path: Path, image: Path | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read the ROIs of CaImAn's results, of which only the accepted ones count if it judged them.

    `image` is a file of the field; None takes the correlation image in the results. The names of
    the ROIs are their numbers in `A`, from 0.
    """
    remarks: list[str] = []
    with hdf5.open_hdf5(path) as file:
        field = hdf5.find_dataset(file, "estimates/Cn")
        if image is not None:
            pixels = read_pixels(image, pick=pick)[0]
        elif field is None:
            raise RecordingError("estimates/Cn", "is missing: name an image (--image FILE)")
        else:
            pixels = hdf5.read_numbers(field)
        check_image(pixels, "image")
        dims = hdf5.find_dataset(file, "dims") or hdf5.find_dataset(file, "estimates/dims")
        sides = None if dims is None else hdf5.read_numbers(dims, 1024).ravel().tolist()
        if sides not in (None, list(pixels.shape)):
            raise RecordingError("dims", f"are {sides} px, the image is {list(pixels.shape)}")
        group = hdf5.find_group(file, "estimates/A")
        if group is None:
            raise RecordingError("estimates/A", "is missing: these are no results of CaImAn")
        matrix = read_csc(group, ("data", "indices", "indptr"), pixels.size)
        masks, names = masks_from_array(matrix, pixels.shape, "estimates/A", remarks)
        accepted = hdf5.find_dataset(file, "estimates/idx_components")
        if accepted is not None and accepted.dtype.kind in "iu" and accepted.shape:
            chosen = np.unique(hdf5.read_numbers(accepted, 2**26).ravel())
            chosen = chosen[(chosen >= 0) & (chosen < len(masks))].astype(int)
            remarks.append(f"{len(masks) - len(chosen)} of {len(masks)} ROIs are not accepted")
            masks, names = masks[chosen], tuple(names[number] for number in chosen)
    return create_recording({}, path.stem, pixels, masks, names, {}, remarks)


def holds_caiman(path: Path) -> bool:
    """Tell whether an HDF5 file holds the results of CaImAn; False if it cannot be read."""
    try:
        with hdf5.open_hdf5(path) as file:
            return hdf5.find_group(file, "estimates/A") is not None
    except RecordingError:
        return False
