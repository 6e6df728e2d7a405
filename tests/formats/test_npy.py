"""Reading `.npy` files: what numpy writes comes back, declared sizes are checked."""

import io
import os
import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.errors import RecordingError, UnsafeFileError
from fluxseg.formats.npy import naming_file, read_npy, read_npy_stream, read_pickled_dict
from tests.formats.malicious import npy
from tests.formats.refusal import refused


def header(text, version=b"\x01\x00", length=None):
    width = "<H" if version == b"\x01\x00" else "<I"
    count = len(text) if length is None else length
    return b"\x93NUMPY" + version + struct.pack(width, count) + text.encode("latin-1")


def declared(descr="'<f8'", shape="(2,)", order="False"):
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n")


def read_bytes(data):
    return read_npy_stream(io.BytesIO(data), len(data))


@settings(max_examples=80, deadline=None)
@given(
    array=hnp.arrays(
        st.one_of(
            hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"),
            hnp.unsigned_integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?"),
            hnp.complex_number_dtypes(), hnp.unicode_string_dtypes(min_len=1, max_len=4),
            hnp.byte_string_dtypes(min_len=1, max_len=4), hnp.datetime64_dtypes(),
        ),
        hnp.array_shapes(min_dims=0, min_side=0),
    ),
    fortran=st.booleans(),
    version=st.sampled_from([None, (2, 0)]),
)  # fmt: skip
def test_plain_arrays_come_back_exactly(array, fortran, version):
    if fortran:
        array = np.asfortranarray(array)
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    found = read_bytes(file.getvalue())
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert array.ndim < 2 or found.flags.f_contiguous == array.flags.f_contiguous


def test_object_arrays_are_read_without_running_anything(tmp_path):
    stat = np.array([{"ypix": np.arange(3), "med": [1, 2]}, {"ypix": np.arange(2)}], object)
    np.save(tmp_path / "stat.npy", stat, allow_pickle=True)
    found = read_npy(tmp_path / "stat.npy")
    assert found.shape == (2,)
    assert found[0]["ypix"].tolist() == [0, 1, 2]
    (tmp_path / "bad.npy").write_bytes(npy(b"cos\nsystem\n."))
    with pytest.raises(UnsafeFileError, match=r"bad\.npy: asks for os\.system"):
        read_npy(tmp_path / "bad.npy")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\x93NUM", "does not begin as a .npy file"),
        (b"PK\x03\x04 and more", "does not begin as a .npy file"),
        (header("{}", b"\x03\x00"), "version 3.0"),
        (header("{}", b"\x09\x09"), "version 9.9"),
        (header("{}", b"\x02\x00", 2**32 - 1), "header of 4294967295 bytes"),
        (header(" " * 20_000), "header of 20000 bytes"),
        (header("{}"), "its header is not that of an array"),
        (header("[1, 2]"), "its header is not that of an array"),
        (header("(" * 5000), "its header is not that of an array"),
        (header("-" * 9000 + "1"), "its header is not that of an array"),
        (header("__import__('os').system('true')"), "its header is not that of an array"),
        (declared(order="1"), "neither C nor Fortran"),
        (declared(shape="2"), "the shape of an array is not valid"),
        (declared(shape="(-1,)"), "the shape of an array is not valid"),
        (declared(shape="(True,)"), "the shape of an array is not valid"),
        (declared(shape="(2.5,)"), "the shape of an array is not valid"),
        (declared(shape=repr((1,) * 33)), "the shape of an array is not valid"),
        (declared(shape="(10**9,)"), "its header is not that of an array"),
        (declared(shape="(1000000000000, 1000000000000)"), "is truncated"),
        (declared(shape="(4611686018427387904, 4, 0)"), "too large a shape"),
        (declared(descr="'<U0'", shape="(4611686018427387904,)"), "without a character"),
        (declared(), "is truncated: [2] of float64 need 16 bytes, 0 follow"),
        (declared(descr="'|V8'") + bytes(16), "only numbers, texts and dates"),
        (declared(descr="'i4,i4'") + bytes(16), "only numbers, texts and dates"),
        (declared(descr="[('a', '<f8')]") + bytes(16), "only numbers, texts and dates"),
        (declared(descr="'<f7'") + bytes(16), "is not a dtype"),
        (declared(descr="'<U1'") + b"\xff" * 8, "characters that do not exist"),
        (declared(descr="'O'", shape="(2,)") + pickle.dumps([1, 2]), "not the array it declares"),
        (declared(descr="'O'", shape="()"), "is truncated"),
    ],
)
def test_what_is_not_an_array_says_why(data, reason, tmp_path):
    path = tmp_path / "odd.npy"
    path.write_bytes(data)
    with refused(path, re.escape(reason), memory=2**23):
        read_npy(path)


def test_bool_bytes_other_than_0_and_1_become_true():
    found = read_bytes(declared(descr="'|b1'", shape="(4,)") + b"\x00\x01\x02\xff")
    assert found.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_folders_and_pipes_are_not_opened(tmp_path):
    with pytest.raises(RecordingError, match="is a folder"):
        read_npy(tmp_path)
    with pytest.raises(RecordingError, match=r"none\.npy: cannot be read: No such file"):
        read_npy(tmp_path / "none.npy")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npy")
        with pytest.raises(RecordingError, match="not a regular file"):
            read_npy(tmp_path / "pipe.npy")


def test_a_file_that_shrinks_while_it_is_read_is_an_error():
    file = io.BytesIO()
    np.save(file, np.arange(100))
    data = file.getvalue()
    with pytest.raises(RecordingError, match="392 of 800 bytes"):
        read_npy_stream(io.BytesIO(data[:-408]), len(data))


def test_errors_name_the_file_and_keep_their_kind(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(UnsafeFileError, match=r"a\.npy: masks: wrong$"), naming_file(path):
        raise UnsafeFileError("masks", "wrong")
    with pytest.raises(RecordingError, match=r"a\.npy: needs more memory"), naming_file(path):
        raise MemoryError
    with pytest.raises(RecordingError, match=r"a\.npy: cannot be read: I/O"), naming_file(path):
        raise OSError(5, "I/O error")
    with pytest.raises(RecordingError) as raised, naming_file(path):
        raise RecordingError("image", "x")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == str(raised.value)


def test_dicts_of_one_object_are_read(tmp_path):
    path = tmp_path / "a.npy"
    for array in (np.array({"a": 1}, object), np.array([{"a": 1}], object)):
        np.save(path, array, allow_pickle=True)
        assert read_pickled_dict(path) == {"a": 1}


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5)), r"an array \[4, 5\] of float64 instead of one dict"),
        (np.array([{}, {}], object), r"an array \[2\] of object"),
        (np.array([[1]], object), "a value of type int instead of a dict"),
        (np.array({1: 2}, object), "the key 1, which is not a text"),
    ],
)
def test_other_content_is_said(array, reason, tmp_path):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(RecordingError, match=reason):
        read_pickled_dict(tmp_path / "a.npy")
