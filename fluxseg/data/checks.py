"""Check recordings before training: which can be used, and what is odd about them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fluxseg.data.duplicates import Entry, NearDuplicate, Resolution, resolve_duplicates
from fluxseg.data.fingerprint import Fingerprint, blank_fingerprint, digest, fingerprint
from fluxseg.data.label_checks import inspect_labels, looks_like_labels
from fluxseg.data.parallel import map_in_processes, worker_count
from fluxseg.data.recording import NO_GROUP, Recording, Source
from fluxseg.data.transforms import merge_and_count
from fluxseg.errors import RecordingError
from fluxseg.io.progress import Progressed

MIN_SIDE = 32  # a smaller image is unusable, px
SATURATED_REMARK, SATURATED_UNUSABLE = 0.01, 0.5  # shares of the pixels at the largest value
MAX_FOREGROUND = 0.6  # masks that cover a larger share of the image are remarked on
MAX_ROIS = 2000  # more ROIs are remarked on; the Allen Brain Observatory has about 250 a field
KEYS_PER_TASK = 8  # recordings that a process checks in one go

NOT_ANNOTATED = "not annotated: usable for prediction, not for training"
LIKE_LABELS = "the image looks like labels, not like a picture"
LEFT_OVER = f"{LIKE_LABELS}, and no image is found for it: name labels NAME_masks, \
or put them in a folder masks"
COMMON = (NO_GROUP, NOT_ANNOTATED)  # what many files share; it is told once, with their number

STATUSES = ("usable", "remark", "unusable")
Status = Literal["usable", "remark", "unusable"]
STATUS_WORDS = {"usable": "usable", "remark": "usable with a remark", "unusable": "unusable"}
"""How people are told of a status."""


@dataclasses.dataclass(frozen=True)
class CheckRow:
    """What was found in one recording."""

    key: str  # unique name within the source
    id: str  # name that the recording gives itself; empty if it cannot be read
    group: str  # its group; empty if it cannot be read
    status: Status  # "remark" is usable, but worth a look
    reasons: tuple[str, ...]  # why it is unusable, if it is, and the remarks
    shape: tuple[int, ...]  # of the image, px; empty if it cannot be read
    dtype: str  # of the image; empty if it cannot be read
    n_rois: int | None  # number of masks, None if not annotated
    foreground: float | None  # share of the image that the masks cover, None if not annotated


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """A recording that was read and looked at."""

    row: CheckRow  # what was found
    recording: Recording | None  # the recording, None if it cannot be read
    label: np.ndarray | None  # `[H, W]` bool, its merged mask; None without annotation
    fingerprint: Fingerprint  # of its image; blank if it cannot be read
    digest: str  # hash of image and merged mask; empty if it cannot be read


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What was found in a source."""

    rows: tuple[CheckRow, ...]  # one of each recording, sorted by key
    duplicates: tuple[tuple[str, str], ...]  # (key that stays, key of its exact copy)
    near_duplicates: tuple[NearDuplicate, ...]  # pairs that show the same field of view
    counts: Mapping[str, int]  # number of rows of each status

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, in an order that depends on the content alone."""
        values = dataclasses.asdict(self)
        return {"counts": values["counts"], "recordings": values.pop("rows"), **values}


def format_check(row: CheckRow) -> str:
    """Format one row as a line of text: the file, its status, and why."""
    facts = []
    if row.shape:
        facts.append(f"{row.shape[0]} x {row.shape[1]} {row.dtype}")
    if row.n_rois is not None and row.foreground is not None:
        what = "1 ROI" if row.n_rois == 1 else f"{row.n_rois} ROIs"
        facts.append(f"{what}, {row.foreground:.1%} neuron")
    told = [f"{row.key}: {STATUS_WORDS[row.status]}"]
    if row.reasons:
        told.append(": " + "; ".join(row.reasons))
    if facts:
        told.append(f" ({', '.join(facts)})")
    return "".join(told)


def format_report(report: CheckReport) -> list[str]:
    """Format what was found as lines of text: one of each recording, then their numbers.

    What many of them share comes once at the end (see `COMMON`).
    """
    lines = []
    for row in report.rows:
        reasons = tuple(reason for reason in row.reasons if reason not in COMMON)
        lines.append(format_check(dataclasses.replace(row, reasons=reasons)))
    counts = ", ".join(f"{n} {STATUS_WORDS[name]}" for name, n in report.counts.items())
    lines.append(f"{len(report.rows)} recording{'s' * (len(report.rows) != 1)}: {counts}")
    for reason in COMMON:
        if number := sum(reason in row.reasons for row in report.rows):
            lines.append(f"{number} of them: {reason}")
    return lines


def inspect_image(image: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """Return why an image `[H, W]` of any real dtype is unusable, or "", and remarks."""
    if min(image.shape) < MIN_SIDE:
        size = f"{image.shape[0]} x {image.shape[1]}"
        return f"image is {size} px, at least {MIN_SIDE} px are needed on each side", ()
    values = image.ravel()
    if image.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        values = values[finite]
    if values.size == 0:
        return "image has no finite pixel", ()
    remarks = []
    if values.size < image.size:
        missing = image.size - values.size
        remarks.append(f"{missing} pixels are NaN or infinite, and do not count")
    top = values.max()
    if values.min() == top:
        return f"image is constant: every pixel is {top}", tuple(remarks)
    share = np.count_nonzero(values == top) / values.size
    saturated = f"{share:.1%} of the pixels are at the largest value, {top}"
    if share > SATURATED_UNUSABLE:
        return f"image is saturated: {saturated}", tuple(remarks)
    if share > SATURATED_REMARK:
        remarks.append(f"image is partly saturated: {saturated}")
    if looks_like_labels(image):
        remarks.append(LIKE_LABELS)
    return "", tuple(remarks)


def inspect_masks(
    masks: np.ndarray | None, label: np.ndarray | None, empty: int = 0, known: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return remarks on the masks `[N, H, W]` bool of a recording; nothing makes them unusable.

    `label` `[H, W]` bool is the merged mask, and `empty` the number of masks without any pixel, see
    `merge_and_count`. What is `known`, since the reader has remarked on it, is not repeated.
    """
    if masks is None or label is None:
        return (NOT_ANNOTATED,)
    if len(masks) == 0:
        return ("annotated without any ROI: every pixel counts as background",)
    remarks = []
    if empty and not any("all-zero" in text for text in known):
        remarks.append(f"{empty} of {len(masks)} ROIs are all-zero")
    foreground = float(label.mean())
    if foreground > MAX_FOREGROUND:
        remarks.append(f"the masks cover {foreground:.0%} of the image")
    if len(masks) > MAX_ROIS:
        remarks.append(f"{len(masks)} ROIs are unusually many")
    return tuple(remarks)


def check_recording(source: Source, key: str) -> Checked:
    """Read one recording and look at it; runs in any process.

    A recording that cannot be read becomes an unusable row; an exception other than RecordingError,
    OSError and MemoryError is a fault of the reader and is raised.
    """
    try:
        recording = source.read(key)
    except (RecordingError, OSError, MemoryError) as error:
        reason = "does not fit into the memory" if isinstance(error, MemoryError) else str(error)
        # Readers name the whole path, which here stands beside the key already.
        reason = reason.partition(f"{key}: ")[2] or reason
        row = CheckRow(key, "", "", "unusable", (reason,), (), "", None, None)
        return Checked(row, None, None, blank_fingerprint(), "")
    return inspect_recording(recording, key)


def inspect_recording(recording: Recording, key: str) -> Checked:
    """Look at a recording that its source calls `key`, as `check` does."""
    image, masks = recording.image, recording.masks
    label, empty = (None, 0) if masks is None else merge_and_count(masks)
    unusable, remarks = inspect_image(image)
    known = recording.remarks
    remarks = (*known, *remarks, *inspect_masks(masks, label, empty, known))
    if masks is None and LIKE_LABELS in remarks:
        unusable = LEFT_OVER
        remarks = tuple(remark for remark in remarks if remark != LIKE_LABELS)
    if masks is not None and label is not None and label.any():
        remarks = (*remarks, *inspect_labels(image, len(masks), label))
    row = CheckRow(
        key=key,
        id=recording.id,
        group=recording.group,
        status="unusable" if unusable else "remark" if set(remarks) - set(COMMON) else "usable",
        reasons=(unusable, *remarks) if unusable else remarks,
        shape=tuple(int(side) for side in image.shape),
        dtype=image.dtype.name,
        n_rois=None if masks is None else len(masks),
        foreground=None if label is None else round(float(label.mean()), 6),
    )
    return Checked(row, recording, label, fingerprint(image), digest(image, label))


def check_source(
    source: Source, workers: int = 1, progress: Progressed | None = None
) -> CheckReport:
    """Check every recording of a source, with one recording in the memory of each process.

    Copies and recordings of the same field of view are marked in the rows.
    """
    found = _check_all(source, worker_count(workers), progress)
    resolved = resolve_duplicates([entry for row, entry in found if row.status != "unusable"])
    rows = tuple(_mark_row(row, resolved) for row, _ in found)
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    return CheckReport(rows, resolved.duplicates, resolved.near_duplicates, counts)


def _check_all(
    source: Source, workers: int, progress: Progressed | None
) -> list[tuple[CheckRow, Entry]]:
    keys = sorted(source.keys())
    # Several in a task, which share their memory; few enough that all processes have work.
    share = len(keys) // (4 * workers) if workers > 1 else KEYS_PER_TASK
    size = min(KEYS_PER_TASK, max(1, share))
    tasks = [keys[start : start + size] for start in range(0, len(keys), size)]
    found: list[tuple[CheckRow, Entry]] = []
    for _, results in map_in_processes(functools.partial(_check_keys, source), tasks, workers):
        for result in results:
            found.append(result)
            if progress:
                progress(len(found), len(keys))
    return found


def _check_keys(source: Source, keys: Sequence[str]) -> list[tuple[CheckRow, Entry]]:
    results = []
    for key in keys:
        checked = check_recording(source, key)
        # The recording itself stays in the worker process.
        row, mark = checked.row, checked.fingerprint
        results.append((row, Entry(key, row.id, row.group, checked.digest, mark)))
        del checked
    return results


def _mark_row(row: CheckRow, resolved: Resolution) -> CheckRow:
    if row.key in resolved.left_out:
        reasons = (resolved.left_out[row.key], *row.reasons)
        return dataclasses.replace(row, status="unusable", reasons=reasons)
    if remarks := resolved.remarks.get(row.key):
        return dataclasses.replace(row, status="remark", reasons=(*row.reasons, *remarks))
    return row
