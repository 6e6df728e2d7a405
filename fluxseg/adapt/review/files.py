"""A review of labels as files: lists, and ROI sets to correct in ImageJ."""

import dataclasses
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.adapt.review.disagreements import (
    KINDS,
    MIN_CONFIDENCE,
    Disagreement,
    ReviewedRecording,
    cut_patches,
    find_disagreements,
    keep_surest,
    rank_places,
)
from fluxseg.adapt.review.plan import ReviewPlan
from fluxseg.data.recording import Recording, annotated_masks
from fluxseg.data.transforms import normalize_image, to_uint8
from fluxseg.errors import ConfigError, FluxsegError, RecordingError
from fluxseg.formats.imagej import write_imagej
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.own import MARK
from fluxseg.formats.pixels import write_image_tiff
from fluxseg.inference.field_scores import find_in_field
from fluxseg.inference.shown import write_overlay
from fluxseg.io.files import naming, read_json, write_json
from fluxseg.io.names import distinct_name, safe_name
from fluxseg.io.progress import Progressed, tracked
from fluxseg.io.tables import write_csv

logger = logging.getLogger(__name__)

RECORD = "review.json"
UNSUITED = 0.4  # share of doubtful labels from which on the model itself is in doubt
COLUMNS = (
    "kind", "rank", "confidence", "quality", "recording", "key", "row", "column", "area_px",
    "overlap", "iou", "rois", "labels",
)  # fmt: skip


def review_recordings(
    plan: ReviewPlan,
    output: Path,
    min_confidence: float = MIN_CONFIDENCE,
    progress: Progressed | None = None,
) -> tuple[list[ReviewedRecording], list[tuple[str, str]]]:
    """Review recordings one by one, and write the ROI sets of each.

    The output folder gets for each recording `NAME_missed.zip` and `NAME_doubtful.zip`, ROI sets of
    ImageJ, and `NAME_missed_labels.tif` and `NAME_doubtful_labels.tif`, numbered by falling
    confidence; no file where nothing was found. `NAME_image.png` is the image to open them with.
    Returns the reviewed recordings, and (key, reason) of those left out. Raises `ConfigError` if
    the folder holds an earlier review of which somebody has corrected a file.
    """
    _make_room(output)
    reviewed, left_out, taken = list[ReviewedRecording](), list[tuple[str, str]](), set[str]()
    for key in tracked(plan.keys, progress):
        try:
            recording = plan.source.read(key)
            masks = annotated_masks(recording)
            # Cells of any confidence: a disagreement has one of its own.
            seen = find_in_field(plan.model, recording, min_confidence=0)
            probability = np.where(np.isfinite(recording.image), seen.probability, np.nan)
            found = find_disagreements(masks, probability, seen.rois, min_confidence)
            name = distinct_name(safe_name(recording.id), taken)
            files = [
                file
                for kind in KINDS
                for file in _write_rois(output, name, select(found, kind, recording), kind)
            ]
            if files:
                gray = to_uint8(normalize_image(recording.image))
                write_overlay(output / f"{name}_image.png", gray)
            patches = cut_patches(recording, found)
            ids = (recording.id, recording.roi_ids)
            reviewed.append(ReviewedRecording(name, key, *ids, tuple(found), tuple(files), patches))
            reviewed = keep_surest(reviewed)
        except (RecordingError, OSError) as error:
            left_out.append((key, str(error)))
            logger.warning("left out: %s: %s", key, error)
    return reviewed, left_out


def _make_room(output: Path) -> None:
    path = output / RECORD
    try:
        written = dict(read_json(path)["written"])
    except (FluxsegError, KeyError, TypeError, ValueError):
        return
    for file, checksum in written.items():
        if (output / file).is_file() and _sum_bytes(output / file) != checksum:
            raise ConfigError(
                f"{output / file}: was corrected since an earlier review: merge it first "
                f"(fluxseg review --apply {output}), or give another --output"
            )
    # Until this review is done there is none to apply.
    path.unlink()


def _sum_bytes(path: Path) -> int:
    with naming(path, "cannot be read"):
        return zlib.crc32(path.read_bytes())


def select(found: Sequence[Disagreement], kind: str, recording: Recording) -> Recording:
    """Return a recording with the masks of one kind of disagreement in place of its labels.

    The ROIs are named "missed-01-0.97" by rank and confidence, and doubtful ones by the id of the
    label besides.
    """
    chosen = [one for one in found if one.kind == kind]
    masks = np.zeros((len(chosen), *recording.image.shape), bool)
    names = []
    for number, one in enumerate(chosen, 1):
        masks[number - 1] = one.full_mask(recording.image.shape)
        label = f"-{recording.roi_ids[one.labels[0]]}" if kind == "doubtful" else ""
        names.append(f"{kind}-{number:02d}-{one.confidence:.2f}{label}")
    return dataclasses.replace(recording, masks=masks, roi_ids=tuple(names), remarks=())


def _write_rois(output: Path, name: str, chosen: Recording, kind: str) -> list[str]:
    """Write the ROI sets of a kind; return the names of the files."""
    archive, tiff = (output / f"{name}_{kind}{end}" for end in (".zip", "_labels.tif"))
    for old in (archive, tiff):
        # What an earlier review found must not be taken for this one's.
        old.unlink(missing_ok=True)
    if chosen.masks is None or not len(chosen.masks):
        return []
    write_image_tiff(tiff, merge_labels(chosen.masks), compress=True, software=MARK)
    # Neither these nor the image are recordings: cells that were missed are not all that there are.
    write_imagej(archive, dataclasses.replace(chosen, metadata={"made_by": MARK}))
    return [archive.name, tiff.name]


def write_review(
    plan: ReviewPlan,
    reviewed: Sequence[ReviewedRecording],
    left_out: Sequence[tuple[str, str]],
    output: Path,
) -> list[dict[str, Any]]:
    """Write `review.json` and `review.csv`: a row with the `COLUMNS` for each disagreement.

    `reviewed` and `left_out` are from `review_recordings`. Returns the rows.
    """
    rows, data = create_rows(reviewed), plan.config.data
    simulated = data.source == "simulator"
    review = {
        "pick": data.pick,
        "source": data.source if simulated else str(Path(data.source).resolve()),
        "simulator": dataclasses.asdict(plan.config.simulator) if simulated else None,
        "threshold": plan.model.threshold,
        "remarks": [*plan.remarks, *judge_model(reviewed)],
        "left_out": [{"key": key, "reason": reason} for key, reason in left_out],
        "recordings": [
            {
                "name": one.name,
                "key": one.key,
                "id": one.id,
                "files": list(one.files),
                "labels": len(one.labels),
                **{kind: one.count(kind) for kind in KINDS},
            }
            for one in reviewed
        ],
        "disagreements": rows,
        # By these it is known whether somebody has corrected them.
        "written": {file: _sum_bytes(output / file) for one in reviewed for file in one.files},
    }
    write_json(output / RECORD, review)
    write_csv(output / "review.csv", COLUMNS, rows)
    return rows


def judge_model(reviewed: Sequence[ReviewedRecording]) -> list[str]:
    """Say so if the model doubts so many labels that it hardly suits these recordings."""
    labels = sum(len(one.labels) for one in reviewed)
    doubtful = sum(one.count("doubtful") for one in reviewed)
    if not labels or doubtful <= UNSUITED * labels:
        return []
    return [
        f"The model takes {doubtful} of {labels} labels for background: it hardly suits these "
        "recordings, or labels were made by other rules. Tune it first (fluxseg finetune)."
    ]


def create_rows(reviewed: Sequence[ReviewedRecording]) -> list[dict[str, Any]]:
    """Create a row with the `COLUMNS` for each disagreement, kind by kind, ranked within it."""
    return [
        {
            "kind": kind,
            "rank": rank,
            "confidence": round(found.confidence, 4),
            "quality": round(found.quality, 4),
            "recording": one.id,
            "key": one.key,
            "row": round(found.centre[0], 1),
            "column": round(found.centre[1], 1),
            "area_px": found.area,
            "overlap": round(found.overlap, 4),
            "iou": round(found.iou, 4),
            "rois": [number + 1 for number in found.rois],
            "labels": [str(one.labels[number]) for number in found.labels],
        }
        for kind in KINDS
        for rank, one, found in rank_places(reviewed, kind)
    ]
