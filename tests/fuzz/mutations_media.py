"""Changes to pictures, model files and HDF5 files that leave their frame whole."""

import contextlib
import hashlib
import io
import json
import struct
import zlib
from typing import Any

from tests.fuzz.mutations_basic import (
    BOMB,
    HOSTILE_NAMES,
    NUMBERS,
    Random,
    mutate_bytes,
    mutate_json,
)


def mutate_tiff(content: bytes, rng: Random) -> bytes:
    """Change a field of an entry of a page of a TIFF file: tag, type, count or value."""
    order = "<" if content[:1] == b"I" else ">"
    data = bytearray(content)
    try:
        (place,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, place)
        entry = place + 2 + 12 * rng.randrange(count)
        way = rng.randrange(6)
        if way == 0:
            struct.pack_into(
                order + "H",
                data,
                entry,
                rng.choice(
                    (
                        254,
                        256,
                        257,
                        258,
                        259,
                        262,
                        273,
                        277,
                        278,
                        279,
                        282,
                        284,
                        317,
                        320,
                        322,
                        330,
                        339,
                        50838,
                        50839,
                    )
                ),
            )
        elif way == 1:
            struct.pack_into(order + "H", data, entry + 2, rng.choice((*range(1, 19), 129)))
        elif way == 2:
            struct.pack_into(order + "I", data, entry + 4, rng.choice(NUMBERS) % 2**32)
        elif way == 3:
            struct.pack_into(
                order + "I",
                data,
                place + 2 + 12 * count,
                rng.choice((place, 8, 0, len(data) - 2, rng.randrange(2**32))),
            )
        else:
            struct.pack_into(order + "I", data, entry + 8, rng.choice(NUMBERS) % 2**32)
    except (struct.error, ValueError):
        return mutate_bytes(content, rng)
    return bytes(data)


def mutate_png(content: bytes, rng: Random) -> bytes:
    """Change a chunk of a PNG file, or add one that unpacks to much, with fitting checksums."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return mutate_bytes(content, rng)
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    way = rng.randrange(5)
    if way == 0 and kind == b"IHDR":
        sides = [rng.choice((0, 1, 30, 5000, 20_000, 2**31 - 1)) for _ in range(2)]
        data = struct.pack(">II", *sides) + data[8:]
    elif way == 1 and kind == b"IDAT":
        data = zlib.compress(bytes(BOMB))
    elif way == 2:
        chunks.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(b"<" * BOMB)))
    elif way == 3:
        chunks.insert(
            number,
            (
                rng.choice((b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"iCCP")),
                rng.randbytes(rng.choice((0, 3, 26, 256))),
            ),
        )
    else:
        data = mutate_bytes(data, rng)
    chunks[number] = (chunks[number][0], data)
    parts = [content[:8]]
    for kind, data in chunks:
        parts += [
            struct.pack(">I", len(data)),
            kind,
            data,
            struct.pack(">I", zlib.crc32(kind + data)),
        ]
    return b"".join(parts)


def mutate_safetensors(content: bytes, rng: Random) -> bytes:
    """Change the header of a model file, or what is in its metadata; checksums fit again."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        if rng.random() < 0.7:
            inner = json.loads(header["__metadata__"]["fluxseg"])
            entry = mutate_json(json.dumps(inner).encode(), rng).decode()
            header["__metadata__"]["fluxseg"] = entry
        else:
            header = json.loads(mutate_json(json.dumps(header).encode(), rng))
    except (ValueError, KeyError, TypeError, RecursionError):
        return mutate_bytes(content, rng)
    body = content[8 + length :]
    # Without tensors, or their metadata, there is nothing to sign any more.
    with contextlib.suppress(Exception):
        header["__metadata__"]["sha256"] = _model_checksum(header, body)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def _model_checksum(header: dict[str, Any], body: bytes) -> str:
    digest = hashlib.sha256(header["__metadata__"]["fluxseg"].encode("utf-8", "surrogatepass"))
    for name in sorted(set(header) - {"__metadata__"}):
        first, last = header[name]["data_offsets"]
        digest.update(f"\n{name}{list(header[name]['shape'])}".encode("utf-8", "surrogatepass"))
        digest.update(body[first:last])
    return digest.hexdigest()


def mutate_hdf5(content: bytes, rng: Random) -> bytes:
    """Change, in an HDF5 file, a dataset or a link by the library itself; or any bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    import h5py
    import numpy as np

    buffer = io.BytesIO(content)
    try:
        with h5py.File(buffer, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = rng.choice(names)
            data = np.zeros((4, 5))
            new = rng.choice(
                (
                    None, h5py.SoftLink("/" + name), h5py.SoftLink("/" + rng.choice(names)),
                    h5py.ExternalLink("/etc/passwd", "/"), data,
                    data[None], np.full((4, 5), np.nan), np.array(2**62), np.array([-1, 2**31]),
                    "x" * 3000, rng.choice(HOSTILE_NAMES[3:12]),
                    np.array([b"a", b"b"]), np.zeros(2, [("x", "i4"), ("y", "i4"), ("w", "f4")]),
                    np.zeros((0, 3)), h5py.Empty("f8"), np.zeros(3, "c16"),
                )
            )  # fmt: skip
            del file[name]
            if rng.random() < 0.1:
                file.create_dataset(
                    name, (2**20, 2**20), "u1", chunks=(2**10, 2**10), compression="gzip"
                )
            elif rng.random() < 0.1:
                bomb = file.create_dataset(name, (BOMB // 8,), "f8", chunks=True, compression=9)
                bomb[:] = 0
            elif new is not None:
                file[name] = new
    except Exception:
        # The library refuses files that were damaged before.
        return mutate_bytes(content, rng)
    return buffer.getvalue()
