"""What preparing survives: kills, full and forbidden disks, damage, odd recordings."""

import dataclasses
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from fluxseg.cli.app import main as prepare
from fluxseg.config import DataConfig
from fluxseg.data.cache import INDEX_NAME, find_damage, read_index
from fluxseg.data.pipeline import CropSource
from fluxseg.data.prepare import prepare_cache, repair_cache
from fluxseg.errors import WorkdirError
from fluxseg.formats.allen import write_allen_npy
from fluxseg.main import main as train
from tests.conftest import REPOSITORY, TINY, as_arguments, with_data, with_train
from tests.data.test_cache import CONFIG, Cells
from tests.faults.disks import bound_by_permissions

SCRIPT = """
import resource
from tests.data.test_cache import *
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    config = dataclasses.replace(CONFIG, workers={workers})
    prepare_cache(Cells(40, slow={slow}), {folder!r}, config)
"""


def start(folder, tmp_path, *, slow=0.02, workers=2, limit=-1, wrapper=(), **options):
    # A file of its own: workers that are spawned import it again.
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(folder=str(folder), slow=slow, workers=workers, limit=limit), encoding="utf-8"
    )
    return subprocess.Popen(
        [*wrapper, sys.executable, str(script)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        **options,
    )


def fail(folder, tmp_path, **options):
    """Prepare in a process that must fail; return the last line of what it said."""
    options = {"stderr": subprocess.PIPE, "text": True, **options}
    process = start(folder, tmp_path, slow=0, **options)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    assert "fluxseg.errors.WorkdirError: " in said, said
    return said.splitlines()[-1]


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("crops-*.json")}


@functools.cache
def contents_of(count):
    """The whole cache of an undisturbed call: name -> bytes."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_cache(Cells(count), folder, CONFIG)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_a_random_moment_it_goes_on_to_the_same_end(tmp_path, seed):
    folder = tmp_path / "cache"
    rng = np.random.default_rng(seed)
    for shards in sorted(rng.integers(0, 5, 2)):
        process = start(folder, tmp_path, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while len(times(folder)) < shards and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
        finally:
            process.kill()
            process.wait()
        assert process.returncode in (-signal.SIGKILL, 0)
        for name in times(folder):
            assert (folder / name).with_suffix(".array_record").exists()
    finished = times(folder)
    index = prepare_cache(Cells(40), folder, CONFIG)
    assert read_index(folder) == index
    for name, changed in finished.items():
        assert times(folder)[name] == changed
    time.sleep(0.1)
    assert contents(folder) == contents_of(40)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="processes are listed in /proc")
def test_its_workers_end_with_a_process_that_is_killed(tmp_path):
    folder = tmp_path / "cache"
    process = start(folder, tmp_path, slow=0.3, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        # Two workers, and the process of multiprocessing that tidies up after them.
        while len(session_of(process.pid)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while left := session_of(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def session_of(session):
    """Processes of a session that still run."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(name))
    return found


def test_a_full_disk_is_said_and_finished_shards_are_kept(tmp_path):
    folder = tmp_path / "cache"
    prepare_cache(Cells(8), folder, CONFIG)
    (folder / INDEX_NAME).unlink()
    finished = times(folder)
    said = fail(folder, tmp_path, limit=30_000)
    assert "cannot be written: File too large; finished shards are kept" in said
    assert str(folder / "crops-") in said
    assert times(folder).items() >= finished.items()
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    prepare_cache(Cells(40), folder, CONFIG)
    assert times(folder).items() >= finished.items()
    assert contents(folder) == contents_of(40)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    wrapper = bound_by_permissions()
    folder = tmp_path / "cache"
    prepare_cache(Cells(8), folder, CONFIG)
    before = contents(folder)
    folder.chmod(0o555)
    try:
        said = fail(folder, tmp_path, wrapper=wrapper)
    finally:
        folder.chmod(0o755)
    assert "cannot be written: Permission denied" in said
    assert contents(folder) == before
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match="cannot be made"):
        prepare_cache(Cells(8), tmp_path / "file" / "cache", CONFIG)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "missing", "truncated", "exchanged", "no sidecar"])
def test_only_what_is_damaged_is_made_again(tmp_path, how, caplog):
    prepare_cache(Cells(40), tmp_path, CONFIG)
    index = read_index(tmp_path)
    name, other = sorted(index.shards)[:2]
    path = tmp_path / name
    match how:
        case "flipped":
            flip(path, path.stat().st_size // 100)
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1000])
        case "exchanged":
            path.write_bytes(b"\0" * path.stat().st_size)
        case "no sidecar":
            flip(path.with_suffix(".json"), 30)
    if how in ("missing", "truncated"):
        with pytest.raises(WorkdirError, match=f"{name}.* (is missing|bytes instead of)"):
            read_index(tmp_path)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.array_record") if p.name != name}
    again, remade = repair_cache(Cells(40), tmp_path, CONFIG)
    assert remade == (() if how == "no sidecar" else (name,))
    assert path.name in caplog.text or path.with_suffix(".json").name in caplog.text
    assert again == index
    assert contents(tmp_path) == contents_of(40)
    assert all(p.stat().st_mtime_ns == changed for p, changed in kept.items())
    assert find_damage(again, other) == ""
    assert repair_cache(Cells(40), tmp_path, CONFIG) == (index, ())


def test_a_run_names_a_damaged_shard_and_the_command_that_mends_it(tmp_path, capsys):
    files, cache = tmp_path / "my files", tmp_path / "cache"
    for key in Cells(12).keys():  # noqa: SIM118
        write_allen_npy(files / f"{key}.npy", Cells().read(key))
    config = with_data(TINY, source=str(files), cache=str(cache), tile=32)
    arguments = ["--workdir", str(tmp_path / "run"), *as_arguments(with_train(config, epochs=1))]
    assert prepare(["prepare", str(files), "--output", str(cache), "--data.tile", "32"]) == 0
    whole = contents(cache)
    path = max(cache.glob("*.array_record"))
    flip(path, path.stat().st_size // 100)
    assert train(arguments) == 2
    said = capsys.readouterr().err
    assert f"error: {path}: is damaged" in said
    command = shlex.split(re.search("`(fluxseg .*?)`", said)[1])
    assert prepare(command[1:]) == 0
    assert "1 of 2 shards were damaged" in capsys.readouterr().out
    assert contents(cache) == whole
    assert train(arguments) == 0


def test_repair_takes_the_settings_of_the_crops_and_refuses_other_recordings(tmp_path):
    index = prepare_cache(Cells(10), tmp_path, CONFIG)
    path = tmp_path / index.entries[-1].shard
    path.unlink()
    assert repair_cache(Cells(10), tmp_path, DataConfig(workers=1)) == (index, (path.name,))
    path.unlink()
    with pytest.raises(WorkdirError, match=r"cannot be repaired.*10 changed"):
        repair_cache(Cells(10, version=1), tmp_path, CONFIG)
    (tmp_path / INDEX_NAME).unlink()
    assert repair_cache(Cells(10), tmp_path, CONFIG) == (index, ())


def test_any_flipped_byte_of_a_shard_is_noticed_or_does_no_harm(tmp_path):
    index = prepare_cache(Cells(2), tmp_path, CONFIG)
    (name,) = index.shards
    path = tmp_path / name
    whole = path.read_bytes()
    crops = [(e.key, n) for e in index.entries for n in range(len(e.valid_pixels))]
    expected = [CropSource(index, crops)[n] for n in range(len(crops))]
    rng = np.random.default_rng(0)
    # Both ends hold the headers; most of the rest is filled up with zeros.
    ends = [*range(0, 200, 3), *range(len(whole) - 200, len(whole), 7)]
    noticed = 0
    for place in [*ends, *rng.integers(0, 40_000, 150)]:
        flip(path, place)
        error = ""
        try:
            source = CropSource(index, crops)
            found = [source[n] for n in range(len(crops))]
        except WorkdirError as raised:
            error = str(raised)
        if error:
            assert str(path) in error
            assert "--repair" in error
            noticed += 1
        else:
            for crop, other in zip(found, expected, strict=True):
                assert all(np.array_equal(crop[key], other[key]) for key in crop)
        path.write_bytes(whole)
    assert noticed > 50


def test_a_changed_index_or_sidecar_is_noticed(tmp_path):
    index = prepare_cache(Cells(10), tmp_path, CONFIG)
    path = tmp_path / INDEX_NAME
    text = path.read_text()
    values = json.loads(text)
    values["entries"][0]["first"] += 1
    path.write_text(json.dumps(values))
    with pytest.raises(WorkdirError, match=r"index\.json: is damaged"):
        read_index(tmp_path)
    path.unlink()
    sidecar = tmp_path / index.entries[0].shard.replace("array_record", "json")
    values = json.loads(sidecar.read_text())
    values["entries"][0]["neuron_pixels"][0] += 1
    sidecar.write_text(json.dumps(values))
    assert prepare_cache(Cells(10), tmp_path, CONFIG) == index


def test_a_cache_of_an_earlier_version_is_read(tmp_path):
    index = prepare_cache(Cells(10), tmp_path, CONFIG)
    for path in tmp_path.glob("*.json"):
        values = json.loads(path.read_text())
        del values["checksum"]
        path.write_text(json.dumps(values))
    assert read_index(tmp_path) == index
    made = times(tmp_path)
    assert prepare_cache(Cells(10), tmp_path, CONFIG) == index
    assert times(tmp_path) == made


@dataclasses.dataclass(frozen=True)
class Given:
    """Recordings that a test holds."""

    recordings: dict

    def keys(self):
        return sorted(self.recordings)

    def read(self, key):
        return self.recordings[key]

    def stamp(self, key):
        return "1"

    def describe(self):
        return {"kind": "given"}


def test_keys_that_differ_only_in_case_stay_apart(tmp_path):
    cells = Cells(2)
    source = Given({"Field.npy": cells.read("r000"), "field.npy": cells.read("r001")})
    index = prepare_cache(source, tmp_path, CONFIG)
    assert [entry.key for entry in index.entries] == ["Field.npy", "field.npy"]
    names = [path.name.lower() for path in tmp_path.iterdir()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 64
