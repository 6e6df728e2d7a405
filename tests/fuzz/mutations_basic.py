"""Changes to files of bytes, of JSON and of pickles; and the values that are tried in them."""

import contextlib
import json
import random
import re
from typing import Any

from fluxseg.io.files import CHECKSUM, add_checksum
from tests.formats.malicious import NAMES, call, greedy, text

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
BOMB = 2**23
"""Bytes that a bomb unpacks to, more than the limits that the fuzzer sets."""

Random = random.Random


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """Flip, cut, repeat, move or overwrite bytes anywhere."""
    data = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # More often at the begin, where headers are.
        limit = len(data) if rng.random() < 0.6 else min(len(data), 256)
        first = rng.randrange(limit) if limit else 0
        last = min(len(data), first + rng.choice((1, 2, 4, 8, 64, 1024)))
        way = rng.randrange(8)
        if way == 0 and data:
            data[first] ^= 1 << rng.randrange(8)
        elif way == 1 and data:
            data[first] = rng.randrange(256)
        elif way == 2:
            del data[first:last]
        elif way == 3:
            data[first:first] = data[first:last] * rng.choice((1, 2, 50))
        elif way == 4:
            del data[first:]
        elif way == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            data[first : first + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif way == 6:
            data[first:last] = rng.randbytes(last - first)
        else:
            other = rng.randrange(len(data)) if data else 0
            data[first:last] = data[other : other + last - first]
    return bytes(data[: 2**20])


def mutate_json(content: bytes, rng: Random) -> bytes:
    """Change values of a JSON text; a checksum among them is made to fit again."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _mutate_value(value, rng)
    if isinstance(value, dict) and CHECKSUM in value and rng.random() < 0.9:
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            value = add_checksum({k: v for k, v in value.items() if k != CHECKSUM})
    encoded = json.dumps(value).encode()
    if rng.random() < 0.05:
        depth = rng.choice((50, 2000, 100_000))
        bracket = rng.choice((b"[", b'{"a":'))
        place = rng.choice([m.start() for m in re.finditer(rb"[\d\[{]", encoded)] or [0])
        encoded = encoded[:place] + bracket * depth + encoded[place:]
    if rng.random() < 0.05:
        encoded = encoded.replace(b'"', rng.choice((b"'", b"", b'\\"')), 1)
    return encoded


def _mutate_value(value: Any, rng: Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        way = rng.random()
        if way < 0.08:
            del changed[key]
        elif way < 0.14:
            changed[rng.choice(HOSTILE_NAMES)] = changed.pop(key)
        else:
            changed[key] = _mutate_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        way = rng.random()
        if way < 0.08:
            return value[:place] + value[place + 1 :]
        if way < 0.14:
            return value[:place] + [value[place]] * rng.choice((2, 100)) + value[place:]
        return [*value[:place], _mutate_value(value[place], rng), *value[place + 1 :]]
    return _other_value(value, rng)


def _other_value(value: Any, rng: Random) -> Any:
    if isinstance(value, int | float) and abs(value) < 1e300 and rng.random() < 0.5:
        return rng.choice((value + 1, -value, value * 1000, value + 0.5, str(value), [value]))
    return rng.choice(
        (
            None, True, False, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400,
            *NUMBERS, [], {}, [[]], {"a": {}}, "", "nan", "1e999", *HOSTILE_NAMES, [1] * 1000,
            [[0, 0], [1e300, 1e300], [0, 5]], {"size": [10**6, 10**6], "counts": [10**12]},
        )
    )  # fmt: skip


def mutate_npy(content: bytes, rng: Random) -> bytes:
    """Change the header of a `.npy` file, or what is pickled in it."""
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width
    end = start + int.from_bytes(content[8:start], "little")
    header, body = content[start:end], content[end:]
    if body[:1] == b"\x80" and rng.random() < 0.8:
        return content[:end] + mutate_pickle(body, rng)
    if rng.random() < 0.3:
        return content[:end] + mutate_bytes(body, rng)
    sides = rng.choice(
        (b"(%d,)", b"(%d, 1)", b"(1, %d)", b"(-1, %d)", b"(%d, 0)", b"()", b"%d", b"(True, %d)")
    )
    shape = sides % rng.choice(NUMBERS) if b"%d" in sides else sides
    codes = (b"|O", b"<f8", b">f4", b"|b1", b"<U9", b"|S3", b"<M8[ns]", b"<c16", b"|V8", b"<f2",
             b"<U999999999", b"[('a', '<i4')]", b"<i3", b"__import__('os')", b"<f16")  # fmt: skip
    way = rng.randrange(4)
    if way == 0:
        header = re.sub(rb"\([^)]*\)", lambda _: shape, header, count=1)
    elif way == 1:
        code = rng.choice(codes)
        header = re.sub(rb"'descr': '[^']*'", lambda _: b"'descr': '" + code + b"'", header)
    elif way == 2:
        header = header.replace(b"False", rng.choice((b"True", b"0", b"None", b"'F'")))
    else:
        header = rng.choice((b"(" * 3000, b"{" * 90 + b"}" * 90, mutate_bytes(header, rng)))
    return content[:8] + (len(header) % 256**width).to_bytes(width, "little") + header + body


def mutate_pickle(content: bytes, rng: Random) -> bytes:
    """Put hostile instructions between others, or change a few bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    pieces = [*greedy().values(), b"".join((b"N0", b")", b"]", b"}")), b"0", b"R", b"b", b"s"]
    pieces = [piece for piece in pieces if len(piece) < 5000]
    pieces += [call(name, text("touch canary")) for name in NAMES[:12]]
    place = rng.randrange(len(content))
    # A place where an instruction of a text or a number begins is likely between two.
    marks = [m.start() for m in re.finditer(rb"[X\x8cKM\x94h}\]]", content)]
    place = rng.choice(marks) if marks and rng.random() < 0.8 else place
    return content[:place] + rng.choice(pieces) + content[place:]
