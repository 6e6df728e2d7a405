"""COCO instances: JSON with run lengths or polygons, and the images beside it.

Run lengths go down the columns and begin with the background; the compressed form packs them in
6 bits a character, each from the third on as the difference from the last but one (pycocotools,
`common/maskApi.c`).
"""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks, pixel_size
from fluxseg.data.resample import cut_patches
from fluxseg.errors import RecordingError
from fluxseg.formats.finite import write_image
from fluxseg.formats.json_files import kind_of, read_image_for, read_json_file
from fluxseg.formats.labels import zero_masks
from fluxseg.formats.metadata import (
    QUALITY,
    create_recording,
    describe_origin,
    plain_text,
    read_metadata,
    roi_quality,
    without_quality,
)
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.polygons import fill_polygons
from fluxseg.io.files import write_json


def encode_counts(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask `[H, W]` bool down its columns, background first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    counts: list[int] = np.diff(bounds).tolist()
    return [0, *counts] if flat.size and flat[0] else counts


def decode_counts(counts: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Return the mask `[H, W]` bool of run lengths, which must add up to the size of the image."""
    runs = np.array(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != shape[0] * shape[1]:
        raise RecordingError("counts", f"do not add up to {shape[0]} x {shape[1]} px")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(shape, order="F")


def compress_counts(counts: list[int]) -> str:
    """Pack run lengths as text, 6 bits a character."""
    text = []
    for index, count in enumerate(counts):
        left = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = left & 31
            left >>= 5
            more = left != (-1 if bits & 16 else 0)
            text.append(chr((bits | 32 if more else bits) + 48))
    return "".join(text)


def decompress_counts(text: str) -> list[int]:
    """Unpack what `compress_counts` packed; raises `RecordingError` if the text is damaged."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise RecordingError("counts", "is not a valid text of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise RecordingError("counts", "ends within a number")
    return counts


def read_coco(path: Path, image: Path | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read one image of a file of COCO instances, with the ROIs of all categories.

    Of several entries the one that names the `image` file counts; None takes the file that the only
    entry names, in the same folder.
    """
    with naming_file(path):
        values = read_json_file(path)
        entry = _choose(values, None if image is None else image.name)
        annotations = values.get("annotations")
        if not isinstance(annotations, list):
            raise RecordingError("annotations", "must be a list")
        known = [a for a in annotations if isinstance(a, dict)]
        mine = [a for a in known if a.get("image_id") == entry.get("id")]
        if mine and not any(a.get("segmentation") for a in mine):
            raise RecordingError("segmentation", "is empty: these are boxes, no outlines of ROIs")
        crowds = sum(bool(a.get("iscrowd")) for a in mine)
        remarks = (f"{crowds} ROIs are marked as several neurons (iscrowd)",) * (crowds > 0)
        pixels, facts = read_image_for(path, image, str(entry.get("file_name", "")), pick)
        masks = zero_masks(len(mine), pixels.shape)
        for mask, annotation in zip(masks, mine, strict=True):
            with naming_file(f"annotation {annotation.get('id')!r:.40}"):
                mask[:] = _decode(annotation.get("segmentation"), pixels.shape)
        metadata = read_metadata(entry)
        if (scale := pixel_size(entry) or facts.get("um_per_px")) is not None:
            metadata["um_per_px"] = scale
        scores = [a.get("score") for a in mine]
        if scores and all(isinstance(score, int | float) for score in scores):
            metadata[QUALITY] = scores
        names = [plain_text(a.get("name")) or plain_text(a.get("id")) for a in mine]
        ids = [name or str(number) for number, name in enumerate(names)]
        extra = {**entry, "id": entry.get("recording")}
        stem = Path(str(entry.get("file_name", path))).stem
        return create_recording(extra, stem, pixels, masks, ids, metadata, remarks)


def write_coco(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a recording as COCO instances with compressed run lengths, its image as `NAME.tif`.

    Masks may overlap. If its metadata hold `roi_quality`, that is the `score` of each.
    """
    masks = annotated_masks(recording)
    height, width = recording.image.shape
    scale = pixel_size(recording.metadata)
    quality = roi_quality(recording)
    scores = [{"score": value} for value in quality or ()] or [{} for _ in masks]
    entry = {
        **describe_origin(recording),
        **({} if quality is None else {"metadata": without_quality(recording.metadata)}),
        "id": 1,
        "file_name": path.with_suffix(".tif").name,
        "height": height,
        "width": width,
        "recording": recording.id,
        **({} if scale is None else {"um_per_px": scale}),
    }
    annotations = []
    rois = zip(masks, recording.roi_ids, scores, strict=True)
    for number, (mask, name, score) in enumerate(rois, 1):
        counts = compress_counts(encode_counts(mask))
        annotation = {"id": number, "image_id": 1, "category_id": 1, "name": name}
        annotation["segmentation"] = {"size": [height, width], "counts": counts}
        boxes = [[left, top, *inner.shape[::-1]] for top, left, inner in cut_patches(mask[None])]
        box = boxes[0] if boxes else [0, 0, 0, 0]
        annotation |= {"area": int(mask.sum()), "bbox": box, "iscrowd": 0}
        annotations.append(annotation | score)
    categories = [{"id": 1, "name": "neuron", "supercategory": "cell"}]
    write_json(path, {"images": [entry], "annotations": annotations, "categories": categories})
    return write_image(path.with_suffix(".tif"), recording, once=True)


def _choose(values: Any, name: str | None) -> dict[str, Any]:
    images = values.get("images") if kind_of(values) == "coco" else None
    if not isinstance(images, list) or not all(isinstance(entry, dict) for entry in images):
        raise RecordingError("images", "is no list of images: this is no file of COCO instances")
    chosen = images
    if len(images) > 1 and name is not None:
        chosen = [e for e in images if re.split(r"[\\/]", str(e.get("file_name")))[-1] == name]
    if len(chosen) == 1:
        return dict(chosen[0])
    known = ", ".join(str(entry.get("file_name")) for entry in itertools.islice(images, 10))
    raise RecordingError("images", f"{len(chosen)} of {len(images)} images match; known: {known}")


def _decode(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        try:
            rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation]
        except (TypeError, ValueError) as error:
            reason = "its polygons must be [x, y, x, y, ...]"
            raise RecordingError("segmentation", reason) from error
        # Several polygons of one object are its parts, not its holes.
        parts = [fill_polygons([ring], shape) for ring in rings if len(ring)]
        return np.logical_or.reduce(parts) if parts else np.zeros(shape, bool)
    if not isinstance(segmentation, dict):
        raise RecordingError("segmentation", "must be run lengths or polygons")
    if segmentation.get("size") != list(shape):
        reason = f"is of {segmentation.get('size')!r:.40} px, the image of {list(shape)}"
        raise RecordingError("segmentation", reason)
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decompress_counts(counts)
    whole = isinstance(counts, list) and all(isinstance(c, int) and abs(c) < 2**40 for c in counts)
    if not isinstance(counts, list) or not whole:
        raise RecordingError("counts", "must be whole numbers")
    return decode_counts(counts, shape)
