"""Reading pickles as data: all plain values come back, nothing else does."""

import contextlib
import datetime
import io
import pickle
import random
import re
import time
import zoneinfo
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.errors import RecordingError, UnsafeFileError
from fluxseg.formats import pickled
from fluxseg.formats.metadata import clean_metadata
from fluxseg.formats.npy import read_npy, read_npy_stream
from fluxseg.formats.pickled import load_pickle
from tests.formats import malicious
from tests.formats.refusal import refused
from tests.fuzz.mutations import mutate_bytes

PROTOCOLS = st.sampled_from((2, 3, 4, 5))
ZONES = st.sampled_from(
    [None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=-7), "PDT")]
)
KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.binary(),
    st.floats(allow_nan=False), st.dates(), st.tuples(st.integers(), st.text()),
)  # fmt: skip
LEAVES = st.one_of(
    KEYS,
    st.integers(-(2**600), 2**600),
    st.binary(min_size=250, max_size=300),
    st.text(min_size=250, max_size=300),
    st.floats(),
    st.complex_numbers(),
    st.binary().map(bytearray),
    st.datetimes(timezones=ZONES),
    st.times(timezones=ZONES),
    st.timedeltas(),
    st.frozensets(KEYS, max_size=5),
    st.sets(KEYS, max_size=5),
)
DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=5),
    hnp.byte_string_dtypes(min_len=1, max_len=5),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
)
ARRAYS = hnp.arrays(
    DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4), fill=st.nothing()
).flatmap(lambda a: st.sampled_from([a, np.asfortranarray(a), a.T]))
VALUES = st.recursive(
    st.one_of(LEAVES, ARRAYS, hnp.from_dtype(np.dtype("f4")), hnp.from_dtype(np.dtype("U3"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


def load(data):
    return load_pickle(io.BytesIO(data), len(data))


def same(a, b):
    """Equal in type, dtype and bits; a class of numpy scalars may not be lost either."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        # numpy turns the byte order into the machine's, which changes no value.
        a, b = (np.asarray(x, x.dtype.newbyteorder("=")) for x in (a, b))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, datetime.datetime | datetime.time):
        return a == b and a.isoformat() == b.isoformat() and a.fold == b.fold
    return repr(a) == repr(b) if isinstance(a, float | complex) else a == b


@settings(max_examples=80, deadline=None)
@given(value=VALUES, protocol=PROTOCOLS, python=st.booleans())
def test_plain_values_come_back_exactly(value, protocol, python):
    if python:
        # The pickler that is written in Python chooses other instructions.
        file = io.BytesIO()
        try:
            pickle._Pickler(file, protocol).dump(value)
            pickle.loads(file.getvalue())
        except (AssertionError, TypeError):
            # It takes several empty buffers for one object, and writes what nobody can read.
            assume(protocol < 5)
            raise
        data = file.getvalue()
    else:
        data = pickle.dumps(value, protocol)
    # What pickle itself would read, since old protocols lose the fold of a time.
    expected = pickle.loads(data)
    assert same(load(data), expected)
    assert protocol < 4 or same(expected, value)


@pytest.fixture
def nothing_is_small(monkeypatch):
    """Read the content of nearly every array the way that of large ones is read."""
    # Python has one object only for each text of one byte or none: a pickle may fetch the content
    # of an array from its memo again, as the key of a dict.
    monkeypatch.setattr(pickled, "LARGE", 2)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=VALUES, protocol=PROTOCOLS)
def test_large_content_comes_back_exactly(nothing_is_small, value, protocol):
    data = pickle.dumps(value, protocol)
    assert same(load(data), pickle.loads(data))


def test_bytes_that_only_seem_to_be_of_an_array_stay_bytes(nothing_is_small):
    dtype_and_order = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R\x89"
    # All three are dropped, and the bytes are fetched again from the memo.
    data = b"\x80\x03" + dtype_and_order + b"B\x03\x00\x00\x00abcq\x05000h\x05."
    assert same(load(data), b"abc")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_hypothesis_does_not_draw(protocol):
    zone = zoneinfo.ZoneInfo("UTC")
    shared = [1, 2]
    values = [
        {"t": datetime.datetime(2020, 1, 1, 2, 3, 4, 5, tzinfo=zone)},
        [np.float64(1.5), np.int64(-3), np.bool_(True), np.str_("äé"), np.bytes_(b"ab")],
        [np.datetime64("2020-01-01T00:00:00.000000001"), np.timedelta64(25, "m")],
        [np.datetime64("NaT"), np.timedelta64(3)],
        [np.float16(0.1), np.complex64(1 + 2j)],
        np.array([{"a": np.arange(3)}, None, [1, "b"]], object),
        {"nested": np.array([[np.zeros(2), "x"], [3, None]], object)},
        np.zeros((0, 4, 5), "f4"),
        [np.array("abc"), np.array(b"", "S1"), np.zeros(3, "U1")],
        {"roi": {3: "a", -1: b"b", (1, "c"): None}, np.int64(7): 1},
        {"shared": [shared, shared]},
        frozenset({1, "a"}),
        [bytearray(), bytearray(b"x" * 70_000), b"", b"x" * 70_000, "x" * 70_000],
    ]  # fmt: skip
    for value in values:
        found = load(pickle.dumps(value, protocol))
        if isinstance(value, np.ndarray | dict) and "object" in repr(value):
            assert repr(found) == repr(value)
        else:
            assert same(found, value), value
    found = load(pickle.dumps(values[10], protocol))["shared"]
    assert found[0] is found[1]
    third = np.longdouble(1) / 3
    assert load(pickle.dumps(third, protocol)) == third
    key = list(load(pickle.dumps(values[9], protocol)))[-1]
    assert (key, type(key)) == (7, int)


def test_missing_time_zones_are_named():
    with pytest.raises(RecordingError, match="Mars/Olympus: install tzdata"):
        load(malicious.call("zoneinfo.ZoneInfo._unpickle", malicious.text("Mars/Olympus")) + b".")


def test_nothing_a_file_asks_for_is_run(tmp_path):
    canary = tmp_path / "canary"
    attempts = malicious.unsafe(str(canary))
    assert len(attempts) > 400
    for wanted, data in attempts:
        content = malicious.npy(data)
        with pytest.raises(UnsafeFileError) as raised:
            read_npy_stream(io.BytesIO(content), len(content))
        assert wanted in str(raised.value)
        assert "nothing was executed" in str(raised.value)
        assert not canary.exists(), wanted


def test_attempts_would_have_worked_without_this_reader(tmp_path):
    # Otherwise the test above could pass because the attempts are not attempts at all.
    canary = tmp_path / "canary"
    worked = 0
    for wanted, data in malicious.unsafe(str(canary)):
        if wanted in ("os.system", "builtins.eval", "eval", "exec", "system"):
            with contextlib.suppress(NameError, SyntaxError, KeyError):
                pickle.loads(data)
            worked += canary.exists()
            canary.unlink(missing_ok=True)
    assert worked >= 12


@pytest.mark.parametrize("name", malicious.greedy())
def test_little_bytes_cannot_take_much_memory_or_time(name, tmp_path):
    path = tmp_path / "greedy.npy"
    path.write_bytes(malicious.npy(malicious.greedy()[name] + b"."))
    began = time.process_time()
    with refused(path, memory=100 * path.stat().st_size + 2**20) as raised:
        read_npy(path)
    assert len(str(raised.value)) < 500
    assert time.process_time() - began < 30


def test_limits_name_themselves(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_OPERATIONS", 50)
    with pytest.raises(RecordingError, match="more than 50 pickle instructions"):
        load(pickle.dumps(list(range(100))))
    monkeypatch.undo()
    nested: list = []
    for _ in range(pickled.MAX_DEPTH):
        nested = [nested]
    assert load(pickle.dumps(nested)) == nested
    with pytest.raises(RecordingError, match="deeper than 64"):
        load(pickle.dumps([nested]))


VALID = {
    "id": 511510650,
    "metadata": {"cre_line": "Cux2", "at": datetime.datetime(2016, 2, 4, tzinfo=datetime.UTC)},
    "max_projection": np.arange(48, dtype=np.uint16).reshape(6, 8),
    "roi_ids": [1, 2],
    "roi_mask_array": np.ones((2, 6, 8), bool),
    "objects": np.array(["a", None, 3.5], object),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_damage_is_an_error_or_harmless(protocol):
    data = malicious.npy(pickle.dumps(np.array(VALID, object), protocol))
    rng = random.Random(protocol)  # noqa: S311
    read = refused_ones = 0
    for _ in range(600):
        damaged = mutate_bytes(data, rng)
        try:
            clean_metadata({"found": read_npy_stream(io.BytesIO(damaged), len(damaged))})
            read += 1
        except RecordingError:
            refused_ones += 1
    assert min(read, refused_ones) > 20


@pytest.mark.parametrize("protocol", [2, 5])
def test_every_truncation_is_an_error(protocol):
    data = malicious.npy(pickle.dumps(np.array(VALID, object), protocol))
    assert read_npy_stream(io.BytesIO(data), len(data)).item()["id"] == VALID["id"]
    for length in range(len(data)):
        with pytest.raises(RecordingError):
            read_npy_stream(io.BytesIO(data[:length]), length)


def rename_numpy(data):
    """The same pickle as numpy 1 writes it: `numpy.core` instead of `numpy._core`."""
    data = data.replace(b"cnumpy._core.", b"cnumpy.core.")

    def shorter(match):
        name = match[1].replace(b"numpy._core.", b"numpy.core.")
        return b"\x8c" + bytes([len(name)]) + name

    pattern = rb"\x8c[\x13-\x18](numpy\._core\.(?:multiarray|numeric))"
    data = re.sub(pattern, lambda m: shorter(m), data)
    # Frames are shorter by as much; without any, the content is the same.
    return re.sub(rb"\x95.{7}\x00", b"", data, flags=re.DOTALL)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_1_files_are_known(protocol):
    data = pickle.dumps(VALID, protocol)
    older = rename_numpy(data)
    assert b"numpy.core." in older
    assert b"_core" not in older
    found = load(older)
    assert found.keys() == VALID.keys()
    assert same(found["max_projection"], VALID["max_projection"])
    assert same(found["roi_mask_array"], VALID["roi_mask_array"])


def test_bool_bytes_other_than_0_and_1_become_true():
    data = pickle.dumps(np.array([True, False, True]), 4).replace(b"\x01\x00\x01", b"\x02\x00\xff")
    found = load(data)
    assert found.view(np.uint8).tolist() == [1, 0, 1]


def test_a_shape_larger_than_its_bytes_is_not_read():
    data = pickle.dumps(np.zeros((2, 3), "f8"), 2)
    wrong = data.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86")
    assert wrong != data
    with pytest.raises(RecordingError, match=r"\[2, 9\] of float64 has 48 of 144 bytes"):
        load(wrong)


def test_a_dtype_changed_after_its_array_does_not_change_the_array():
    array = np.array(["ab", "cd"])
    data = pickle.dumps([array, array.dtype], 2)
    state = b"(K\x03X\x01\x00\x00\x00<NNNM\xff\x7fK\x04K\x08tb"
    tail = data.rindex(b"e.")
    found, _ = load(data[:tail] + state + b"0N" + data[tail:])
    assert same(found, array)


def test_paths_become_texts():
    from pathlib import PurePosixPath, PureWindowsPath

    for path in (PurePosixPath("/data/mouse/x"), PurePosixPath("a/b"), PureWindowsPath("a/b")):
        assert load(pickle.dumps({"path": path}))["path"].replace("\\", "/") == path.as_posix()
