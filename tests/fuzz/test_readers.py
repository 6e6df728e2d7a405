"""Every reader with altered files: a few hundred each, always the same, and what was found before.

`python -m tests.fuzz.run` goes on for as long as it is told, guided by coverage.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fluxseg.errors import FluxsegError, RecordingError
from tests.fuzz.folders import pack, unpack, write_folder
from tests.fuzz.guard import Guard
from tests.fuzz.mutations import mutate_files
from tests.fuzz.readers import READERS
from tests.fuzz.run import NAMES, REPOSITORY, add_tally, describe
from tests.fuzz.seeds import make_run, run_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads /proc")

CORPUS = Path(__file__).with_name("corpus")
MANY = 100
TRIES = {"checkpoint": 10, "workdir": 30, "model": 50, "nwb": 50}
"""Altered inputs of readers that take longer; `MANY` of the others."""
GROUPS = (
    ("npy", "pickled", "npz", "tiff", "png", "jpeg", "nwb", "movie"),
    ("suite2p", "cellpose", "json", "imagej", "tensors"),
    ("model", "workdir", "checkpoint", "cache", "review"),
)
"""Readers that share a process."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a tiny run."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    make_run(workdir)
    return workdir


def start(arguments, seconds=300):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", *map(str, arguments)],
        cwd=REPOSITORY, env=environment, capture_output=True, timeout=seconds, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tallies(run, tmp_path_factory):
    """What each reader made of its inputs."""
    place = tmp_path_factory.mktemp("fuzz")
    found = {}
    for group in GROUPS:
        for name in group:
            found[name] = f"its process ended before it: see the readers of {group}"
        tries = [f"{name}={TRIES.get(name, MANY)}" for name in group]
        done = start(
            [*group, "--place", place, "--run", run, "--corpus", CORPUS, "--tries", *tries]
        )
        for name in group:
            if (place / f"{name}.last").exists():
                found[name] = f"the process ended with {done.returncode}: {done.stderr[-3000:]}"
            elif (place / f"{name}.json").exists():
                found[name] = json.loads((place / f"{name}.json").read_text())
    return found


def test_all_readers_are_tried():
    assert tuple(READERS) == NAMES == sum(GROUPS, ())


@pytest.mark.parametrize("name", NAMES)
def test_only_documented_errors_come_out_and_nothing_else_happens(tallies, name):
    tally = tallies[name]
    assert isinstance(tally, dict), tally
    found = [f"{where}: {one['what']}\n{one['trace']}" for where, one in tally["found"].items()]
    assert not found, "\n".join(found)
    assert tally["inputs"] > TRIES.get(name, MANY)
    # Otherwise the changes were too small, or too large, to try anything.
    assert tally["kinds"].get("read", 0) >= 2
    assert tally["inputs"] - tally["kinds"]["read"] >= 5


def change(files, name, *path, to):
    """The same files, of which a JSON one has another value at a path."""
    value = json.loads(files[name])
    inner = value
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return {**files, name: json.dumps(value).encode()}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("split.json", ["moved"], 3),
        ("scores.json", ["splits", "test", "confusion"], [[2**70, 0], [0, 1]]),
        ("scores.json", ["splits", "test", "loss"], 10**400),
        ("examples/examples.json", [0, "neuron_iou"], 10**400),
        ("examples/examples.json", [0, "file"], ".."),
    ],
)
def test_what_the_fuzzer_found_in_workdirs_is_refused(run, tmp_path, name, path, value):
    files = change(run_files(run)[0], name, *path, to=value)
    write_folder(tmp_path / "input", files)
    (tmp_path / "output").mkdir()
    with pytest.raises(FluxsegError):
        READERS["workdir"].read(tmp_path / "input", tmp_path / "output")


def test_a_hostile_setting_is_shown_as_one_word(run, tmp_path):
    from fluxseg.report.html import create_command

    command = create_command({"train": {"a.b;touch x": True}, "x": {"$(id)": [1, "`id`"]}})
    assert "'--config.train.a.b;touch x'" in command
    assert "'--config.x.$(id)' 1 '`id`'" in command


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["entries", 0, "shard"], False), (["entries", 0, "shard"], "../x"),
        (["entries", 0, "first"], "1"), (["entries", 0, "shape"], []),
        (["shards"], {"a": [1]}), (["shards"], {"../a": [1, 1]}), (["settings", "tile"], 10**9),
        (["settings", "tile"], None), (["settings"], {}),
    ],
)  # fmt: skip
def test_what_the_fuzzer_found_in_caches_is_refused(run, tmp_path, path, value):
    from fluxseg.data.cache import read_index
    from fluxseg.errors import WorkdirError
    from fluxseg.io.files import add_checksum

    files = {"index.json": (run / "cache" / "index.json").read_bytes()}
    values = json.loads(change(files, "index.json", *path, to=value)["index.json"])
    values.pop("checksum")
    (tmp_path / "index.json").write_text(json.dumps(add_checksum(values)))
    with pytest.raises(WorkdirError, match=r"index\.json: is damaged"):
        read_index(tmp_path)


@pytest.mark.parametrize("notes", ['"x"', "[1]", '{"commit_timestamp_nsecs": {}}'])
def test_what_the_fuzzer_found_in_checkpoints_is_refused(run, tmp_path, notes):
    (files,) = READERS["checkpoint"].seeds(run)
    name = next(name for name in files if name.endswith("_CHECKPOINT_METADATA"))
    write_folder(tmp_path, {**files, name: notes.encode()})
    with pytest.raises(FluxsegError, match="checkpoint"):
        READERS["checkpoint"].read(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "rows",
    [["x"], [["a"]], 3, [{"name": "a", "key": "a.npz", "files": 3}], [{"name": "a", "key": "\0"}],
     [{"name": "a", "key": "x" * 300}], [{"name": "a", "key": None}]],
)  # fmt: skip
def test_what_the_fuzzer_found_in_reviews_is_refused(run, tmp_path, rows):
    files = change(READERS["review"].seeds(run)[0], "review.json", "recordings", to=rows)
    write_folder(tmp_path / "input", files)
    with pytest.raises(FluxsegError):
        READERS["review"].read(tmp_path / "input", tmp_path / "output")


@pytest.mark.parametrize("source", ["\ud800", "a\0b", 3, None, ["x"], "x" * 5000])
def test_a_review_of_no_folder_is_refused(run, tmp_path, source):
    files = change(READERS["review"].seeds(run)[0], "review.json", "source", to=source)
    write_folder(tmp_path / "input", files)
    with pytest.raises(FluxsegError):
        READERS["review"].read(tmp_path / "input", tmp_path / "output")


@pytest.fixture
def guard(tmp_path):
    """A guard that listens only as long as it is asked to observe."""
    guard = Guard(tmp_path / "place")
    here = Path.cwd()
    guard.install()
    yield guard
    os.chdir(here)


@pytest.mark.parametrize(
    ("act", "wanted"),
    [
        (lambda i, o: os.system("true"), "os.system"),
        (lambda i, o: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda i, o: eval("1 + 1"), "compile"),
        (lambda i, o: Path("stray").write_text("x"), "open"),
        (lambda i, o: (o / ".." / "x").write_text("x"), "open"),
        (lambda i, o: Path("/etc/passwd").read_text(), "open"),
        (lambda i, o: (o / ".." / "a").mkdir(), "os.mkdir"),
        (lambda i, o: 1 / 0, "ZeroDivisionError"),
        (lambda i, o: bytearray(2**29) and None, "memory"),
        (lambda i, o: sys.exit(3), "SystemExit"),
    ],
)
def test_the_guard_sees_what_no_file_may_do(guard, act, wanted):
    outcome = guard.observe(act, {"a": b"x"})
    assert outcome.kind == "finding"
    assert wanted in outcome.what + outcome.where


def test_the_guard_lets_pass_what_readers_do(guard):
    def act(folder, output):
        (output / "b").write_bytes((folder / "a").read_bytes())
        raise RecordingError("a", "is bad")

    assert guard.observe(act, {"a": b"x"}).kind == "RecordingError"
    assert guard.observe(lambda i, o: None, {"a": b"x"}).kind == "read"


def test_files_are_joined_and_taken_apart(tmp_path):
    files = {"a": b"", "b/c": b"\0" * 300, "ü": b"x"}
    assert unpack(pack(files)) == files
    rng = random.Random(0)  # noqa: S311
    for _ in range(300):
        unpack(rng.randbytes(rng.randrange(40)))
    write_folder(tmp_path / "in", {"../x": b"1", "/x": b"1", "a/../../x": b"1", "y": b"1"})
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "y"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_changes(run, name):
    reader = READERS[name]
    files = (reader.seeds(run) if reader.needs_run else reader.seeds())[0]
    changed = [mutate_files(files, random.Random(seed)) for seed in range(20)]  # noqa: S311
    assert sum(one != files for one in changed) >= 15
    if name != "nwb":  # whose library notes the time
        assert changed == [mutate_files(files, random.Random(seed)) for seed in range(20)]  # noqa: S311


def test_figures_of_several_processes_add_up(tmp_path):
    total = {"inputs": 0, "seconds": 60}
    found = {"what": "X", "file": "a.bin", "trace": "", "size": 1, "count": 2}
    for _ in range(2):
        tally = {"inputs": 5, "kinds": {"read": 3, "finding": 2}, "seconds": 0.5, "memory": 2**20}
        (tmp_path / "a.json").write_text(json.dumps({**tally, "found": {"X y": found}}))
        add_tally(total, tmp_path / "a.json")
    add_tally(total, tmp_path / "a.json")
    assert total["inputs"] == 10
    assert total["found"]["X y"]["count"] == 4
    text = describe({"npy": {**total, "coverage": {"reached": 3, "lines": 4}}})
    assert "| npy | 1.0 | 10 | 3 of 4 | 6 / 0 | 0.5 | 1 | 1 (4) |" in text


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
def test_the_long_mode_finds_new_branches_and_goes_on(tmp_path):
    command = [
        *(sys.executable, "-m", "tests.fuzz.run", "--minutes", "0.3", "--targets", "imagej"),
        *("--corpus", str(tmp_path / "corpus"), "--output", str(tmp_path / "figures.json")),
    ]
    for calls in (1, 2):
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=600)
        figures = json.loads((tmp_path / "figures.json").read_text())["imagej"]
        assert figures["inputs"] > 100 * calls
        assert not figures.get("found")
    assert figures["coverage"]["reached"] > 100
    assert figures["coverage"]["corpus"] > 10
