"""Corrected reviews read back: new recordings with the cells that were missed."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.adapt.review.disagreements import merge_masks_into
from fluxseg.config import config_from_dict
from fluxseg.data.recording import Recording, Source
from fluxseg.errors import ConfigError, RecordingError, WorkdirError
from fluxseg.formats.imagej import read_imagej_rois
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.npz import write_npz
from fluxseg.formats.pick import parse_pick
from fluxseg.formats.pixels import read_pixels
from fluxseg.formats.sources import FolderSource, open_source
from fluxseg.io.files import read_json, write_json
from fluxseg.io.names import distinct_name, safe_name


def apply_review(
    folder: Path, output: Path, *, remove_doubtful: bool = False, from_tiff: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Merge corrected ROI sets with the old labels into new recordings, `NAME.npz`.

    From `NAME_missed.zip` those ROIs are added that are still there: delete the wrong ones in
    ImageJ first, correct outlines, or draw more. If all are wrong, delete the file.

    Args:
        folder: output of a review.
        output: folder for the recordings; those without a correction are written as well, so
            that it can be trained on as a whole.
        remove_doubtful: also take away the labels that are still in `NAME_doubtful.zip` (an IoU
            of at least 0.5): delete those from it that are right.
        from_tiff: read `NAME_missed_labels.tif` and `NAME_doubtful_labels.tif` instead, which
            other programs can edit.

    Returns:
        A row for each recording (name, id, labels, added, removed, labels_now), and remarks.

    Raises:
        ConfigError: if output and folder, or the source, are the same.
        FluxsegError: if the folder holds no review, or a file cannot be read.
    """
    path = folder / "review.json"
    review = read_json(path)
    source, listed = _source_of(review, path)
    resolved = {place.resolve() for place in (folder, Path(str(review["source"])))}
    if output.resolve() in resolved:
        raise ConfigError(f"--output {output}: choose a folder of its own")
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    taken: set[str] = set()
    for row in listed:
        recording = source.read(str(row["key"]))
        name = safe_name(str(row["name"]))
        files = {str(file) for file in row.get("files", ())}
        sets = {}
        for kind in ("missed", "doubtful") if remove_doubtful else ("missed",):
            archive = f"{name}_{kind}.zip"
            tiff = from_tiff or archive not in files
            path = folder / (f"{name}_{kind}_labels.tif" if tiff else archive)
            sets[kind] = _read_rois(path, recording, remarks)
        changed, counts = correct_recording(recording, sets["missed"], sets.get("doubtful"))
        written = distinct_name(name, taken)
        write_npz(output / f"{written}.npz", changed)
        rows.append({"name": written, "id": recording.id, **counts})
    write_json(output / "applied.json", {"recordings": rows, "remarks": remarks})
    return rows, remarks


def correct_recording(
    recording: Recording, missed: np.ndarray, wrong: np.ndarray | None = None
) -> tuple[Recording, dict[str, int]]:
    """Add masks to a recording, and take away labels.

    Args:
        recording: with masks.
        missed: `[M, H, W]` bool, to add; see `merge_masks_into`.
        wrong: `[K, H, W]` bool; labels that have an IoU of at least 0.5 with one of them go.

    Returns:
        The new recording, and the counts labels, added, removed and labels_now.

    Raises:
        RecordingError: if the recording has no masks.
    """
    if recording.masks is None:
        raise RecordingError("masks", f"{recording.id} is no longer annotated")
    keep = np.ones(len(recording.masks), bool)
    if wrong is not None:
        keep = ~_matched(recording.masks, wrong)
    names = [name for name, kept in zip(recording.roi_ids, keep, strict=True) if kept]
    masks, all_names, added = merge_masks_into(recording.masks[keep], names, missed)
    counts = {
        "labels": len(keep),
        "added": added,
        "removed": int((~keep).sum()),
        "labels_now": len(masks),
    }
    return dataclasses.replace(recording, masks=masks, roi_ids=all_names), counts


def _source_of(review: Any, path: Path) -> tuple[Source, list[Mapping[str, Any]]]:
    try:
        listed = [dict(row) for row in review["recordings"]]
        for row in listed:
            files = row.get("files", [])
            if not isinstance(files, list) or not {"name", "key"} <= set(row):
                raise KeyError("name, key or files")
        for text in (review["source"], *(row["key"] for row in listed)):
            if b"\0" in os.fsencode(str(text)):
                raise ValueError("a path with a NUL")
        if review["source"] == "simulator":
            return open_source(config_from_dict({"simulator": review["simulator"]})), list(listed)
        pick = parse_pick(str(review.get("pick", "")))
        return FolderSource(str(review["source"]), pick), list(listed)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{path}: is no review, or is damaged ({error!r})") from error


def _read_rois(path: Path, recording: Recording, remarks: list[str]) -> np.ndarray:
    """Return the masks `[M, H, W]` of a corrected set; none if there is no file."""
    shape = recording.image.shape
    if not path.exists():
        return np.zeros((0, *shape), bool)
    if path.suffix == ".zip":
        masks, _, notes = read_imagej_rois(path, (shape[0], shape[1]))
        remarks += [f"{path.name}: {note}" for note in notes]
    else:
        masks = masks_from_labels(read_pixels(path, labels=True)[0])[0]
    if masks.shape[1:] != shape:
        raise RecordingError(
            str(path),
            f"its ROIs lie in {list(masks.shape[1:])} pixels, the image of {recording.id} has "
            f"{list(shape)}",
        )
    return masks


def _matched(masks: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Tell which masks have an IoU of at least 0.5 with one of the others, `[N]` bool."""
    hit = np.zeros(len(masks), bool)
    for other in wrong:
        shared = (masks & other).sum((1, 2))
        hit |= 2 * shared >= np.maximum((masks | other).sum((1, 2)), 1)
    return hit
