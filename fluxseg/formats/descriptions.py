"""What programs of microscopes say in TIFF files: ImageJ, OME, ScanImage, `tifffile` and others.

ScanImage 3.8 to 2016 and later are told apart by the names of their settings. An OME-TIFF file that
is one of a set counts with what lies in it; no other file is opened.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.pick import IMAGE_AXES, Pick
from fluxseg.formats.tiff import square_pixels, unit_length

_MOST_CHANNELS = 4
_MAX_TEXT = 2**24
_NAMELESS = "its images are called channels, and are taken for frames"
Place = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Told:
    """What the description of a TIFF file says of its images."""

    axes: str = "T"  # letters of the axes of the images, slowest first
    sizes: Sequence[int] = ()  # of the axes but the first
    declared: int = 0  # number of images, 0 if it is not told
    channels: tuple[str, ...] = ()  # names of the channels
    planes: int = 0  # number of planes, if not all steps of the focus are some; else 0
    # of each page its time, plane and channel, if they are listed
    places: dict[int, Place] | None = None
    um_per_px: float | None = None  # size of the pixels, or None
    rate: float | None = None  # images of one plane and channel per second, or None
    remarks: tuple[str, ...] = ()  # what was odd


def read_description(path: Path, tiff: Any, page: Any, count: int, pick: Pick) -> Told:
    """Tell how the images of an opened TIFF file are arranged, of which `page` is the first."""
    text = str(page.description)[:_MAX_TEXT]
    if pick.axes not in ("", IMAGE_AXES):
        return _from_axes(page, pick.axes)
    if "<OME" in text[:2000]:
        return _read_ome(path, text, count, pick)
    if tiff.is_imagej:
        return _read_imagej(tiff.imagej_metadata or {}, count, pick)
    if page.is_scanimage or "scanimage.SI" in text[:100_000]:
        import tifffile

        header: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError, OSError):
            # ScanImage 2016 and later tell it before the first page of a BigTIFF file.
            header = tifffile.read_scanimage_metadata(tiff.filehandle)[0] if tiff.is_bigtiff else {}
        lines = (str(page.software), text, *(f"{name} = {header[name]}" for name in header))
        return _read_scanimage("\n".join(lines).replace("\r", "\n"))
    if page.is_shaped:
        return _from_axes(page, "")
    if tiff.is_lsm or tiff.is_stk or tiff.is_fluoview:
        series = tiff.series[0]
        lead = len(series.shape) - len(page.shape)
        letters = "".join(axis if axis in "ZC" else "T" for axis in series.axes[:lead])
        return Told(letters or "T", series.shape[1:lead], math.prod(series.shape[:lead]))
    return Told()


def _shape_of(page: Any) -> tuple[list[int], str]:
    """Return the sizes and letters of the axes before those of a page, in tifffile's own files."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        values = json.loads(page.shaped_description)
        sizes = [int(side) for side in values["shape"]][: -len(page.shape)]
        letters = str(values.get("axes", ""))[: len(sizes)]
        if all(0 < size < 2**31 for size in sizes):
            return sizes, letters if len(letters) == len(sizes) else ""
    return [], ""


def _from_axes(page: Any, wanted: str) -> Told:
    sizes, letters = _shape_of(page) if page.is_shaped else ([], "")
    letters = "".join(c for c in wanted if c not in "YX") or letters
    kept = [place for place, size in enumerate(sizes) if size > 1]
    if len(letters) == len(sizes):
        letters = "".join(letters[place] for place in kept)
    sizes = [sizes[place] for place in kept]
    if len(letters) <= 1 and len(sizes) <= 1:
        axis = letters if letters in ("T", "Z", "C") else "T"
        return Told(axis or "T", (), math.prod(sizes))
    if not sizes:
        raise RecordingError("", "does not tell the sizes of its axes: --axes can be TYX only")
    if len(letters) != len(sizes) or set(letters) - set("TZC"):
        raise RecordingError("", f"holds {sizes} images: say what is what, as --axes TZCYX")
    return Told(letters, sizes[1:], math.prod(sizes))


def _bounded(value: Any, kind: type = int) -> Any:
    """Return the number that a program tells, from 0 to 2**31; 0 if it is none."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return min(max(kind(value), 0), 2**31)
    return 0


def _read_imagej(told: dict[str, Any], count: int, pick: Pick) -> Told:
    names = ("channels", "slices", "frames")
    channels, planes, times = (max(_bounded(told.get(name)), 1) for name in names)
    remarks: tuple[str, ...] = ()
    declared = max(_bounded(told.get("images")), channels * planes * times)
    if channels > _MOST_CHANNELS and planes == times == 1 and not pick.channel:
        channels, remarks = 1, (_NAMELESS,)
    if planes > 1 and times == 1 and not pick.plane:
        # ImageJ calls the images of a stack slices until it is told otherwise.
        planes = 1
        remarks = ("it tells of slices and no frames: they are taken for frames",) * (count > 1)
    saved = _read_scanimage(str(told.get("Info", "")).replace("\r", "\n")).channels
    if len(saved) > max(channels, 1):
        remarks += (f"ScanImage tells of {len(saved)} channels, ImageJ of {channels}",)
    interval = _bounded(told.get("finterval"), float)
    rate = _bounded(told.get("fps"), float) or (1 / interval if interval else None)
    return Told("TZC", (planes, channels), declared, rate=rate, remarks=remarks)


def _number(text: str, *names: str) -> float | None:
    """Return the first number that is told under one of the names, of ScanImage's settings."""
    for name in names:
        found = re.search(rf"(?m)(?:^|\.){re.escape(name)}\s*=\s*'?([\w.+-]+)", text)
        if found:
            word = {"true": "1", "false": "0"}.get(found[1].lower(), found[1])
            with contextlib.suppress(ValueError):
                value = float(word)
                if math.isfinite(value):
                    return value
    return None


def _read_scanimage(text: str) -> Told:
    def whole(*names: str) -> int:
        return int(_bounded(_number(text, *names)))

    saved = re.search(r"(?m)(?:^|\.)(?:channelSave|channelsSave)\s*=\s*(.*)$", text)
    channels = tuple(re.findall(r"\d+", saved[1])) if saved else ()
    if not channels:
        on = [str(n) for n in range(1, 17) if whole(f"acq.savingChannel{n}") == 1]
        count = whole("acq.numberOfChannelsSave") or len(on) or 1
        channels = tuple(on) if len(on) == count else tuple(str(n + 1) for n in range(count))
    planes = whole("hStackManager.actualNumSlices") or whole(
        "hStackManager.numSlices", "SI4.stackNumSlices", "SI5.stackNumSlices", "acq.numberOfZSlices"
    )
    if _number(text, "hStackManager.enable") == 0:
        planes = 1
    planes = max(planes, 1)
    rate = _number(text, "scanFrameRate", "acq.frameRate")
    fast = whole("hFastZ.enable", "SI4.fastZEnable", "SI5.fastZEnable") > 0 or re.search(
        r"(?m)hStackManager\.stackMode\s*=\s*'?fast", text
    )
    if planes == 1 or fast:
        back = whole("numDiscardFlybackFrames", "fastZNumDiscardFrames")
        steps = max(whole("numFramesPerVolumeWithFlyback"), whole("numFramesPerVolume"), planes)
        steps = steps if steps > planes or planes == 1 else planes + back
        steps = 1 if planes == 1 else steps
        rate = rate / steps if rate else None
        return Told("TZC", (steps, len(channels)), channels=channels, planes=planes, rate=rate)
    frames = whole("framesPerSlice", "acqNumFrames", "acq.numberOfFrames") or 1
    frames = max(frames // max(whole("logAverageFactor"), 1), 1)
    if whole("acq.averaging"):
        frames = 1
    return Told("TZTC", (planes, frames, len(channels)), channels=channels, rate=rate)


def _read_ome(path: Path, text: str, count: int, pick: Pick) -> Told:
    """Read the first image of OME-XML; of a set of files, what lies in this one."""
    from xml.etree import ElementTree  # slow to import

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RecordingError("", "is unsafe: its OME-XML declares entities")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 (no entities, bounded size)
    except ElementTree.ParseError as error:
        raise RecordingError("", f"is damaged: its OME-XML ends or breaks ({error})") from error
    images = root.findall(".//{*}Pixels")
    if not images:
        return Told()
    pixels, parts = images[0].attrib, [part.attrib for part in images[0].findall(".//{*}Channel")]
    remarks = ["it holds several series: the first is read"] * (len(images) > 1)
    sizes = {axis: max(_bounded(pixels.get(f"Size{axis}")), 1) for axis in "TZC"}
    samples = max((_bounded(part.get("SamplesPerPixel")) for part in parts), default=1)
    sizes["C"] = max(sizes["C"] // max(samples, 1), 1)
    order = pixels.get("DimensionOrder", "XYCZT")[2:][::-1]
    if sorted(order) != ["C", "T", "Z"]:
        raise RecordingError("", f"has the unknown order of axes {order[:20]!a} in its OME-XML")
    names = tuple(part.get("Name", "") for part in parts)
    many = sizes["C"] > _MOST_CHANNELS and sizes["Z"] == sizes["T"] == 1
    if many and not any(names) and not pick.channel:
        # Writers that are not told what the axis of a movie is call it the channels.
        order, sizes = "TZC", {"T": sizes["C"], "Z": 1, "C": 1}
        remarks.append(_NAMELESS)
        places = None
    else:
        places = _list_places(path, root, images[0], order, [sizes[a] for a in order], count)
    grid = [sizes[axis] for axis in order]
    step = _bounded(pixels.get("TimeIncrement"), float)
    step *= {"ms": 1e-3, "s": 1.0, "min": 60.0}.get(pixels.get("TimeIncrementUnit", "s"), 0.0)
    units = [unit_length(pixels.get(f"PhysicalSize{axis}Unit", "um")) or 0.0 for axis in "XY"]
    sides = [_bounded(pixels.get(f"PhysicalSize{a}"), float) * u
             for a, u in zip("XY", units, strict=True)]  # fmt: skip
    return Told(
        order, grid[1:], math.prod(grid) if places is None else 0,
        channels=names if len(names) == sizes["C"] and all(names) else (),
        places=places, um_per_px=square_pixels(*sides), rate=1 / step if step else None,
        remarks=tuple(remarks),
    )  # fmt: skip


def _list_places(
    path: Path, root: Any, pixels: Any, order: str, grid: list[int], count: int
) -> dict[int, Place] | None:
    """Return the place of each page that `TiffData` lists for this file; None if it lists none."""
    places: dict[int, Place] = {}
    others = False
    for data in pixels.findall(".//{*}TiffData"):
        uuid = data.find(".//{*}UUID")
        if uuid is not None:
            same = uuid.text is not None and uuid.text.strip() == root.get("UUID", "")
            if not same and uuid.get("FileName", "").casefold() != path.name.casefold():
                others = True
                continue
        first = [min(_bounded(data.attrib.get(f"First{axis}")), size - 1)
                 for axis, size in zip(order, grid, strict=True)]  # fmt: skip
        page = _bounded(data.attrib.get("IFD"))
        length = _bounded(data.attrib.get("PlaneCount")) or (1 if "IFD" in data.attrib else count)
        begin = int(np.ravel_multi_index(first, grid))
        for step in range(min(length, count - page, math.prod(grid) - begin)):
            at = dict(zip(order, np.unravel_index(begin + step, grid), strict=True))
            places[page + step] = (int(at["T"]), int(at["Z"]), int(at["C"]))
    if not places and others and count == 1:
        return {0: (0, 0, 0)}
    if not places and others and math.prod(grid) != count:
        raise RecordingError(
            "", "is one of a set of files under another name: which of them is not told; "
            "use --axes TYX if it is one movie",
        )  # fmt: skip
    return places or None
