"""Corrected reviews read back: new recordings with the cells that were missed."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fluxseg.config import config_from_dict
from fluxseg.data.recording import Recording, Source, annotated_masks
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.imagej import read_imagej_rois
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.npz import write_npz
from fluxseg.formats.pick import parse_pick
from fluxseg.formats.pixels import read_pixels
from fluxseg.formats.sources import FolderSource, open_source
from fluxseg.io.files import read_json, write_json
from fluxseg.io.names import distinct_name, safe_name
from fluxseg.io.schema import from_plain

SAME = 0.5  # least IoU of two masks of one cell


class _Reviewed(msgspec.Struct):
    key: str
    name: str
    files: list[str] = []


class _Review(msgspec.Struct):
    source: str
    recordings: list[_Reviewed]
    pick: str = ""
    simulator: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for path in (self.source, *(row.key for row in self.recordings)):
            if b"\0" in os.fsencode(path):
                raise ValueError("a path with a NUL")


def apply_review(
    folder: Path, output: Path, *, remove_doubtful: bool = False, from_tiff: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Merge corrected ROI sets of a review with the old labels into new recordings, `NAME.npz`.

    From `NAME_missed.zip` those ROIs are added that are still there: delete the wrong ones in
    ImageJ first, correct outlines, or draw more. If all are wrong, delete the file. Recordings
    without a correction are written as well, so that the output can be trained on as a whole.
    `remove_doubtful` also takes away the labels that are still in `NAME_doubtful.zip` (an IoU of at
    least 0.5): delete those from it that are right. `from_tiff` reads `NAME_missed_labels.tif` and
    so on instead.

    Returns a row for each recording (name, id, labels, added, removed, labels_now), and remarks.
    Raises `ConfigError` if output and folder, or the source, are the same; and `FluxsegError` if
    the folder holds no review, or a file cannot be read.
    """
    path = folder / "review.json"
    review = from_plain(read_json(path), _Review, str(path), "or is no review: make it anew")
    if output.resolve() in {folder.resolve(), Path(review.source).resolve()}:
        raise ConfigError(f"--output {output}: choose a folder of its own")
    source: Source
    if review.source == "simulator":
        source = open_source(config_from_dict({"simulator": review.simulator or {}}))
    else:
        source = FolderSource(review.source, parse_pick(review.pick))
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    taken: set[str] = set()
    for row in review.recordings:
        recording, name = source.read(row.key), safe_name(row.name)
        sets = {}
        for kind in ("missed", "doubtful") if remove_doubtful else ("missed",):
            archive = f"{name}_{kind}.zip"
            tiff = from_tiff or archive not in row.files
            path = folder / (f"{name}_{kind}_labels.tif" if tiff else archive)
            sets[kind] = _read_rois(path, recording, remarks)
        masks = annotated_masks(recording)
        wrong = sets.get("doubtful", ())
        keep = [all(_iou(mask, other) < SAME for other in wrong) for mask in masks]
        names = [name for name, kept in zip(recording.roi_ids, keep, strict=True) if kept]
        merged, roi_ids, added = merge_masks_into(masks[keep], names, sets["missed"])
        written = distinct_name(name, taken)
        changed = dataclasses.replace(recording, masks=merged, roi_ids=roi_ids)
        write_npz(output / f"{written}.npz", changed)
        counts = {"labels": len(masks), "added": added, "removed": keep.count(False)}
        rows.append({"name": written, "id": recording.id, **counts, "labels_now": len(merged)})
    write_json(output / "applied.json", {"recordings": rows, "remarks": remarks})
    return rows, remarks


def merge_masks_into(
    masks: np.ndarray, names: Sequence[str], added: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], int]:
    """Add masks `[M, H, W]` bool to those `[N, H, W]` of a recording, but for empty and known ones.

    New ROIs are called "review-1", "review-2", ..., without the numbers that are taken. Returns
    masks `[N + K, H, W]`, their names, and K.
    """
    kept: list[np.ndarray] = []
    for mask in added:
        if mask.any() and all(_iou(mask, other) < SAME for other in (*masks, *kept)):
            kept.append(mask)
    free = (f"review-{number}" for number in range(1, len(names) + len(kept) + 1))
    fresh = [name for name in free if name not in names][: len(kept)]
    whole = np.concatenate([masks, np.array(kept).reshape(-1, *masks.shape[1:]).astype(bool)])
    return whole, (*names, *fresh), len(kept)


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def _read_rois(path: Path, recording: Recording, remarks: list[str]) -> np.ndarray:
    """Return the masks `[M, H, W]` of a corrected set; none if there is no file."""
    height, width = recording.image.shape
    if not path.exists():
        return np.zeros((0, height, width), bool)
    if path.suffix == ".zip":
        masks, _, notes = read_imagej_rois(path, (height, width))
        remarks += [f"{path.name}: {note}" for note in notes]
    else:
        masks = masks_from_labels(read_pixels(path, labels=True)[0])[0]
    if masks.shape[1:] != (height, width):
        raise RecordingError(
            str(path),
            f"its ROIs lie in {list(masks.shape[1:])} pixels, the image of {recording.id} has "
            f"{[height, width]}",
        )
    return masks
