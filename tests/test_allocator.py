"""Freed memory is kept by processes that compute, unless their user has chosen otherwise."""

import os
import sys

import pytest

from fluxseg.allocator import is_chosen
from tests.commands import run_python

on_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or "CS_GNU_LIBC_VERSION" not in os.confstr_names
    or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="the settings are those of glibc",
)
SCRIPT = """
import resource, sys
import numpy as np
from fluxseg.allocator import tune_allocator

tuned = tune_allocator()
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(tuned, faults)
"""


def environment(**changes):
    """The environment of this process without settings of the allocator."""
    left_out = ("GLIBC_TUNABLES", "FLUXSEG_ALLOCATOR", "LD_PRELOAD")
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in left_out and not name.startswith("MALLOC_")
    }
    return plain | changes


def run_script(**changes):
    tuned, faults = run_python("-c", SCRIPT, env=environment(**changes)).split()
    return tuned == "True", int(faults)


@pytest.mark.parametrize(
    "chosen",
    [
        {"FLUXSEG_ALLOCATOR": "default"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
        {"MALLOC_ARENA_MAX": "2"},
        {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"},
    ],
)
def test_what_the_user_has_chosen_is_left_alone(chosen):
    assert is_chosen(chosen)
    assert not is_chosen({"GLIBC_TUNABLES": "glibc.pthread.rseq=0", "PATH": "/bin"})


@on_glibc
def test_freed_memory_is_used_again():
    tuned, faults = run_script()
    plainly, anew = run_script(FLUXSEG_ALLOCATOR="default")
    assert tuned
    assert not plainly
    # Ten arrays of 64 MB: in pages of 4 kB, unless the system hands out larger ones.
    assert anew > 200
    assert faults < 0.1 * anew
