"""State dicts in the forms of PyTorch, written without it, as they should be or not."""

import io
import struct
import zipfile

import numpy as np

from tests.formats.malicious import name, text

KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u1": "Byte"}
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}(" + text("little_endian") + b"\x88u."


def number(value: int) -> bytes:
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(key: str, count: int, kind: str = "Float", *more: bytes) -> bytes:
    of = (text("storage"), name(f"torch.{kind}Storage"), text(key), text("cpu"), number(count))
    return tuple_of(*of, *more) + b"Q"


def tensor(stored: bytes, shape, strides, offset: int = 0) -> bytes:
    sides, steps = (tuple_of(*map(number, values)) for values in (shape, strides))
    hooks = name("collections.OrderedDict") + b")R"
    arguments = tuple_of(stored, number(offset), sides, steps, b"\x89", hooks)
    return name("torch._utils._rebuild_tensor_v2") + arguments + b"R"


def state_dict(items: dict[str, bytes]) -> bytes:
    pairs = b"".join(text(key) + value for key, value in items.items())
    # Modules keep their versions as an attribute of the dict.
    attributes = b"}(" + text("_metadata") + name("collections.OrderedDict") + b")Ru"
    return name("collections.OrderedDict") + b")R(" + pairs + b"u" + attributes + b"b"


def describe(arrays: dict[str, np.ndarray], more: tuple[bytes, ...] = ()) -> dict[str, bytes]:
    found = {}
    for index, (key, array) in enumerate(arrays.items()):
        kind = KINDS[array.dtype.str[1:]]
        steps = [step // array.itemsize for step in array.strides]
        found[key] = tensor(storage(str(index), array.size, kind, *more), array.shape, steps)
    return found


def archive(pickled: bytes, contents: dict[str, bytes], **changes) -> bytes:
    """A zip archive of torch.save; `changes` are arguments of ZipFile."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **changes) as members:
        members.writestr("archive/data.pkl", pickled)
        members.writestr("archive/byteorder", "little")
        for key, content in contents.items():
            members.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def as_archive(arrays: dict[str, np.ndarray], **changes) -> bytes:
    contents = {str(i): array.tobytes("A") for i, array in enumerate(arrays.values())}
    return archive(b"\x80\x02" + state_dict(describe(arrays)) + b".", contents, **changes)


def as_legacy(arrays: dict[str, np.ndarray]) -> bytes:
    keys = b"](" + b"".join(text(str(index)) for index in range(len(arrays))) + b"e"
    contents = b"".join(
        struct.pack("<q", array.size) + array.tobytes("A") for array in arrays.values()
    )
    described = b"\x80\x02" + state_dict(describe(arrays, (b"N",))) + b"."
    return MAGIC + PROTOCOL + SYSTEM + described + b"\x80\x02" + keys + b"." + contents
