"""Memory that is used again from file to file, and shapes and dtypes that files declare."""

import io
import pickle

import numpy as np
import pytest

from fluxseg.errors import RecordingError
from fluxseg.formats import pickled
from fluxseg.formats.pickled import load_pickle
from fluxseg.io.arrays import (
    ReadMemory,
    allocate_bytes,
    byte_count,
    check_shape,
    create_array,
    create_dtype,
    reusing_memory,
)

LARGE = pickled.LARGE


def load(value, protocol=4):
    data = pickle.dumps(value, protocol)
    return load_pickle(io.BytesIO(data), len(data))


def test_arrays_of_one_file_never_share_memory():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, LARGE + n, np.uint8) for n in range(4)]
    with reusing_memory() as memory:
        for protocol in (3, 4, 5, 4):
            found = load({"many": arrays, "float": arrays[0][:LARGE].view("f8")}, protocol)
            for array, expected in zip(found["many"], arrays, strict=True):
                np.testing.assert_array_equal(array, expected)
            assert found["float"].tobytes() == arrays[0][:LARGE].tobytes()
            memory.release()


def test_memory_is_used_again_after_release_only():
    first = np.full(LARGE, 1, np.uint8)
    with reusing_memory() as memory:
        kept = load(first)
        other = load(np.full(LARGE, 2, np.uint8))
        assert not np.shares_memory(kept, other)
        assert (kept == 1).all()
        memory.release()
        # A little larger than the one before it still fits.
        again = load(np.full(LARGE + LARGE // 10, 3, np.uint8))
        assert np.shares_memory(again, kept) or np.shares_memory(again, other)
        assert (again == 3).all()
    outside = load(first)
    assert not np.shares_memory(outside, again)


def test_no_more_is_kept_than_one_file_needed():
    memory = ReadMemory()
    big, small = memory.allocate(4000), memory.allocate(100)
    memory.release()
    # The smallest block that is large enough, so that the large one stays free.
    assert np.shares_memory(memory.allocate(90), small)
    assert np.shares_memory(memory.allocate(3000), big)
    memory.release()
    assert np.shares_memory(memory.allocate(90), small)
    memory.release()
    assert not np.shares_memory(memory.allocate(3000), big)


def test_an_error_leaves_nothing_behind():
    def fail():
        with reusing_memory() as memory:
            memory.allocate(10)
            raise RuntimeError("anything")

    with pytest.raises(RuntimeError, match="anything"):
        fail()
    first, second = allocate_bytes(100), allocate_bytes(100)
    assert not np.shares_memory(first, second)


def test_content_is_read_only_as_bytes_are():
    for array in (np.zeros(LARGE, np.uint8), np.zeros(16, np.uint8)):
        assert not load(array).flags.writeable


def test_declared_sizes_are_exact_however_large():
    assert byte_count((2**40, 2**40), np.dtype("f8")) == 2**83
    assert check_shape((0, 3)) == (0, 3)
    for shape in ([2, 3], (-1,), (2**63,), (True, 2), (1,) * 33, None):
        with pytest.raises(RecordingError, match="shape"):
            check_shape(shape)


def test_arrays_need_exactly_their_bytes():
    array = create_array(bytes(24), (2, 3), create_dtype("<i4"), fortran=True)
    assert array.shape == (2, 3)
    assert array.flags.f_contiguous
    for data in (bytes(23), bytes(25), None, [0] * 24):
        with pytest.raises(RecordingError, match="damaged"):
            create_array(data, (2, 3), np.dtype("<i4"))
