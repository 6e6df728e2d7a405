"""Verbs that several processes run together: their files are those of one process."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import tifffile

from fluxseg.cli.app import main
from fluxseg.config import SimulatorConfig
from fluxseg.data.cache import read_index
from fluxseg.data.prepare import prepare_cache
from fluxseg.formats.allen import write_allen_npy
from fluxseg.io.files import read_json
from fluxseg.main import main as train
from fluxseg.simulation.sessions import SimulatedSource
from tests.conftest import TINY, as_arguments, with_train
from tests.data.test_cache import CONFIG, Cells
from tests.together import finish_together, run_together, start_together


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings for three shards, one of them unusable."""
    folder = tmp_path_factory.mktemp("recordings")
    source = SimulatedSource(SimulatorConfig(containers=9, sessions=2, size=64))
    for key in source.keys():  # noqa: SIM118
        write_allen_npy(folder / f"{key}.npy", source.read(key))
    (folder / "broken.npy").write_bytes(b"no recording")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = with_train(TINY, epochs=1)
    assert train(["--workdir", str(workdir), *as_arguments(config)]) == 0
    return workdir


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def quiet(text):
    """What a process said, but for its network library."""
    return [line for line in text.splitlines() if line and not line.startswith("[Gloo]")]


def test_prepare_and_repair(folder, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    options = ["--data.tile", "32"]
    assert main(["prepare", str(folder), "--output", str(alone), *options]) == 0
    command = ["fluxseg", "prepare", folder, "--output", together]
    said = run_together(2, *command, *options)
    assert "18 recordings prepared" in said[0]
    assert quiet(said[1]) == []
    assert contents(together) == contents(alone)
    index = read_index(together)
    assert len(index.shards) == 3
    assert [key for key, _ in index.left_out] == ["broken.npy"]
    damaged, missing, whole = sorted(index.shards)
    data = bytearray((together / damaged).read_bytes())
    data[len(data) // 100] ^= 1
    (together / damaged).write_bytes(data)
    (together / missing).unlink()
    before = (together / whole).stat().st_mtime_ns
    # The size of the crops is that of the index.
    said = run_together(2, *command, "--repair")
    assert "2 of 3 shards were damaged" in said[0]
    assert any(damaged in text for text in said)
    assert any(missing in text for text in said)
    assert contents(together) == contents(alone)
    assert (together / whole).stat().st_mtime_ns == before


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check(folder, capsys, options):
    assert main(["check", str(folder), *options]) == 1
    alone = capsys.readouterr().out
    assert "broken.npy" in alone
    results = finish_together(start_together(2, "fluxseg", "check", folder, *options))
    assert [code for code, _ in results] == [1, 1], results
    assert quiet(results[0][1]) == quiet(alone)
    assert quiet(results[1][1]) == []


def test_an_error_ends_all_processes(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.npy").write_bytes(b"no recording")
    output = tmp_path / "cache"
    processes = start_together(2, "fluxseg", "prepare", tmp_path / "bad", "--output", output)
    results = finish_together(processes, 60)
    assert [code for code, _ in results] == [2, 2], results
    for _, text in results:
        assert "no recording is usable" in text
        assert "Traceback" not in text


LIMITED = """
import resource
import sys
from fluxseg.cli.app import launch

number = int(sys.argv[sys.argv.index("--processes.index") + 1])
if number == int(sys.argv.pop(1)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
sys.exit(launch())
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize("number", [0, 1])
def test_a_full_disk_of_one_process_ends_them_all(folder, tmp_path, monkeypatch, number):
    (tmp_path / "limited.py").write_text(LIMITED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    output = tmp_path / "cache"
    command = ["limited", number, "prepare", folder, "--output", output, "--data.workers", 1]
    results = finish_together(start_together(2, *command), 60)
    assert [code for code, _ in results] == [2, 2], results
    assert "cannot be written: File too large" in results[number][1]
    assert f"process {number} of 2" in results[1 - number][1]
    assert not any("Traceback" in text for _, text in results)
    assert read_index(output) is None
    # What the other has made is used again.
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("crops-*")}
    assert finished
    assert main(["prepare", str(folder), "--output", str(output), "--data.workers", "1"]) == 0
    for name, changed in finished.items():
        assert (output / name).stat().st_mtime_ns == changed


SLOW = """
import sys
import tyro
from fluxseg.joined import joined
from fluxseg.data.prepare import prepare_cache
from fluxseg.processes import Processes, leave
from fluxseg.console import run_guarded
from tests.data.test_cache import CONFIG, Cells

def main(output: str, processes: Processes):
    with joined(processes):
        prepare_cache(Cells(160, slow=0.05), output, CONFIG)

if __name__ == "__main__":
    code = run_guarded(lambda: tyro.cli(main))
    leave(code)
    sys.exit(code)
"""


def test_a_process_that_is_killed_while_preparing_stops_the_other(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    output = tmp_path / "cache"
    processes = start_together(2, "slow", "--output", output, timeout=5)
    deadline = time.monotonic() + 60
    while len(list(output.glob("crops-*.json"))) < 4:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].kill()
    results = finish_together(processes, 60)
    assert results[0][0] not in (0, 1)
    assert "process 1 of 2 has failed" in results[0][1], results[0][1]
    assert read_index(output) is None
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("crops-*")}
    index = prepare_cache(Cells(160), output, CONFIG)
    assert len(index.entries) == 160
    for name, changed in finished.items():
        assert (output / name).stat().st_mtime_ns == changed


def test_predict(trained, folder, tmp_path):
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        shape = (3, 40, 50) if number == 3 else (40 + number, 50)
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
    assert "7 of 8 images predicted" in results[0][1]
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


@pytest.mark.parametrize("other", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_evaluate(trained, folder, tmp_path, other):
    scores = []
    for name in ("alone", "together"):
        workdir = tmp_path / name
        shutil.copytree(trained, workdir)
        (workdir / "scores.json").unlink()
        data = ["--data", str(folder), "--output", str(workdir / "other")] if other else []
        command = ["evaluate", "--workdir", str(workdir), *data]
        if name == "alone":
            assert main(command) == 0
        else:
            said = run_together(2, "fluxseg", *command)
            assert "Report: " in said[0]
            assert quiet(said[1]) == []
        result = workdir / "other" if other else workdir
        assert (result / "report.html").exists()
        scores.append(read_json(result / "scores.json"))
        examples = json.loads((result / "examples" / "examples.json").read_text())
        scores[-1]["examples"] = examples
    assert scores[0] == scores[1]
    split = scores[1]["splits"]["external" if other else "test"]
    assert split["objects"]["n_recordings"] == split["n_recordings"] > 0
    pixels = np.sum(split["confusion"])
    assert pixels == split["n_recordings"] * (64 if other else TINY.simulator.size) ** 2
