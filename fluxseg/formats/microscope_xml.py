"""What ThorImage and Bruker's PrairieView tell of their files in the XML file beside these.

ThorImage writes `Experiment.xml` beside `ChanA_0001_0001_0001_0001.tif` (channel, area, tile,
plane, time) or `Image_0001_0001.raw`, in which the channels of each image follow each other.
PrairieView lists each file and page in `NAME.xml`. No document type is accepted, thus no entity,
and no file is opened that is named there.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.parsers import expat

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import open_regular
from fluxseg.formats.pick import Pick, choose_places

MAX_BYTES = 2**27  # bytes of an XML file; PrairieView writes about 1000 for each image
_THOR_FILE = re.compile(r"(Chan[A-Z])_(\d+_\d+)_(\d+)_(\d+)\.tiff?", re.IGNORECASE)
_THOR_RAW = re.compile(r"Image_\d+_\d+\.raw", re.IGNORECASE)
_MOST_PLANES = 1000

Place = tuple[int, int, int]
_Tags = list[tuple[str, dict[str, str]]]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One recording of a microscope."""

    name: str  # of the recording
    channels: tuple[str, ...]  # their names
    # of each file, by its name, the time, plane and channel of each page, from 0
    files: Mapping[str, Mapping[int, Place]]
    um_per_px: float | None  # size of the pixels, or None
    rate: float | None  # images of one plane and channel per second, or None
    # number of raw images at each time, their height and width, px
    raw: tuple[int, int, int] = (0, 0, 0)

    def choose_files(self, paths: Sequence[Path], pick: Pick) -> list[Path]:
        """Return those of some files that hold one channel and plane, in the order of time.

        Raises `RecordingError`, listing what there is, if there are several and none is picked.
        """
        rows = [(path, place) for path in paths for place in self.files[path.name].values()]
        chosen = choose_places(np.array([place for _, place in rows]), self.channels, pick)
        return list(dict.fromkeys(rows[number][0] for number in chosen))


def find_recorded(path: Path) -> Recorded | None:
    """Return the recording that a file belongs to, by the XML file beside it; None without one."""
    return next((one for one in recorded_in(path.parent) if path.name in one.files), None)


def is_accessory(path: Path) -> bool:
    """Tell whether a file is of a recorded folder, but no image of it: settings or a preview."""
    known = path.suffix.lower() in (".xml", ".env") or path.stem.endswith("_Preview")
    return known and bool(recorded_in(path.parent))


def recorded_in(folder: Path) -> tuple[Recorded, ...]:
    """Return the recordings that XML files in a folder tell of; damaged ones tell nothing."""
    try:
        return _read_folder(folder, folder.stat().st_mtime_ns)
    except OSError:
        return ()


def group_recorded(paths: Iterable[Path]) -> Iterator[tuple[Recorded, list[Path]]]:
    """Yield the recordings that files belong to, each with those of its files."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, inside in folders.items():
        for one in recorded_in(folder):
            if mine := [path for path in inside if path.name in one.files]:
                yield one, mine


def open_raw(path: Path, recorded: Recorded, pick: Pick) -> np.ndarray:
    """Map one channel and plane of a raw file of ThorImage into memory: `[T, H, W]` uint16."""
    count, height, width = recorded.raw
    size = 2 * count * height * width
    times, left = divmod(path.stat().st_size, size or 1)
    if not times or not size or left:
        what = f"{count} images of {height} x {width} px at each time"
        raise RecordingError("", f"does not hold what Experiment.xml tells: {what}")
    places = recorded.files[path.name]
    chosen = choose_places(np.array(list(places.values())), recorded.channels, pick)[0]
    array = np.memmap(path, "<u2", "r", 0, (times, count, height, width))
    return np.asarray(array[:, list(places)[chosen]])


@functools.lru_cache(64)
def _read_folder(folder: Path, _time: int) -> tuple[Recorded, ...]:
    found = []
    files = sorted(folder.iterdir())
    for path in files:
        if path.suffix.lower() == ".xml" and not path.name.startswith("."):
            try:
                tags = _read_tags(path)
                roots = {"ThorImageExperiment": _read_thor, "PVScan": _read_prairie}
                if tags and (read := roots.get(tags[0][0])):
                    found += [read(tags, path, files)]
            except (RecordingError, OSError, ValueError, LookupError, expat.ExpatError):
                continue
    return tuple(found)


def _read_tags(path: Path) -> _Tags:
    """Return the elements of an XML file, each with its attributes, in the order of the file."""
    tags: _Tags = []

    def refuse(*_: object) -> None:
        raise RecordingError("", "declares a document type")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda name, values: tags.append((name, values))
    with open_regular(path) as (file, size):
        if size <= MAX_BYTES:
            parser.ParseFile(file)
    return tags


def _positive(text: object) -> float | None:
    value = float(str(text or 0))
    return value if 0 < value < 1e9 else None


def _read_thor(tags: _Tags, path: Path, files: Sequence[Path]) -> Recorded:
    first = dict(reversed(tags))
    lsm, stage, stream = (first.get(name, {}) for name in ("LSM", "ZStage", "Streaming"))
    names = [values.get("name", "") for name, values in tags if name == "Wavelength"]
    # A bit for each of ChanA to ChanD.
    on = [name for name in names if int(lsm.get("channel", 0)) >> (ord(name[-1:] or "A") - 65) & 1]
    channels = on or names or ["ChanA"]
    planes = int(stage.get("steps", 1)) if stream.get("zFastEnable") == "1" else 1
    planes = min(max(planes, 1), _MOST_PLANES)
    steps = planes + int(stream.get("flybackFrames", 0)) * (planes > 1)
    averaged = int(lsm.get("averageNum", 1)) if lsm.get("averageMode") == "1" else 1
    rate = _positive(lsm.get("frameRate"))
    found: dict[str, dict[int, Place]] = {}
    for name in (file.name for file in files):
        if match := _THOR_FILE.fullmatch(name):
            channels += [match[1]] if match[1] not in channels else []
            place = int(match[4]), int(match[3]) - 1, channels.index(match[1])
            found[name] = {0: place}
    count = len(channels)
    grid = {n: (0, n // count, n % count) for n in range(planes * count)}
    found |= {file.name: grid for file in files if _THOR_RAW.fullmatch(file.name)}
    raw = steps * count, int(lsm.get("pixelY", 0)), int(lsm.get("pixelX", 0))
    return Recorded(
        path.resolve().parent.name, tuple(channels), found, _positive(lsm.get("pixelSizeUM")),
        rate and rate / (averaged * steps), raw,
    )  # fmt: skip


def _read_prairie(tags: _Tags, path: Path, _files: Sequence[Path]) -> Recorded:
    listed: list[tuple[str, int, int, int, int]] = []
    channels: dict[int, str] = {}
    times: dict[int, float] = {}
    told: dict[str, str] = {}
    key, cycle, plane, volumes = "", -1, -1, False
    for tag, given in tags:
        if tag == "Sequence":
            cycle, plane, volumes = cycle + 1, -1, "ZSeries" in given.get("type", "")
        elif tag == "Frame":
            plane += 1
            times.setdefault(cycle if volumes else len(times), float(given["absoluteTime"]))
        elif tag == "File":
            channel = int(given["channel"])
            channels[channel] = given.get("channelName") or f"Ch{channel}"
            time, page = cycle if volumes else len(times) - 1, int(given.get("page", 1)) - 1
            listed.append((given["filename"], page, time, plane * volumes, channel))
        elif tag == "PVStateValue":
            key = given.get("key", "")
        elif tag == "IndexedValue":
            told.setdefault(f"{key} {given.get('index')}", given.get("value", ""))
    numbers = sorted(channels)
    found: dict[str, dict[int, Place]] = {}
    for name, page, time, depth, channel in listed:
        found.setdefault(name, {})[page] = (time, depth, numbers.index(channel))
    spent = _positive(max(times.values(), default=0) - min(times.values(), default=0))
    sides = [_positive(told.get(f"micronsPerPixel {axis}Axis")) for axis in "XY"]
    return Recorded(
        path.stem, tuple(channels[number] for number in numbers), found,
        sides[0] if sides[0] == sides[1] else None, (len(times) - 1) / spent if spent else None,
    )  # fmt: skip
