"""Arrays from the bytes of files: their content, and shapes and dtypes that files declare."""

import io
import pickle

import numpy as np
import pytest

from fluxseg.errors import RecordingError
from fluxseg.formats import pickled
from fluxseg.formats.pickled import load_pickle
from fluxseg.io.arrays import byte_count, check_shape, create_array, create_dtype

LARGE = pickled.LARGE


def load(value, protocol=4):
    data = pickle.dumps(value, protocol)
    return load_pickle(io.BytesIO(data), len(data))


def test_arrays_of_one_file_never_share_memory():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, LARGE + n, np.uint8) for n in range(4)]
    for protocol in (3, 4, 5):
        found = load({"many": arrays, "float": arrays[0][:LARGE].view("f8")}, protocol)
        for array, expected in zip(found["many"], arrays, strict=True):
            np.testing.assert_array_equal(array, expected)
        assert found["float"].tobytes() == arrays[0][:LARGE].tobytes()


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
