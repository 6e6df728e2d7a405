"""Suite2p's output folder: `stat.npy`, `iscell.npy`, `ops.npy` and the traces its GUI insists on.

The entries of `stat.npy` are those of `fluxseg.formats.suite2p_stat`. What Suite2p has no place for
(id, group, metadata) is kept in `ops["fluxseg"]`, and the names of the ROIs in their entries, where
they stay right when the GUI merges or adds ROIs; the size of a pixel is `ops["um_per_px"]`. Suite2p
ignores all of these.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, annotated_masks
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats import suite2p_ops
from fluxseg.formats.labels import list_some, zero_masks
from fluxseg.formats.metadata import QUALITY, create_recording, plain_text, roi_quality
from fluxseg.formats.npy import file_error, naming_file, read_npy, read_pickled_dict
from fluxseg.formats.pick import choose
from fluxseg.formats.suite2p_stat import create_stat
from fluxseg.io.files import atomic_path

PLANE_FILES = (
    "stat.npy",
    "iscell.npy",
    "ops.npy",
    *(f"{part}.npy" for part in suite2p_ops.OPS_PARTS),
)
"""Files of a plane that a recording is read from."""
TRACES = "traces"  # key of fluxseg's part of `ops`: the traces were extracted by fluxseg
ROI_ID = "fluxseg_roi_id"  # key of an entry of `stat` with the name of the ROI


def is_suite2p(path: Path) -> bool:
    """Tell whether a folder is one plane of Suite2p's output, or what is left of one."""
    beside = ("ops", "db", "iscell", "F", "spks")
    return (path / "stat.npy").is_file() and any((path / f"{n}.npy").is_file() for n in beside)


def is_combined(path: Path) -> bool:
    """Tell whether a folder shows the cells of the planes beside it once more, side by side."""
    return path.name == "combined" and is_suite2p(path) and bool(_planes(path.parent))


def _planes(root: Path) -> list[Path]:
    return [plane for plane in sorted(root.glob("plane*")) if is_suite2p(plane)]


def find_plane(path: Path, plane: str = "") -> Path:
    """Return the folder of a plane in a folder of Suite2p's, or the folder itself.

    `path` is the folder, one or two above it, or a file in it.
    """
    if path.is_file() and path.suffix == ".npy":
        path = path.parent
    if is_combined(path):
        reason = "shows the planes beside it once more, side by side: read these instead"
        raise file_error(path, reason)
    if is_suite2p(path):
        return path
    root = path / "suite2p" if (path / "suite2p").is_dir() else path
    planes = _planes(root)
    if not planes:
        raise file_error(path, "is no folder of Suite2p: stat.npy and ops.npy are missing")
    with naming_file(path):
        return planes[choose("plane", [found.name for found in planes], plane)]


def read_suite2p(path: Path, *, plane: str = "") -> Recording:
    """Read one plane of Suite2p's output.

    `path` is the folder `plane0`, or one or two above it if it is the only plane or `plane` names
    it; or a file of the folder. Only the ROIs count that `iscell.npy` calls cells.

    The image is the maximum projection (else the mean image), in the frame of the whole field; what
    registration cropped away is NaN, which counts as outside. ROIs have their numbers in `stat.npy`
    as ids, unless fluxseg wrote the folder, and may overlap. The metadata hold `roi_quality`, the
    classifier's probability of each.
    """
    folder = find_plane(path, plane)
    ops, (stat, iscell) = suite2p_ops.read_ops(folder), _read_rois(folder)
    with naming_file(folder):
        found = recording_from_suite2p(ops, stat, iscell, plane_name(folder))
    beside = [other for other in _planes(folder.parent) if other != folder]
    if found.group != found.id or not beside:
        return found
    group = plane_name(folder.parent)
    remarks = tuple(remark for remark in found.remarks if remark != NO_GROUP)
    remark = f"the {len(beside) + 1} planes of {group} are one group"
    return dataclasses.replace(found, group=group, remarks=(*remarks, remark))


def read_suite2p_weights(path: Path, *, plane: str = "") -> tuple[Recording, list[np.ndarray]]:
    """Read one plane as `read_suite2p` does, and what the pixels of its ROIs weigh (`lam`).

    The weights are `[K]` float32 for each ROI, in the order of `np.nonzero` of its mask.
    """
    folder = find_plane(path, plane)
    recording = read_suite2p(folder)
    stat, iscell = _read_rois(folder)
    chosen = _read_iscell(iscell, len(stat), [])[0]
    image = np.zeros(recording.image.shape, np.float32)
    weights = []
    with naming_file(folder / "stat.npy"):
        for number, mask in zip(np.flatnonzero(chosen), annotated_masks(recording), strict=True):
            entry = stat[number]
            lam = np.asarray(entry.get("lam"))
            fits = lam.dtype.kind in "iuf" and lam.shape == np.shape(entry["ypix"])
            if not fits or not (np.isfinite(lam) & (lam >= 0)).all():
                reason = "must be numbers of 0 or more, one for each pixel"
                raise RecordingError(f"entry {number}, lam", reason)
            image[entry["ypix"], entry["xpix"]] = lam
            weights.append(image[mask])
    return recording, weights


def recording_from_suite2p(
    ops: Any, stat: np.ndarray, iscell: np.ndarray | None, name: str
) -> Recording:
    """Build a recording from the dict `ops`, the `[N]` dicts `stat` and `iscell` `[N, 2]`, or None.

    See `read_suite2p`; `name` is the id if it says none of its own.
    """
    if not isinstance(ops, dict):
        raise RecordingError("ops", "must be a dict")
    extra = suite2p_ops.read_extra(ops)
    with naming_file("ops"):
        image = suite2p_ops.read_ops_image(ops)
    with naming_file("stat"):
        if stat.dtype != object or stat.ndim != 1:
            raise RecordingError("", "must be an object array [N] of dicts")
        remarks: list[str] = []
        chosen, quality = _read_iscell(iscell, len(stat), remarks)
        numbers = np.flatnonzero(chosen)
        if len(numbers) < len(stat):
            remarks.append(f"{len(stat) - len(numbers)} of {len(stat)} ROIs are no cells: left out")
        masks = zero_masks(len(numbers), image.shape)
        for mask, number in zip(masks, numbers, strict=True):
            rows, columns = _read_pixels(stat[number], int(number), image.shape)
            mask[rows, columns] = True
    metadata = suite2p_ops.read_ops_metadata(ops)
    # Where the recording said nothing, 1 was written.
    if quality is not None and not (extra and (quality == 1).all()):
        metadata[QUALITY] = [round(float(value), 6) for value in quality[numbers]]
    ids = _read_ids(stat, numbers)
    return create_recording(extra, name, image, masks, ids, metadata, remarks)


def write_suite2p(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a recording as a folder of Suite2p, which its GUI opens.

    Other tools look for `NAME/suite2p/plane0`. Masks may overlap. If its metadata hold
    `roi_quality` (a number for each ROI), that is the probability in `iscell.npy`, else 1.
    `WorkdirError` also if the folder holds the results of Suite2p itself, which are left as they
    are.
    """
    masks = annotated_masks(recording)
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    remarks = [
        "no traces without the movie: F.npy, Fneu.npy and spks.npy hold zeros",
        "no weights: those of all pixels of a ROI are equal; Vcorr, skew, std and snr are 0",
    ]
    if not len(kept):
        remarks.append("the GUI of Suite2p opens no folder without any ROI")
    if len(kept) < len(masks):
        empty = [name for k, name in enumerate(recording.roi_ids) if k not in kept]
        remarks.append(f"{len(empty)} ROIs without a pixel are left out: {list_some(empty)}")
        quality = roi_quality(recording)
        told = None if quality is None else [quality[k] for k in kept]
        metadata = {**recording.metadata, QUALITY: told}
        ids = tuple(recording.roi_ids[k] for k in kept)
        recording = dataclasses.replace(
            recording, masks=masks[kept], roi_ids=ids, metadata=metadata
        )
    traces = dict.fromkeys(("F", "Fneu", "spks"), np.zeros((len(kept), 1), np.float32))
    return (*remarks, *write_suite2p_traces(path, recording, None, traces, {}, {}))


def write_suite2p_traces(
    path: Path,
    recording: Recording,
    weights: Sequence[np.ndarray] | None,
    traces: Mapping[str, np.ndarray],
    measures: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> tuple[str, ...]:
    """Write ROIs with their traces as a folder of Suite2p; see `write_suite2p`.

    Args:
        path: folder to write to, such as `NAME/suite2p/plane0`.
        recording: with N masks, none of them empty; its `roi_quality` as in `write_suite2p`.
        weights: N times `[K]` float32, of the pixels of each mask in the order of `np.nonzero`.
        traces: `F`, `Fneu` and `spks`, each `[N, T]` float32.
        measures: `[N]` each, by the names of the entries of `stat` that they become.
        facts: `fs`, `tau`, and the projections `meanImg`, `max_proj` and `Vcorr`, `[H, W]` finite;
            empty if the traces were not extracted but stand for some.
    """
    masks = annotated_masks(recording)
    check_foreign(path)
    stat = np.empty(len(masks), object)
    for number, entry in enumerate(create_stat(masks, weights=weights)):
        measured = {name: values[number].item() for name, values in measures.items()}
        stat[number] = {**entry, ROI_ID: recording.roi_ids[number], **measured}
    created, changes = suite2p_ops.create_ops(recording, traces["F"].shape[1])
    ops = {**created, **facts}
    if facts:
        rows, columns = (slice(*ops[name]) for name in ("yrange", "xrange"))
        for name in ("max_proj", "Vcorr"):
            ops[name] = np.ascontiguousarray(facts[name][rows, columns])
        ops[suite2p_ops.EXTRA] = {**ops[suite2p_ops.EXTRA], TRACES: True}
    iscell = np.ones((len(masks), 2))
    iscell[:, 1] = roi_quality(recording) or 1
    files: dict[str, Any] = {"ops": ops, "iscell": iscell, "stat": stat, **traces}
    for name, content in files.items():
        with atomic_path(path / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, content, allow_pickle=name in ("ops", "stat"))
    return changes


def check_foreign(path: Path) -> None:
    """Raise `WorkdirError` if a folder holds results of Suite2p itself, or what is unreadable."""
    if not any((path / f"{name}.npy").exists() for name in ("F", "spks", "stat", "ops")):
        return
    try:
        extra = suite2p_ops.read_extra(read_pickled_dict(path / "ops.npy"))
        ours = bool(extra.get(TRACES))
        if extra and not ours:
            traces = read_npy(path / "F.npy")
            ours = not (traces.dtype.kind == "f" and traces.any())
    except RecordingError:
        ours = False
    if not ours:
        raise WorkdirError(f"{path}: holds the results of Suite2p itself; choose another folder")


def _read_rois(folder: Path) -> tuple[np.ndarray, np.ndarray | None]:
    found = folder / "iscell.npy"
    return read_npy(folder / "stat.npy"), read_npy(found) if found.exists() else None


def _read_ids(stat: np.ndarray, numbers: np.ndarray) -> tuple[str, ...]:
    """Return names that are there and unlike each other, else numbers."""
    given = [plain_text(stat[number].get(ROI_ID)) for number in numbers.tolist()]
    names: dict[str, None] = {}
    for number, name in zip(numbers.tolist(), given, strict=True):
        # What the GUI merged of two ROIs has no name, or that of one of them.
        if name is None or name in names:
            free = (str(other) for other in itertools.count(number))
            name = next(other for other in free if other not in names and other not in given)
        names[name] = None
    return tuple(names)


def _read_iscell(
    values: np.ndarray | None, count: int, remarks: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    if values is None:
        remarks.append("there is no iscell.npy: all ROIs are taken")
        return np.ones(count, bool), None
    values = values[:, None] if values.ndim == 1 else values
    good = values.dtype.kind in "biuf" and values.ndim == 2 and values.shape[1]
    if not good or len(values) != count:
        what = f"{list(values.shape)} {values.dtype}"
        raise RecordingError("iscell.npy", f"must be numbers [{count}, 2], got {what}")
    return values[:, 0] > 0.5, values[:, 1] if values.shape[1] > 1 else None


def _read_pixels(entry: Any, number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(entry, dict):
        raise RecordingError(f"entry {number}", "must be a dict")
    pixels = []
    for name, length in zip(("ypix", "xpix"), shape, strict=True):
        values = np.asarray(entry.get(name))
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise RecordingError(f"entry {number}, {name}", "must be whole numbers [K]")
        if values.size and (values.min() < 0 or values.max() >= length):
            raise RecordingError(f"entry {number}, {name}", f"must lie in 0 to {length - 1}")
        pixels.append(values)
    if len(pixels[0]) != len(pixels[1]):
        raise RecordingError(f"entry {number}", "ypix and xpix are not of equal length")
    return pixels[0], pixels[1]


def plane_name(folder: Path) -> str:
    """Return a name that tells planes of several folders apart."""
    parts = [p for p in folder.resolve().parts[-3:] if p not in ("suite2p", "plane0")]
    return "_".join(parts) or "plane0"
