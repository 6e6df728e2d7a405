"""Suite2p's output folder: `stat.npy`, `iscell.npy`, `ops.npy` and the traces its GUI insists on.

The entries of `stat.npy` are those of `fluxseg.formats.suite2p_stat`. The pickled files are read
without executing anything in them. What Suite2p has no place for (id, group, metadata) is kept in
`ops["fluxseg"]`, and the names of the ROIs in their entries, where they stay right when the GUI
merges or adds ROIs; the size of a pixel is `ops["um_per_px"]`. Suite2p ignores all of these.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, annotated_masks, group_of
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.metadata import plain_text, roi_quality
from fluxseg.formats.npy import naming_file, read_npy, read_pickled_dict
from fluxseg.formats.pick import choose
from fluxseg.formats.suite2p_ops import (
    EXTRA,
    OPS_PARTS,
    create_ops,
    read_extra,
    read_ops,
    read_ops_image,
    read_ops_metadata,
)
from fluxseg.formats.suite2p_stat import create_stat
from fluxseg.io.files import atomic_path

MAX_BYTES = 2**31
"""Bytes that the masks of a folder may take."""
PLANE_FILES = ("stat.npy", "iscell.npy", "ops.npy", *(f"{part}.npy" for part in OPS_PARTS))
"""Files of a plane that a recording is read from."""
TRACES = "traces"
"""Key of fluxseg's part of `ops`: the traces were extracted by fluxseg."""
ROI_ID = "fluxseg_roi_id"
"""Key of an entry of `stat` with the name of the ROI."""


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

    Args:
        path: the folder, one or two above it, or a file in it.
        plane: name of the plane, if there are several.

    Raises:
        RecordingError: if there is none, or several and none is named.
    """
    if path.is_file() and path.suffix == ".npy":
        path = path.parent
    if is_combined(path):
        raise RecordingError(
            str(path), "shows the planes beside it once more, side by side: read these instead"
        )
    if is_suite2p(path):
        return path
    root = path / "suite2p" if (path / "suite2p").is_dir() else path
    planes = _planes(root)
    if not planes:
        raise RecordingError(str(path), "is no folder of Suite2p: stat.npy and ops.npy are missing")
    with naming_file(path):
        return planes[choose("plane", [found.name for found in planes], plane)]


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name a file of a folder, or a variable, in errors."""
    try:
        yield
    except RecordingError as error:
        field = f"{name}: {error.field}" if error.field else name
        raise type(error)(field, error.reason) from error


def read_suite2p(path: Path | str, *, cells_only: bool = True, plane: str = "") -> Recording:
    """Read one plane of Suite2p's output; nothing in it is executed.

    Args:
        path: the folder `plane0`, or one or two above it if it is the only plane; or a file of
            the folder.
        cells_only: only the ROIs that `iscell.npy` calls cells.
        plane: name of the plane, if there are several.

    Returns:
        The recording. Its image is the maximum projection (else the mean image), in the frame of
        the whole field; what registration cropped away is NaN, which counts as outside. ROIs
        have their numbers in `stat.npy` as ids, unless fluxseg wrote the folder, and may
        overlap. The metadata hold `roi_quality`, the classifier's probability of each.

    Raises:
        UnsafeFileError: if a file asks for anything but plain data, naming it.
        RecordingError: naming the file and the field, if it cannot be used.
    """
    folder = find_plane(Path(path), plane)
    ops = read_ops(folder)
    stat = read_npy(folder / "stat.npy")
    iscell = read_npy(folder / "iscell.npy") if (folder / "iscell.npy").exists() else None
    with naming_file(folder):
        found = recording_from_suite2p(ops, stat, iscell, plane_name(folder), cells_only=cells_only)
    beside = [other for other in _planes(folder.parent) if other != folder]
    if found.group != found.id or not beside:
        return found
    group = plane_name(folder.parent)
    remarks = tuple(remark for remark in found.remarks if remark != NO_GROUP)
    remark = f"the {len(beside) + 1} planes of {group} are one group"
    return dataclasses.replace(found, group=group, remarks=(*remarks, remark))


def read_suite2p_weights(
    path: Path | str, *, plane: str = ""
) -> tuple[Recording, list[np.ndarray]]:
    """Read one plane as `read_suite2p` does, and what the pixels of its ROIs weigh (`lam`).

    Args:
        path: see `read_suite2p`.
        plane: see `read_suite2p`.

    Returns:
        The recording, and `[K]` float32 for each ROI, in the order of `np.nonzero` of its mask.

    Raises:
        UnsafeFileError, RecordingError: see `read_suite2p`.
    """
    folder = find_plane(Path(path), plane)
    recording = read_suite2p(folder)
    stat = read_npy(folder / "stat.npy")
    has = (folder / "iscell.npy").exists()
    chosen = _read_iscell(read_npy(folder / "iscell.npy") if has else None, len(stat), [])[0]
    image = np.zeros(recording.image.shape, np.float32)
    weights = []
    with naming_file(folder / "stat.npy"):
        for number, mask in zip(np.flatnonzero(chosen), annotated_masks(recording), strict=True):
            entry = stat[number]
            lam = np.asarray(entry.get("lam"))
            if lam.dtype.kind not in "iuf" or lam.shape != np.shape(entry["ypix"]):
                raise RecordingError(f"entry {number}, lam", "must be numbers, one for each pixel")
            if not (np.isfinite(lam).all() and (lam >= 0).all()):
                raise RecordingError(f"entry {number}, lam", "must be 0 or more")
            image[entry["ypix"], entry["xpix"]] = lam
            weights.append(image[mask])
    return recording, weights


def recording_from_suite2p(
    ops: Any, stat: np.ndarray, iscell: np.ndarray | None, name: str, *, cells_only: bool = True
) -> Recording:
    """Build a recording from what Suite2p's files hold; see `read_suite2p`.

    Args:
        ops: the dict.
        stat: `[N]` dicts.
        iscell: `[N, 2]`, or None.
        name: id of a recording that does not say its own.
        cells_only: only the ROIs that `iscell` calls cells.

    Raises:
        RecordingError: naming the field, if they cannot be used.
    """
    if not isinstance(ops, dict):
        raise RecordingError("ops", "must be a dict")
    extra = read_extra(ops)
    with _naming("ops"):
        image = read_ops_image(ops)
    with _naming("stat"):
        if stat.dtype != object or stat.ndim != 1:
            raise RecordingError("", "must be an object array [N] of dicts")
        remarks: list[str] = []
        chosen, quality = _read_iscell(iscell, len(stat), remarks)
        numbers = np.flatnonzero(chosen) if cells_only else np.arange(len(stat))
        if len(numbers) < len(stat):
            remarks.append(f"{len(stat) - len(numbers)} of {len(stat)} ROIs are no cells: left out")
        if len(numbers) * image.size > MAX_BYTES:
            raise RecordingError("", f"{len(numbers)} masks would take more than 2 GiB")
        masks = np.zeros((len(numbers), *image.shape), bool)
        for mask, number in zip(masks, numbers, strict=True):
            rows, columns = _read_pixels(stat[number], int(number), image.shape)
            mask[rows, columns] = True
    metadata = read_ops_metadata(ops)
    # Where the recording said nothing, 1 was written.
    if quality is not None and not (extra and (quality == 1).all()):
        metadata["roi_quality"] = [round(float(value), 6) for value in quality[numbers]]
    group = plain_text(extra.get("group")) or group_of(metadata, "")
    return Recording(
        id=plain_text(extra.get("id")) or name,
        image=image,
        masks=masks,
        roi_ids=_read_ids(stat, numbers),
        group=group,
        metadata=metadata,
        remarks=(*remarks, *([] if group else [NO_GROUP])),
    )


def write_suite2p(path: Path | str, recording: Recording) -> tuple[str, ...]:
    """Write a recording as a folder of Suite2p, which its GUI opens.

    Args:
        path: folder to write to, such as `NAME/suite2p/plane0`, where other tools look for it;
            it is created. Each file is written whole or not at all.
        recording: with masks; they may overlap. If its metadata hold `roi_quality` (a number for
            each ROI), that is the probability in `iscell.npy`, else 1.

    Returns:
        Remarks on what the format cannot hold.

    Raises:
        RecordingError: if it is not annotated.
        WorkdirError: if a file cannot be written, or the folder holds the results of Suite2p
            itself, which are left as they are.
    """
    masks = annotated_masks(recording)
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    path = Path(path)
    check_foreign(path)
    remarks = [
        "no traces without the movie: F.npy, Fneu.npy and spks.npy hold zeros",
        "no weights: those of all pixels of a ROI are equal; Vcorr, skew, std and snr are 0",
    ]
    if not len(kept):
        remarks.append("the GUI of Suite2p opens no folder without any ROI")
    if len(kept) < len(masks):
        empty = np.flatnonzero(~masks.any(axis=(1, 2)))
        names = ", ".join(recording.roi_ids[k] for k in empty[:20]) + ", ..." * (len(empty) > 20)
        remarks.append(f"{len(empty)} ROIs without a pixel are left out: {names}")
    stat = _create_entries(recording, kept)
    traces = np.zeros((len(kept), 1), np.float32)
    ops, changes = create_ops(recording)
    iscell = _create_iscell(recording)[kept]
    files: dict[str, Any] = {"ops": ops, "iscell": iscell, "stat": stat}
    _write_files(path, files | dict.fromkeys(("F", "Fneu", "spks"), traces))
    return (*remarks, *changes)


def write_suite2p_traces(
    path: Path | str,
    recording: Recording,
    weights: Sequence[np.ndarray],
    traces: Mapping[str, np.ndarray],
    measures: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> None:
    """Write ROIs with their traces as a folder of Suite2p.

    Args:
        path: folder to write to, such as `NAME/suite2p/plane0`.
        recording: with N masks, none of them empty; its `roi_quality` as in `write_suite2p`.
        weights: N times `[K]` float32, of the pixels of each mask in the order of `np.nonzero`.
        traces: `F`, `Fneu` and `spks`, each `[N, T]` float32.
        measures: `[N]` each, by the names of the entries of `stat` that they become.
        facts: `fs`, `tau`, and the projections `meanImg`, `max_proj` and `Vcorr`, `[H, W]` finite.

    Raises:
        RecordingError: if the recording is not annotated.
        WorkdirError: as `write_suite2p`.
    """
    path = Path(path)
    masks = annotated_masks(recording)
    check_foreign(path)
    stat = _create_entries(recording, np.arange(len(masks)), weights)
    for name, values in measures.items():
        for entry, value in zip(stat, values.tolist(), strict=True):
            entry[name] = value
    ops = create_ops(recording)[0]
    count = traces["F"].shape[1]
    rows, columns = (slice(*ops[name]) for name in ("yrange", "xrange"))
    ops |= facts
    ops |= {
        name: np.ascontiguousarray(facts[name][rows, columns]) for name in ("max_proj", "Vcorr")
    }
    ops |= {"nframes": count, "badframes": np.zeros(count, bool)}
    ops |= {name: np.zeros(count, np.int32) for name in ("xoff", "yoff")}
    ops[EXTRA] = {**ops[EXTRA], TRACES: True}
    iscell = _create_iscell(recording)
    _write_files(path, {**traces, "iscell": iscell, "stat": stat, "ops": ops})


def _write_files(path: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        with atomic_path(path / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(
                file, content, allow_pickle=isinstance(content, dict) or content.dtype == object
            )


def check_foreign(path: Path) -> None:
    """Raise `WorkdirError` if a folder holds results of Suite2p itself, or what is unreadable."""
    if not any((path / f"{name}.npy").exists() for name in ("F", "spks", "stat", "ops")):
        return
    try:
        extra = read_extra(read_pickled_dict(path / "ops.npy"))
        ours = bool(extra.get(TRACES))
        if extra and not ours:
            traces = read_npy(path / "F.npy")
            ours = not (traces.dtype.kind == "f" and traces.any())
    except RecordingError:
        ours = False
    if not ours:
        raise WorkdirError(f"{path}: holds the results of Suite2p itself; choose another folder")


def _create_entries(
    recording: Recording, kept: np.ndarray, weights: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    masks = annotated_masks(recording)[kept]
    entries = np.empty(len(kept), object)
    stat = create_stat(masks, weights=weights)
    for place, (number, entry) in enumerate(zip(kept, stat, strict=True)):
        entries[place] = {**entry, ROI_ID: recording.roi_ids[number]}
    return entries


def _create_iscell(recording: Recording) -> np.ndarray:
    cells = np.ones((len(recording.roi_ids), 2))
    cells[:, 1] = roi_quality(recording) or 1
    return cells


def _read_ids(stat: np.ndarray, numbers: np.ndarray) -> tuple[str, ...]:
    """Return names that are there and unlike each other, else numbers."""
    names: list[str] = []
    taken = set()
    for number in numbers.tolist():
        name = plain_text(stat[number].get(ROI_ID))
        # What the GUI merged of two ROIs may have the name of one of them.
        names.append(str(number) if name is None or name in taken else name)
        taken.add(names[-1])
    return tuple(names)


def _read_iscell(
    values: np.ndarray | None, count: int, remarks: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    if values is None:
        remarks.append("there is no iscell.npy: all ROIs are taken")
        return np.ones(count, bool), None
    if (
        values.dtype.kind not in "biuf"
        or values.shape[:1] != (count,)
        or values.shape[1:] == (0,)
        or values.ndim > 2
    ):
        raise RecordingError(
            "iscell.npy", f"must be numbers [{count}, 2], got {list(values.shape)} {values.dtype}"
        )
    values = values if values.ndim == 2 else values[:, None]
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
