"""Changes to files that know their formats, so that damage lies behind the first check, too."""

import io
import warnings
import zipfile
from collections.abc import Callable

from tests.fuzz.folders import Files
from tests.fuzz.mutations_basic import (
    BOMB,
    HOSTILE_NAMES,
    Random,
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_pickle,
)
from tests.fuzz.mutations_media import (
    mutate_hdf5,
    mutate_png,
    mutate_safetensors,
    mutate_tiff,
)


def mutate_files(files: Files, rng: Random) -> Files:
    """Change one file of a folder, or more; now and then which files there are."""
    files = dict(files) or {"a": b""}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(sorted(files))
        way = rng.random()
        if way < 0.03 and len(files) > 1:
            del files[name]
        elif way < 0.05:
            other = rng.choice(sorted(files))
            files[name], files[other] = files[other], files[name]
        elif way < 0.06:
            files[f"{name}/x"] = files.pop(name)
        else:
            files[name] = mutate_content(files[name], rng)
    return files


def mutate_content(content: bytes, rng: Random) -> bytes:
    """Change a file in a way of its format, which its begin tells, or as any bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(content, rng)
    for start, change in _BY_START:
        if content.startswith(start):
            return change(content, rng)
    if content[8:10] == b'{"':
        return mutate_safetensors(content, rng)
    if content.lstrip()[:1] in (b"{", b"["):
        return mutate_json(content, rng)
    return mutate_bytes(content, rng)


def mutate_zip(content: bytes, rng: Random) -> bytes:
    """Change a member of an archive, its name, or how it is packed; or add a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        # An archive that was damaged before.
        return mutate_bytes(content, rng)
    if not members:
        return mutate_bytes(content, rng)
    number = rng.randrange(len(members))
    name, inner = members[number]
    way = rng.random()
    if way < 0.7:
        members[number] = (name, mutate_content(inner, rng))
    elif way < 0.8:
        ending = name[name.rfind(".") :]
        members[number] = (rng.choice(HOSTILE_NAMES)[:60000].replace("\ud800", "?") + ending, inner)
    elif way < 0.87:
        members[number] = (name, inner[:200] + bytes(BOMB))
    elif way < 0.94:
        members.append((name, inner))
    else:
        del members[number]
    buffer = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", packing) as archive:
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), inner, packing)
    written = buffer.getvalue()
    return mutate_bytes(written, rng) if rng.random() < 0.15 else written


_BY_START: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes, Random], bytes]], ...] = (
    (b"\x93NUMPY", mutate_npy),
    (b"PK", mutate_zip),
    ((b"II*\0", b"MM\0*"), mutate_tiff),
    (b"\x89PNG", mutate_png),
    (b"\x89HDF", mutate_hdf5),
    (b"\x80\x02", mutate_pickle),
)
