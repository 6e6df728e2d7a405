"""How a file that cannot be used is refused."""

import contextlib
import tracemalloc

import pytest

from fluxseg.errors import RecordingError


@contextlib.contextmanager
def refused(path, reason=None, memory=None):
    """Expect an error that names the file first and matches `reason`; bound what it may take."""
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=reason) as raised:
            yield raised
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{path}: ")
    assert memory is None or peak < memory
