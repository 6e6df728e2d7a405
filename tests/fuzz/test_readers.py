"""Every reader with altered files, drawn by hypothesis; and what was found before.

`python -m tests.fuzz.long` goes on for as long as it is told, guided by coverage.
"""

import collections
import gc
import importlib.util
import json
import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxseg.errors import FluxsegError, RecordingError
from tests.fuzz.folders import pack, unpack, write_folder
from tests.fuzz.guard import Guard, lowered_limits
from tests.fuzz.long import NAMES, REPOSITORY
from tests.fuzz.mutations import mutate_files
from tests.fuzz.readers import READERS
from tests.fuzz.seeds import make_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads /proc")

CORPUS = Path(__file__).with_name("corpus")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a tiny run."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    make_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """A guard that listens only as long as it is asked to observe."""
    here = Path.cwd()
    guard = Guard(tmp_path_factory.mktemp("guard"))
    guard.install()
    yield guard
    os.chdir(here)


def test_all_readers_are_tried():
    assert tuple(READERS) == NAMES


@pytest.fixture
def no_leftovers(monkeypatch):
    """What the checkpoint library's threads leave behind a damaged file stays in this test."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    # Its log may hold halves of surrogate pairs, which the workers of the tests cannot pass on.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine that was never awaited
        yield
        gc.collect()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("no_leftovers")
def test_only_documented_errors_come_out_and_nothing_else_happens(run, guard, name):
    reader = READERS[name]
    wholes = reader.create_seeds(run)
    guard.warm_up(reader.read, wholes)
    kinds = collections.Counter()

    def look(files):
        outcome = guard.observe(reader.read, files)
        told = f"{outcome.where}: {outcome.what}\n{outcome.trace}"
        # The workers of the tests pass on no text with half a surrogate pair.
        assert outcome.kind != "finding", told.encode("ascii", "backslashreplace").decode()
        kinds[outcome.kind] += 1

    @settings(
        max_examples=reader.examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def look_at_altered(data):
        # Of many seeds the first is whole, and the others are hostile themselves.
        whole = data.draw(st.sampled_from([*wholes[:1] * len(wholes), *wholes]))
        look(mutate_files(whole, data.draw(st.randoms(use_true_random=False))))

    stored = CORPUS / name
    with lowered_limits():
        for files in [*wholes, *(unpack(path.read_bytes()) for path in sorted(stored.glob("*")))]:
            look(files)
        look_at_altered()
    # Otherwise the changes were too small, or too large, to try anything.
    assert kinds["read"] >= 2
    assert kinds.total() - kinds["read"] >= 5


def change(files, name, *path, to):
    """The same files, of which a JSON one has another value at a path."""
    value = json.loads(files[name])
    inner = value
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return {**files, name: json.dumps(value).encode()}


ROWS = (
    ["x"], [["a"]], 3, [{"name": "a", "key": "a.npz", "files": 3}], [{"name": "a", "key": "\0"}],
    [{"name": "a", "key": "x" * 300}], [{"name": "a", "key": None}],
)  # fmt: skip
SOURCES = ("\ud800", "a\0b", 3, None, ["x"], "x" * 5000)


@pytest.mark.parametrize(
    ("reader", "name", "path", "value"),
    [
        ("workdir", "split.json", ["moved"], 3),
        ("workdir", "scores.json", ["splits", "test", "confusion"], [[2**70, 0], [0, 1]]),
        ("workdir", "scores.json", ["splits", "test", "loss"], 10**400),
        ("workdir", "examples/examples.json", [0, "neuron_iou"], 10**400),
        ("workdir", "examples/examples.json", [0, "file"], ".."),
        *(("review", "review.json", ["recordings"], rows) for rows in ROWS),
        *(("review", "review.json", ["source"], source) for source in SOURCES),
    ],
)
def test_what_the_fuzzer_found_is_refused(run, tmp_path, reader, name, path, value):
    files = change(READERS[reader].create_seeds(run)[0], name, *path, to=value)
    write_folder(tmp_path / "input", files)
    (tmp_path / "output").mkdir()
    with pytest.raises(FluxsegError):
        READERS[reader].read(tmp_path / "input", tmp_path / "output")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["entries", 0, "shard"], False), (["entries", 0, "shard"], "../x"),
        (["entries", 0, "first"], "1"), (["entries", 0, "shape"], []),
        (["shards"], {"a": [1]}), (["shards"], {"../a": [1, 1]}),
        (["shards"], {"\ud800": [1, 1]}), (["settings", "tile"], 10**9),
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


@pytest.mark.parametrize(
    "notes",
    ['"x"', "[1]", '{"commit_timestamp_nsecs": {}}', f'{{"commit_timestamp_nsecs": {10**400}}}'],
    ids=["text", "list", "object", "huge"],
)
def test_what_the_fuzzer_found_in_checkpoints_is_refused(run, tmp_path, notes):
    (files,) = READERS["checkpoint"].create_seeds(run)
    name = next(name for name in files if name.endswith("_CHECKPOINT_METADATA"))
    write_folder(tmp_path, {**files, name: notes.encode()})
    with pytest.raises(FluxsegError, match="checkpoint"):
        READERS["checkpoint"].read(tmp_path, tmp_path)


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


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
def test_the_long_mode_finds_new_branches_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.long", "--minutes", "0.6", "--targets", "imagej"]
    seen = 0
    for _ in range(2):
        done = subprocess.run(
            [*command, "--corpus", str(tmp_path)], cwd=REPOSITORY, capture_output=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "imagej.json").read_text())
        assert figures["inputs"] >= 100
        assert not figures["found"]
        inputs = len(list((tmp_path / "imagej").iterdir()))
        assert inputs > seen
        seen = inputs
