"""Verbs that several processes run together: their files are those of one process."""

import shutil

import numpy as np
import tifffile

from fluxseg.cli.app import main
from tests.conftest import TINY, as_arguments, with_data
from tests.together import finish_together, run_together, start_together


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_first_process_prepares_and_its_error_ends_all(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.npy").write_bytes(b"no recording")
    config = with_data(TINY, source=str(tmp_path / "bad"))
    command = ["fluxseg.main", "--workdir", tmp_path / "run", *as_arguments(config)]
    results = finish_together(start_together(2, *command), 60)
    assert [code for code, _ in results] == [2, 2], results
    for _, text in results:
        assert "no recording is usable" in text
        assert "Traceback" not in text
    assert "process 0 of 2" in results[1][1]


def test_predict(finished, tmp_path):
    trained = finished[0]
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        shape = (40 + number, 50)
        pixels = rng.integers(0, 4000, shape, np.uint16)
        tifffile.imwrite(images / f"{number}.tif", pixels, photometric="minisblack")
    (images / "broken.tif").write_bytes(b"no image")
    options = ["--format", "probability", "labels", "npz", "cellpose", "--model"]
    options += [str(trained / "model.safetensors")]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["predict", str(images), *options, "--output", str(alone)]) == 1
    processes = start_together(2, "fluxseg", "predict", images, *options, "--output", together)
    results = finish_together(processes)
    assert [code for code, _ in results] == [1, 1], results
    assert "5 of 6 images predicted" in results[0][1]
    assert sum("failed: " in text for _, text in results) == 1
    assert contents(together) == contents(alone)
    # The run itself instead of its model file.
    again = tmp_path / "again"
    bare = tmp_path / "bare"
    shutil.copytree(trained, bare)
    (bare / "model.safetensors").unlink()
    run_together(2, "fluxseg", "predict", images / "0.tif", "--model", bare, "--output", again)
    found = tifffile.imread(again / "0_probability.tif")
    np.testing.assert_allclose(found, tifffile.imread(alone / "0_probability.tif"), atol=1e-5)
