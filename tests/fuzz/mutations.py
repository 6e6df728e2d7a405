"""Changes to files that know their formats, so that damage lies behind the first check, too.

All take a `random.Random`, which in the suite is one of hypothesis: it shrinks what it finds.
"""

import contextlib
import hashlib
import io
import json
import random
import re
import struct
import warnings
import zipfile
from typing import Any

from fluxseg.io.files import CHECKSUM, add_checksum
from tests.formats.malicious import NAMES, call, greedy, text
from tests.fuzz.folders import Files

NUMBERS = (
    0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31,
    2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
"""Numbers at which programs err."""
HOSTILE_NAMES = (
    "../../x", "/etc/passwd", "..\\..\\x", "C:\\x", "a/b/../../../x", "CON", ".hidden", "", " ",
    "x" * 300, "a\0b", "a\nb", "\u202egnp", "\ud800", "=1+1", "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>", "{{7*7}}", "ü", ".", "..", "//x", "a" * 5000,
)  # fmt: skip
"""Names that a file may give to anything in it."""
VALUES = (
    None, True, False, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400,
    *NUMBERS, [], {}, [[]], {"a": {}}, "", "nan", "1e999", *HOSTILE_NAMES, [1] * 1000,
    [[0, 0], [1e300, 1e300], [0, 5]], {"size": [10**6, 10**6], "counts": [10**12]},
)  # fmt: skip
"""Values that JSON may hold in place of others."""
DTYPES = (
    b"|O", b"<f8", b">f4", b"|b1", b"<U9", b"|S3", b"<M8[ns]", b"<c16", b"|V8", b"<f2",
    b"<U999999999", b"[('a', '<i4')]", b"<i3", b"__import__('os')", b"<f16",
)  # fmt: skip
TIFF_TAGS = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 284, 317, 320, 322, 330, 339,
             50838, 50839)  # fmt: skip
BOMB = 2**23
"""Bytes that a bomb unpacks to, more than the limits that the fuzzer sets."""

Random = random.Random


def mutate_files(files: Files, rng: Random) -> Files:
    """Change one file of a folder, or more; now and then which files there are."""
    files = dict(files) or {"a": b""}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name, other = rng.choice(sorted(files)), rng.choice(sorted(files))
        way = rng.randrange(100)
        if way < 3 and len(files) > 1:
            del files[name]
        elif way < 5:
            files[name], files[other] = files[other], files[name]
        elif way < 6:
            files[f"{name}/x"] = files.pop(name)
        else:
            files[name] = mutate_content(files[name], rng)
    return files


def mutate_content(content: bytes, rng: Random) -> bytes:
    """Change a file in a way of its format, which its begin tells, or as any bytes."""
    change = next((change for start, change in _BY_START if content.startswith(start)), None)
    if change is None and content[8:10] == b'{"':
        change = mutate_safetensors
    elif change is None and content.lstrip()[:1] in (b"{", b"["):
        change = mutate_json
    if change and rng.randrange(4):
        # A file that was damaged before may not be one of its format any more.
        with contextlib.suppress(Exception):
            return change(content, rng)
    return mutate_bytes(content, rng)


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """Flip, cut, repeat, move or overwrite bytes anywhere."""
    data = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4))):
        # More often at the begin, where headers are.
        limit = len(data) if rng.randrange(5) < 3 else min(len(data), 256)
        first = rng.randrange(limit) if limit else 0
        last = min(len(data), first + rng.choice((1, 2, 4, 8, 64, 1024)))
        way = rng.randrange(6)
        if way == 0 and data:
            data[first] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[first : rng.choice((last, len(data)))]
        elif way == 2:
            data[first:first] = data[first:last] * rng.choice((1, 2, 50))
        elif way == 3:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            data[first : first + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif way == 4:
            data[first:last] = hashlib.sha256(bytes(data[first:last])).digest()[: last - first]
        elif data:
            other = rng.randrange(len(data))
            data[first:last] = data[other : other + last - first]
    return bytes(data[: 2**20])


def mutate_json(content: bytes, rng: Random) -> bytes:
    """Change values of a JSON text; a checksum among them is made to fit again."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _mutate_value(value, rng)
    if isinstance(value, dict) and CHECKSUM in value and rng.randrange(10):
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            value = add_checksum({k: v for k, v in value.items() if k != CHECKSUM})
    encoded = json.dumps(value).encode()
    way = rng.randrange(40)
    if way < 2:
        nested = rng.choice((50, 2000, 100_000)) * rng.choice((b"[", b'{"a":'))
        place = rng.choice([m.start() for m in re.finditer(rb"[\d\[{]", encoded)] or [0])
        return encoded[:place] + nested + encoded[place:]
    if way < 4:
        return encoded.replace(b'"', rng.choice((b"'", b"", b'\\"')), 1)
    return encoded


def _mutate_value(value: Any, rng: Random) -> Any:
    deeper = isinstance(value, dict | list) and value and rng.randrange(7)
    way = rng.randrange(100)
    if deeper and isinstance(value, dict):
        key, changed = rng.choice(list(value)), dict(value)
        if way < 8:
            del changed[key]
        elif way < 14:
            changed[rng.choice(HOSTILE_NAMES)] = changed.pop(key)
        else:
            changed[key] = _mutate_value(value[key], rng)
        return changed
    if deeper:
        place = rng.randrange(len(value))
        before, after = value[:place], value[place + 1 :]
        if way < 8:
            return before + after
        if way < 14:
            return before + [value[place]] * rng.choice((3, 100)) + after
        return [*before, _mutate_value(value[place], rng), *after]
    if isinstance(value, int | float) and abs(value) < 1e300 and way < 50:
        return rng.choice((value + 1, -value, value * 1000, value + 0.5, str(value), [value]))
    return rng.choice(VALUES)


def mutate_npy(content: bytes, rng: Random) -> bytes:
    """Change the header of a `.npy` file, or what is pickled in it."""
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width
    end = start + int.from_bytes(content[8:start], "little")
    header, body = content[start:end], content[end:]
    way = rng.randrange(10)
    if body[:1] == b"\x80" and way < 8:
        return content[:end] + mutate_pickle(body, rng)
    if way < 3:
        return content[:end] + mutate_bytes(body, rng)
    if way < 5:
        sides = rng.choice((b"(%d,)", b"(%d, 1)", b"(-1, %d)", b"(%d, 0)", b"%d", b"(True, %d)"))
        shape = rng.choice((b"()", sides % rng.choice(NUMBERS)))
        header = re.sub(rb"\([^)]*\)", lambda _: shape, header, count=1)
    elif way < 7:
        dtype = b"'descr': '" + rng.choice(DTYPES) + b"'"
        header = re.sub(rb"'descr': '[^']*'", lambda _: dtype, header)
    elif way < 8:
        header = header.replace(b"False", rng.choice((b"True", b"0", b"None", b"'F'")))
    else:
        header = rng.choice((b"(" * 3000, b"{" * 90 + b"}" * 90, mutate_bytes(header, rng)))
    return content[:8] + (len(header) % 256**width).to_bytes(width, "little") + header + body


def mutate_pickle(content: bytes, rng: Random) -> bytes:
    """Put hostile instructions between others, or change a few bytes."""
    if rng.randrange(10) < 4:
        return mutate_bytes(content, rng)
    pieces = [*greedy().values(), b"N0)]}", b"0", b"R", b"b", b"s"]
    pieces = [piece for piece in pieces if len(piece) < 5000]
    pieces += [call(name, text("touch canary")) for name in NAMES[:12]]
    # Where an instruction of a text or a number begins is likely a place between two.
    marks = [m.start() for m in re.finditer(rb"[X\x8cKM\x94h}\]]", content)]
    place = rng.choice(marks) if marks else 0
    return content[:place] + rng.choice(pieces) + content[place:]


def mutate_zip(content: bytes, rng: Random) -> bytes:
    """Change a member of an archive, its name, or how it is packed; or add a bomb."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    number = rng.randrange(len(members))
    name, inner = members[number]
    way = rng.randrange(100)
    if way < 70:
        members[number] = (name, mutate_content(inner, rng))
    elif way < 80:
        ending = name[name.rfind(".") :]
        members[number] = (rng.choice(HOSTILE_NAMES).replace("\ud800", "?") + ending, inner)
    elif way < 87:
        members[number] = (name, inner[:200] + bytes(BOMB))
    elif way < 94:
        members.append((name, inner))
    else:
        del members[number]
    buffer = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", packing) as archive:
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), inner, packing)
    return buffer.getvalue()


def mutate_tiff(content: bytes, rng: Random) -> bytes:
    """Change a field of an entry of a page of a TIFF file: tag, type, count or value."""
    order = "<" if content[:1] == b"I" else ">"
    data = bytearray(content)
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    entry = place + 2 + 12 * rng.randrange(count)
    number = rng.choice(NUMBERS) % 2**32
    way = rng.randrange(6)
    if way == 0:
        struct.pack_into(order + "H", data, entry, rng.choice(TIFF_TAGS))
    elif way == 1:
        struct.pack_into(order + "H", data, entry + 2, rng.choice((*range(1, 19), 129)))
    elif way == 2:
        struct.pack_into(order + "I", data, entry + 4, number)
    elif way == 3:
        following = rng.choice((place, 8, 0, len(data) - 2, number))
        struct.pack_into(order + "I", data, place + 2 + 12 * count, following)
    else:
        struct.pack_into(order + "I", data, entry + 8, number)
    return bytes(data)


def mutate_safetensors(content: bytes, rng: Random) -> bytes:
    """Change the header of a model file, or what is in its metadata; checksums fit again."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.randrange(10) < 7:
        inner = header["__metadata__"]["fluxseg"].encode()
        header["__metadata__"]["fluxseg"] = mutate_json(inner, rng).decode()
    else:
        header = json.loads(mutate_json(json.dumps(header).encode(), rng))
    # Without tensors, or their metadata, there is nothing to sign any more.
    with contextlib.suppress(Exception):
        digest = hashlib.sha256(header["__metadata__"]["fluxseg"].encode("utf-8", "surrogatepass"))
        for name in sorted(set(header) - {"__metadata__"}):
            first, last = header[name]["data_offsets"]
            line = f"\n{name}{list(header[name]['shape'])}"
            digest.update(line.encode("utf-8", "surrogatepass") + body[first:last])
        header["__metadata__"]["sha256"] = digest.hexdigest()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def mutate_hdf5(content: bytes, rng: Random) -> bytes:
    """Change, in an HDF5 file, a dataset or a link by the library itself; or any bytes."""
    import h5py
    import numpy as np

    if rng.randrange(2):
        return mutate_bytes(content, rng)
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        data = np.zeros((4, 5))
        new = rng.choice(
            (
                None, h5py.SoftLink("/" + name), h5py.SoftLink("/" + rng.choice(names)),
                h5py.ExternalLink("/etc/passwd", "/"), data, data[None], np.full((4, 5), np.nan),
                np.array(2**62), np.array([-1, 2**31]), "x" * 3000, rng.choice(HOSTILE_NAMES[3:12]),
                np.array([b"a", b"b"]), np.zeros(2, [("x", "i4"), ("y", "i4"), ("w", "f4")]),
                np.zeros((0, 3)), h5py.Empty("f8"), np.zeros(3, "c16"),
            )
        )  # fmt: skip
        del file[name]
        way = rng.randrange(10)
        if way == 0:
            sides, chunks = (2**20, 2**20), (2**10, 2**10)
            file.create_dataset(name, sides, "u1", chunks=chunks, compression="gzip")
        elif way == 1:
            bomb = file.create_dataset(name, (BOMB // 8,), "f8", chunks=True, compression=9)
            bomb[:] = 0
        elif new is not None:
            file[name] = new
    return buffer.getvalue()


_BY_START: tuple[tuple[bytes | tuple[bytes, ...], Any], ...] = (
    (b"\x93NUMPY", mutate_npy), (b"PK", mutate_zip), ((b"II*\0", b"MM\0*"), mutate_tiff),
    (b"\x89HDF", mutate_hdf5), (b"\x80\x02", mutate_pickle),
)  # fmt: skip
