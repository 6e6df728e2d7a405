"""The uninterrupted run that all others are compared with."""

import signal

import pytest

from tests.faults.jobs import STARTED, Reference, run_reference


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell gives that to what it starts in the background, and all jobs would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test():
    yield
    while STARTED:
        job = STARTED.pop()
        job.stop(signal.SIGKILL)
        job.finish()


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    return run_reference(tmp_path_factory.mktemp("reference") / "run")
