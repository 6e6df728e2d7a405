"""The benchmarks of the data path, each once on the smallest scale."""

import numpy as np
import pytest

from experiments.benchmarks import prepare
from experiments.benchmarks.measure import Variant, run_interleaved
from fluxseg.data.checks import check_source
from fluxseg.formats.sources import FolderSource


@pytest.fixture(scope="module", params=["float32"])
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / request.param
    prepare.write_files(folder, request.param, 2, size=128, rois=30)
    return folder


def test_files_are_usable_and_have_masks_of_the_type(files):
    report = check_source(FolderSource(str(files)))
    assert [row.n_rois for row in report.rows] == [30, 30]
    assert report.counts["unusable"] == 0
    for path in files.glob("*.npy"):
        assert np.load(path, allow_pickle=True).item()["roi_mask_array"].dtype == files.name


def test_every_job_is_timed_in_a_process_of_its_own(files):
    this = ("-m", "experiments.benchmarks.prepare", "--folder", str(files))
    variants = [Variant(name, (*this, "--worker", job)) for name, job in prepare.WORKERS.items()]
    results = run_interleaved(variants, 1)
    assert set(results) == set(prepare.WORKERS)
    for (figures,) in results.values():
        assert 0 < figures["seconds"] < 30
        assert 0 < figures["cpu"] < 30
        assert figures["peak_mb"] > 10
