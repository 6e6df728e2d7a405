"""Names of the formats that recordings are written in."""

from typing import Literal

Format = Literal[
    "allen", "npz", "labels", "cellpose", "cellpose-pair", "suite2p", "imagej", "nwb",
    "neurofinder", "coco",
]  # fmt: skip
PredictFormat = Literal[
    "labels", "overlay", "table", "probability", "mask", "npz", "suite2p", "cellpose", "imagej",
    "nwb", "neurofinder", "coco",
]  # fmt: skip
"""What `fluxseg predict` writes; labels, overlay, table and probability by default."""
TracesFormat = Literal[
    "suite2p", "npz", "csv", "nwb", "labels", "cellpose", "imagej", "neurofinder", "coco"
]
"""What `fluxseg extract` writes."""
ENDINGS: dict[Format, str] = {
    "allen": ".npy",
    "npz": ".npz",
    "labels": ".tif",
    "cellpose": "_seg.npy",
    "cellpose-pair": ".tif",
    "suite2p": "_suite2p",
    "imagej": "_rois.zip",
    "nwb": ".nwb",
    "neurofinder": "_neurofinder",
    "coco": ".json",
}
"""What the name of a recording is followed by in each format; without a dot it is a folder."""
