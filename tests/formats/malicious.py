"""Pickles that try to run code, to change the reader, or to use up memory or time."""

import functools
import operator
import os
import pickle
import struct
import subprocess

import numpy as np


def npy(pickled: bytes, shape: str = "()") -> bytes:
    """A `.npy` file with this pickled content."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(dotted: str, *arguments: bytes) -> bytes:
    return name(dotted) + b"(" + b"".join(arguments) + b"tR"


NAMES = (
    "os.system", "posix.system", "nt.system", "os.path.os.system", "subprocess.Popen",
    "subprocess.call", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.open",
    "builtins.setattr", "builtins.globals", "builtins.map", "builtins.type", "builtins.print",
    "builtins.__import__", "importlib.import_module", "functools.partial", "functools.reduce",
    "operator.attrgetter", "operator.methodcaller", "types.FunctionType", "types.CodeType",
    "copyreg._reconstructor", "copyreg.add_extension", "codecs.decode", "_codecs.decode",
    "pickle.loads", "shutil.rmtree", "webbrowser.open", "runpy.run_path",
    "zoneinfo.ZoneInfo.from_file", "datetime.datetime.now", "numpy.load", "numpy.fromfile",
    "numpy.memmap", "numpy.savetxt", "numpy.frombuffer", "numpy.ndarray.tofile",
    "numpy.core.multiarray.fromfile", "numpy.core._internal._reconstruct",
    "numpy.testing._private.utils.runstring", "numpy.distutils.exec_command.exec_command",
    "numpy.f2py.crackfortran.myeval", "numpy.f2py.diagnose.run_command",
)  # fmt: skip
"""Names that no file may use, whether they exist here or not."""


def unsafe(canary: str) -> list[tuple[str, bytes]]:
    """Pickles that would create the file `canary`, change the reader, or reach for what could.

    Returns:
        (what the refusal must name, pickle).
    """
    touch, shell = f"open({canary!r}, 'w').close()", f"touch {canary}"
    found = []
    for dotted in NAMES:
        module, _, attribute = dotted.rpartition(".")
        stack_global = text(module) + text(attribute) + b"\x93"
        for pushed in (name(dotted), stack_global):
            found.append((dotted, b"\x80\x04" + pushed + b"."))
            for argument in (touch, shell):
                content = pushed + text(argument) + b"\x85R"
                found.append((dotted, b"\x80\x04" + content + b"."))
                found.append((dotted, b"\x80\x04}" + text("id") + content + b"s."))
    values = {
        "system": Call(os.system, shell),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "Popen": Call(subprocess.Popen, ["touch", canary]),
        "partial": functools.partial(eval, touch),
        "attrgetter": operator.attrgetter("__class__.__mro__"),
        "memmap": Call(np.memmap, canary, "u1", "w+", 0, (8,)),
        "system ": {"metadata": [{"a": (Call(os.system, shell),)}]},
        "system  ": np.array([{"a": np.array([Call(os.system, shell)], object)}], object),
    }
    for wanted, value in values.items():
        found += [(wanted.strip(), pickle.dumps(value, protocol)) for protocol in (2, 3, 4, 5)]
    return found + [
        (wanted, b"\x80\x04" + content + b".") for wanted, content in _raw(shell).items()
    ]


def _raw(shell: str) -> dict[str, bytes]:
    return {
        "builtins.getattr of zoneinfo.ZoneInfo, __class__": call(
            "builtins.getattr", name("zoneinfo.ZoneInfo"), text("__class__")
        ),
        "builtins.getattr of datetime.datetime": call(
            "__builtin__.getattr", name("datetime.datetime"), text("__subclasses__")
        ),
        "a call of numpy.ndarray": call("numpy.ndarray", b"M\xff\xff\x85"),
        "a call of zoneinfo.ZoneInfo": call("zoneinfo.ZoneInfo", text("UTC")),
        "another class than numpy.ndarray": call(
            "numpy.core.multiarray._reconstruct", name("datetime.datetime"), b")", b"C\x01b"
        ),
        "numpy.ndarray as a value": name("numpy.ndarray"),
        "_codecs.encode": call("_codecs.encode", text("x"), text("unicode_escape")),
        "builtins.bytearray": call("builtins.bytearray", b"J\xff\xff\xff\x7f"),
        # Attributes of what the names of the list stand for.
        "a change of _codecs.encode": name("_codecs.encode") + b"}" + text("a") + b"Nsb",
        "a change of numpy.dtype": name("numpy.dtype") + b"N}" + text("name") + b"Ns\x86b",
        "a change of datetime.datetime": name("datetime.datetime") + b"}" + text("now") + b"Nsb",
        "a change of dict": b"}}" + text("__class__") + b"Nsb",
        "a change of OrderedDict": call("collections.OrderedDict") + b"}" + text("a") + b"Nsb",
        "a change of datetime attributes": call(
            "datetime.datetime", b"M\xe4\x07", b"K\x01", b"K\x01"
        )
        + b"}"
        + text("hour")
        + b"K\x05sb",
        # Instructions that create objects, or take them from elsewhere.
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "instruction PERSID": b"Pos.system\n",
        "BINPERSID": text("x") + b"Q",
        "NEWOBJ": name("collections.OrderedDict") + b")\x81",
        "NEWOBJ_EX": name("collections.OrderedDict") + b")}\x92",
        "os.system (instruction INST)": b"(" + text(shell) + b"ios\nsystem\n",
        "OBJ": b"(" + name("collections.OrderedDict") + text(shell) + b"o",
    }


def _array(shape: bytes, code: str = "u1", data: bytes = b"C\x01b", order: str = "|") -> bytes:
    empty = call(
        "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"K\x00\x85", b"C\x01b"
    )
    dtype = call("numpy.dtype", text(code), b"\x89", b"\x88")
    state = b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return empty + b"(K\x01" + shape + dtype + state + b"\x89" + data + b"tb"


def greedy() -> dict[str, bytes]:
    """Small pickles that would take much memory or time, or never end."""
    huge = b"\x8a\x08" + (2**62).to_bytes(8, "little")
    minus = b"J\xff\xff\xff\xff"
    doubled = b"]q\x00K\x01a0" + b"".join(b"]h%cah%caq%c0" % (i, i, i + 1) for i in range(60))
    doubled += b"h<"
    tuples = b"K\x01\x85q\x000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
    tuples += b"h<"
    megabyte = b"B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x00"
    colliding = b"".join(
        b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N" for k in range(100_000)
    )
    return {
        "bytes8 of any length": b"\x8e" + struct.pack("<Q", 2**60),
        "bytearray8 of any length": b"\x96" + struct.pack("<Q", 2**40),
        "text of any length": b"\x8d" + struct.pack("<Q", 2**62),
        "frame of any length": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "memo of any index": b"Nr\xff\xff\xff\x7f" + b"]" + b"j\xff\xff\xff\x7e",
        "doubled list": doubled,
        "doubled tuple": tuples,
        "doubled tuple as a key": b"}" + tuples + b"Ns",
        "doubled tuple as a shape": _array(tuples),
        "doubled list as a codec": call("_codecs.encode", text("x"), doubled),
        "doubled list as an attribute": call("builtins.getattr", text("x"), doubled),
        "list of itself": b"]q\x00h\x00a",
        "tuple of itself": b"]q\x00h\x00\x85q\x01a",
        "dict of itself": b"}q\x00" + text("a") + b"h\x00s",
        "array of itself": b"]q\x00" + _array(b"K\x01\x85", "O8", b"h\x00") + b"a",
        "100 000 levels": b"]" * 100_000 + b"a" * 99_999,
        "100 000 tuples": b"N" + b"\x85" * 100_000,
        "marks": b"(" * 1_000_000,
        "sets": b"\x8f" * 1_900_000,
        "instructions": b"N0" * 1_500_000 + b"N",
        "repeated bytearray": megabyte
        + b"]"
        + b"("
        + call("builtins.bytearray", b"h\x00") * 2000
        + b"e",
        "repeated scalar": megabyte
        + call("numpy.dtype", text("S1048576"))
        + b"q\x01]("
        + call("numpy.core.multiarray.scalar", b"h\x01", b"h\x00") * 2000
        + b"e",
        "repeated bool array": megabyte[:5]
        + b"\x02" * 2**20
        + b"q\x00]("
        + _array(b"J\x00\x00\x10\x00\x85", "b1", b"h\x00") * 2000
        + b"e",
        "colliding keys": b"}(" + colliding + b"u",
        "colliding members": b"\x8f(" + colliding + b"\x90",
        "colliding set": call("builtins.set", b"](" + colliding + b"e"),
        "huge shape": _array(huge + b"\x85"),
        "huge shape, no bytes": _array(huge + huge + b"\x86", data=b"C\x00"),
        "huge shape and 0": _array(huge + huge + b"K\x00\x87", data=b"C\x00"),
        "huge number of empty texts": _array(huge + b"\x85", "U0", b"C\x00"),
        "huge text": _array(b"K\x01\x85", "U999999999"),
        "negative shape": _array(minus + minus + b"\x86"),
        "shape that repeats a list": _array(b"J\xff\xff\xff\x7f](K\x01e\x86", "O8", b"]"),
        "object array of bytes": _array(b"K\x01\x85", "O8"),
        "numbers from a list": _array(b"K\x01\x85", "u1", b"](K\x01e"),
        "array without state": call(
            "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"K\x00\x85", b"C\x01b"
        ),
        "text of no characters": _array(b"K\x01\x85", "U1", b"C\x04\xff\xff\xff\xff", "<"),
        "structured dtype": _array(b"K\x01\x85", "V8"),
        "dtype as a value": call("numpy.dtype", text("u1")),
        "long number": b"\x8b" + struct.pack("<I", 2**31 - 1),
        "date of numbers": call("datetime.datetime", *[b"\x8a\xff" + b"\x7f" * 255] * 3),
        "interval": call("datetime.timedelta", b"G" + struct.pack(">d", float("nan"))),
        "time zone": call("zoneinfo.ZoneInfo._unpickle", text("../../../etc/passwd"), b"\x88"),
        "empty stack": b"R",
        "nothing": b"",
        "protocol 9": b"\x80\x09N",
    }
