"""Which channel, plane or array is read of a file that holds several."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from fluxseg.config import Config
from fluxseg.errors import ConfigError, RecordingError

_MOST_LISTED = 20


IMAGE_AXES = "YX"
"""Axes that say that each file is an image of its own, and none a frame of a movie."""


@dataclasses.dataclass(frozen=True)
class Pick:
    """What to read of files that hold several; "" where each holds one only."""

    channel: str = ""
    """Which channel, of files with several: its name (such as green), or its number from 1."""
    plane: str = ""
    """Which plane, of files with several: its name, or its number from 1."""
    key: str = ""
    """Which array, of HDF5, MATLAB, .npz and NWB files with several: its name."""
    axes: str = ""
    """Order of the axes of movies that do not tell it, such as TYX, YXT or TCYX. YX: each file is
    an image of its own, and no frame of a movie."""

    def __str__(self) -> str:
        return " ".join(f"{k}={v}" for k, v in dataclasses.asdict(self).items() if v)

    def __post_init__(self) -> None:
        letters = self.axes.upper()
        object.__setattr__(self, "axes", letters)
        if letters and (set(letters) - set("TZCYX") or len(set(letters)) < len(letters)):
            raise ConfigError(f"axes: must be letters of TZCYX, each once, got {letters!r}")
        if letters and not {"Y", "X"} <= set(letters):
            raise ConfigError(f"axes: must hold Y and X, got {letters!r}")


NO_PICK = Pick()  # of a file that holds one of each


def parse_pick(text: str) -> Pick:
    """Return what a text such as "channel=2 plane=plane1" asks for, the inverse of `str(pick)`."""
    known = [field.name for field in dataclasses.fields(Pick)]
    # Names of channels may hold blanks.
    parts = re.split(rf"(?:^|\s+)({'|'.join(known)})=", text.strip())
    names, values = parts[1::2], parts[2::2]
    if parts[0] or not all(values) or len(set(names)) < len(names):
        raise ConfigError(f"data.pick: must be like channel=2 plane=1 ({known}), got {text!r}")
    return Pick(**dict(zip(names, values, strict=True)))


def pick_data(config: Config, pick: Pick) -> Config:
    """Return a config whose recordings are read as the options say, if they say anything."""
    if not str(pick):
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, pick=str(pick)))


def choose(what: str, names: Sequence[str], wanted: str) -> int:
    """Return the place of the wanted one of several: "channel", "plane" or "key" (`what`).

    `wanted` is a name, the end of a path, or a number from 1; "" if there should be one only. An
    error lists the names.
    """
    if not wanted:
        if len(names) == 1:
            return 0
        advice = f"; choose one with --{what}" if names else ""
        raise RecordingError("", f"{list_names(what, names)}{advice}")
    folded, sought = [f"/{name}".casefold() for name in names], f"/{wanted}".casefold()
    alike = [index for index, name in enumerate(folded) if name == sought]
    ending = [index for index, name in enumerate(folded) if name.endswith(sought)]
    for known in (alike, ending):
        if len(known) == 1:
            return known[0]
    # Of channels 1 and 3 no number is a place.
    numbered = re.fullmatch(r"\d{1,9}", wanted) and not all(name.isdecimal() for name in names)
    if numbered and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise RecordingError("", f"has no {what} {wanted!a}: {list_names(what, names)}")


def list_names(what: str, names: Sequence[str]) -> str:
    """Say how many there are, and their names."""
    count = len(names)
    if count == 0:
        return f"holds no {what}"
    listed = ", ".join(ascii(name)[1:-1][:80] for name in names[:_MOST_LISTED])
    listed += ", ..." * (count > _MOST_LISTED)
    if count > 3 and list(names) == [str(number) for number in range(1, count + 1)]:
        listed = f"1 to {count}"
    return f"holds {count} {what}{'s' * (count > 1)} ({listed})"


def choose_places(places: np.ndarray, channels: Sequence[str], pick: Pick) -> np.ndarray:
    """Choose the images of one channel of one plane; their indices `[M]` int, in the order of time.

    `places` `[N, 3]` int are the time, plane and channel of each image, from 0. Channels without a
    name are numbered from 1. An error lists what there is, if there are several and none is picked.
    """
    kept = np.ones(len(places), bool)
    told, options = [], []
    for what, column, names in (("channel", 2, channels), ("plane", 1, ())):
        wanted = getattr(pick, what)
        there = np.unique(places[:, column]).tolist()
        listed = [names[n] if n < len(names) else str(n + 1) for n in there]
        if len(there) > 1 and not wanted:
            told.append(list_names(what, listed))
            options.append(f"--{what}")
            continue
        # Numbers count all channels, also where a file holds one of them only.
        number = int(wanted) - 1 if re.fullmatch(r"[0-9]{1,9}", wanted) else -1
        known = number in there and names and not any(name.isdecimal() for name in names)
        kept &= places[:, column] == (number if known else there[choose(what, listed, wanted)])
    if told:
        text = " and ".join(told).replace("and holds", "and")
        raise RecordingError("", f"{text}; choose with {' and '.join(options)}")
    order = np.argsort(places[kept, 0], kind="stable")
    return np.flatnonzero(kept)[order]
