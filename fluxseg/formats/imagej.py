"""ImageJ and Fiji ROI sets: `.zip` archives of ROIs, and single `.roi` files.

ROIs are written as polygons along pixel edges, which any number of round trips leaves as they
are; those with holes or of several parts as composite ROIs. The names of ROIs are kept in the
ROIs; the files in the archive are numbered, so that no name becomes a path. The library `roifile`
knows the format itself.
"""

import contextlib
import io
import itertools
import logging
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from fluxseg.data.recording import Recording, annotated_masks
from fluxseg.errors import RecordingError
from fluxseg.formats.json_files import read_image_for
from fluxseg.formats.label_names import stem_of
from fluxseg.formats.labels import NamedMasks, check_total
from fluxseg.formats.metadata import create_recording
from fluxseg.formats.npy import explain_damage, naming_file, open_regular
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.polygons import fill_polygons, trace_polygons
from fluxseg.formats.tiff import open_tiff
from fluxseg.io.files import atomic_path

# What it cannot read is told by remarks and errors.
logging.getLogger("roifile").disabled = True
MAX_ROIS = 100_000
MAX_BYTES = 2**31  # bytes that the members of an archive may take
MAX_MEMBER = 2**22  # bytes of one ROI
MAX_INNER = 2**26  # bytes of a set within a `.zip` file


def read_imagej(
    path: Path | Sequence[Path], image: Path | None = None, pick: Pick = NO_PICK
) -> Recording:
    """Read the ROIs of an ImageJ ROI set with the image that they belong to.

    `path` is a `.zip` of ROIs, or one or more `.roi` files; for its `image` see
    `fluxseg.formats.pairs.find_image`. Pixels belong to a ROI if their centre lies inside. Points
    and lines have no pixels: they are left out, and named in the remarks.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    pixels, metadata = read_image_for(paths[0], image, pick=pick)
    found = [read_imagej_rois(one, pixels.shape) for one in paths]
    name = stem_of(paths[0] if image is None else image)
    masks = np.concatenate([masks for masks, _, _ in found])
    ids = _distinct([name for _, names, _ in found for name in names])
    remarks = (remark for _, _, left_out in found for remark in left_out)
    return create_recording({}, name, pixels, masks, ids, metadata, remarks)


def read_imagej_rois(
    path: Path, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Read the ROIs of an ImageJ ROI set in a field `[H, W]`.

    Returns masks `[N, H, W]` bool, their names, and remarks on ROIs without pixels.
    """
    with naming_file(path):
        return _draw(_read_rois(path), shape)


def write_imagej(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write the ROIs of a recording, which may overlap, as an ImageJ ROI set (`.zip`)."""
    masks = annotated_masks(recording)
    remarks = ["an ImageJ ROI set holds no image, group or metadata"]
    digits = len(str(len(masks)))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # Tools drop it when they save the set, so it tells of what nobody has corrected.
        archive.comment = str(recording.metadata.get("made_by", "")).encode()
        for number, (mask, name) in enumerate(zip(masks, recording.roi_ids, strict=True), 1):
            if not mask.any():
                remarks.append(f"{name} is empty and was left out")
                continue
            # A fixed time, so that the same ROIs give the same bytes.
            member = zipfile.ZipInfo(f"{number:0{digits}d}.roi")
            archive.writestr(member, _create_roi(mask, name).tobytes())
    return tuple(remarks)


def holds_rois(path: Path) -> bool:
    """Tell whether a `.zip` file holds ImageJ ROIs, or one that does (zipped again by macOS)."""
    try:
        with explain_damage(), zipfile.ZipFile(path) as outer, _opened(outer) as archive:
            return bool(_members(archive, ".roi"))
    except (RecordingError, OSError):
        return False


def read_overlay(path: Path, shape: tuple[int, int]) -> NamedMasks:
    """Read the areas that ImageJ has saved inside of a TIFF file as an overlay.

    Returns masks `[N, H, W]` bool and their names.
    """
    with naming_file(path):
        with open_tiff(path) as tiff:
            stored = (tiff.imagej_metadata or {}).get("Overlays", ())
        stored = [stored] if isinstance(stored, bytes) else stored[:MAX_ROIS]
        rois = ((str(number), ImagejRoi.frombytes(data)) for number, data in enumerate(stored, 1))
        masks, names, _ = _draw(rois, shape)
    kept: list[int] = []
    for number, mask in enumerate(masks):
        if mask.any() and not any((mask == masks[other]).all() for other in kept):
            kept.append(number)
    return masks[kept], tuple(names[number] for number in kept)


def _draw(
    rois: Iterable[tuple[str, ImagejRoi]], shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return masks, names and remarks of ROIs, of which each comes with a name in reserve."""
    masks: list[np.ndarray] = []
    names: list[str] = []
    remarks: list[str] = []
    with explain_damage("is a damaged or unusual ROI set"):
        for spare, roi in rois:
            name = _plain(roi.name) or spare
            with naming_file(name), explain_damage("is damaged or unusual"):
                rings = _rings(roi)
            if rings is None:
                kind = roi.roitype.name.lower()
                remarks.append(f"{name} left out: a {kind} has no pixels")
                continue
            check_total(len(masks) + 1, shape)
            mask = fill_polygons(rings, shape)
            if not mask.any():
                remarks.append(f"{name} has no pixel within {shape[0]} x {shape[1]} px")
            masks.append(mask)
            names.append(name)
    return np.array(masks, bool).reshape(-1, *shape), _distinct(names), tuple(remarks)


def _read_rois(path: Path) -> Iterator[tuple[str, ImagejRoi]]:
    with open_regular(path) as (file, size):
        if file.read(4) == b"Iout":
            if size > MAX_MEMBER:
                raise RecordingError("", f"is {size} bytes large, no ROI is")
            file.seek(0)
            yield path.stem, ImagejRoi.frombytes(file.read())
            return
        with zipfile.ZipFile(file) as outer, _opened(outer) as archive:
            members = _members(archive, ".roi")
            if not members:
                raise RecordingError("", "is no ImageJ ROI set: it holds no .roi files")
            if len(members) > MAX_ROIS or sum(m.file_size for m in members) > MAX_BYTES:
                raise RecordingError("", f"declares more than {MAX_ROIS} ROIs, or too large")
            for member in members:
                if member.file_size > MAX_MEMBER:
                    raise RecordingError(member.filename, "is larger than any ROI")
                stem = member.filename.rsplit("/", 1)[-1][: -len(".roi")]
                yield _plain(stem), ImagejRoi.frombytes(archive.read(member))


def _members(archive: zipfile.ZipFile, ending: str) -> list[zipfile.ZipInfo]:
    # macOS puts a file "__MACOSX/._NAME" beside each other one.
    found = [m for m in archive.infolist() if m.filename.lower().endswith(ending)]
    return [m for m in found if not m.filename.rsplit("/", 1)[-1].startswith("._")]


@contextlib.contextmanager
def _opened(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipFile]:
    """Give the ROI set in a `.zip` file that holds one only and no ROIs of its own, or itself."""
    sets = _members(archive, ".zip")
    if len(sets) != 1 or _members(archive, ".roi") or sets[0].file_size > MAX_INNER:
        yield archive
        return
    with zipfile.ZipFile(io.BytesIO(archive.read(sets[0]))) as inner:
        yield inner


def _create_roi(mask: np.ndarray, name: str) -> ImagejRoi:
    rings = trace_polygons(mask)
    if len(rings) == 1:
        roi = ImagejRoi.frompoints(rings[0].astype(np.int32), name=name)
        roi.roitype = ROI_TYPE.POLYGON
        # The corners of a polygon are the edges of pixels; its box ends where they end.
        roi.right -= 1
        roi.bottom -= 1
        return roi
    path: list[float] = []
    for ring in rings:
        for command, (x, y) in zip([0.0, *[1.0] * (len(ring) - 1)], ring, strict=True):
            path += [command, float(x), float(y)]
        path.append(4.0)
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(0).astype(int), corners.max(0).astype(int)
    roi = ImagejRoi()
    roi.name = name
    roi.roitype = ROI_TYPE.RECT
    roi.options = ROI_OPTIONS.OVERLAY_BACKGROUNDS | ROI_OPTIONS.OVERLAY_LABELS
    roi.left, roi.top, roi.right, roi.bottom = int(left), int(top), int(right), int(bottom)
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi


def _rings(roi: ImagejRoi) -> list[np.ndarray] | None:
    """Return the rings of an area; None for points and lines."""
    areas = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.RECT, ROI_TYPE.OVAL)
    if roi.roitype not in areas or roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        return None
    if roi.roitype == ROI_TYPE.OVAL:
        return [_ellipse(roi)]
    if roi.subtype in (ROI_SUBTYPE.ELLIPSE, ROI_SUBTYPE.ROTATED_RECT) and not roi.n_coordinates:
        raise ValueError("it has no outline")
    rings: Any = roi.coordinates(multi=True)
    rings = rings if isinstance(rings, list) else [rings]
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings if len(ring)]
    if not all(np.isfinite(ring).all() for ring in rings):
        raise ValueError("its coordinates are not finite")
    return rings


def _ellipse(roi: ImagejRoi) -> np.ndarray:
    """Return an oval as ImageJ draws it, fine enough that no pixel's centre changes sides."""
    exact = roi.subpixelrect and roi.widthd > 0
    left, top = (roi.xd, roi.yd) if exact else (roi.left, roi.top)
    width = roi.widthd if exact else roi.right - roi.left
    height = roi.heightd if exact else roi.bottom - roi.top
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    x = left + width / 2 * (1 + np.cos(angle))
    return np.stack([x, top + height / 2 * (1 + np.sin(angle))], axis=1)


def _plain(name: str) -> str:
    return "".join(c for c in str(name) if c.isprintable())[:200].strip()


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Number names that occur more than once."""
    taken: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        taken[next(n for n in itertools.chain([name], numbered) if n not in taken)] = None
    return tuple(taken)
