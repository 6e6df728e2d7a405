"""Names and cells that come from strangers: nothing leads out of a folder, nothing is computed."""

import csv
import dataclasses
import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.adapt.review.apply import apply_review
from fluxseg.adapt.review.files import review_recordings
from fluxseg.adapt.review.plan import ReviewPlan
from fluxseg.cli.formats import convert
from fluxseg.cli.movies import project
from fluxseg.config import Config, DataConfig
from fluxseg.console import run_guarded
from fluxseg.data.cache import CacheEntry
from fluxseg.data.recording import Recording
from fluxseg.errors import FluxsegError, WorkdirError
from fluxseg.formats.export import export_images
from fluxseg.formats.formats import Format
from fluxseg.formats.npz import write_npz
from fluxseg.inference.inputs import plan_jobs
from fluxseg.inference.predict_files import predict_files
from fluxseg.io.files import write_json
from fluxseg.io.names import MAX_NAME, distinct_name, safe_name
from fluxseg.io.schema import from_plain
from fluxseg.io.tables import write_csv
from fluxseg.report.workdir import read_run
from fluxseg.training.writers import write_history
from tests.inference.models import tiny_model

HOSTILE = (
    "../../x", "/etc/x", "a\\b", "CON", "con.txt", "nul .x", "COM1", "lpt9.tif", ".hidden", "..",
    ".", "", " ", "x" * 300, "ü" * 300, "a\0b", "a\nb", "a\rb", "a.", "A.", "C:\\x", "a:stream",
    "a/../../b", "\u202egnp.exe", "\ud800", "~", "$(touch x)", "-rf", "é", "e\u0301", "ABC", "abc",
    "*", "a?b", "<script>alert(1)</script>", "=1+1",
)  # fmt: skip
DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)\s*(\.|$)", re.IGNORECASE)


def field(name="field"):
    masks = np.zeros((2, 32, 32), bool)
    masks[0, 2:9, 3:10] = masks[1, 16:24, 8:20] = True
    image = (100 + 50 * masks.any(0)).astype(np.uint16)
    return Recording(name or " ", image, masks, ("../../roi", "=1+1"), "g", {"um_per_px": 0.8})


@dataclasses.dataclass(frozen=True)
class Strange:
    """A source whose keys, and the ids of whose recordings, are hostile."""

    def keys(self):
        return [name for name in HOSTILE if name.strip()]

    def read(self, key):
        return field(key)


def tree(folder):
    return {str(Path(at, name)) for at, _, names in os.walk(folder) for name in names}


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An output folder, deep down; whatever appears beside it fails the test."""
    place = tmp_path / "deep" / "er" / "output"
    place.mkdir(parents=True)
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    yield place
    beside = {path for path in tree(tmp_path) if not path.startswith((str(place), str(source)))}
    assert not beside
    for path in tree(place):
        for part in Path(path).relative_to(place).parts:
            assert part.isprintable()
            assert not part.startswith(".")
            assert not DEVICES.match(part)
            assert len(part.encode()) <= 255


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text()))
def test_a_safe_name_is_one_plain_name_and_stays_as_it_is(text):
    name = safe_name(text)
    assert name == safe_name(name)
    assert Path("/folder", name).resolve() == Path("/folder") / name
    assert not set(name) & set('<>:"/\\|?*')
    assert name.isprintable()
    assert 0 < len(name.encode()) <= MAX_NAME
    assert not DEVICES.match(name)
    assert name == name.strip(". ")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(("a", "A", "a_2", "ß", "SS", "İ", "i̇", "é", "e\u0301"))))
def test_distinct_names_are_distinct_whatever_the_system_makes_of_their_case(names):
    taken = set()
    given_names = [distinct_name(safe_name(name), taken) for name in names]
    assert len({name.casefold() for name in given_names}) == len(names)


@pytest.mark.parametrize("kind", get_args(Format))
def test_recordings_are_converted_into_the_folder_only(output, tmp_path, kind):
    if kind == "nwb":
        pytest.importorskip("pynwb", reason="pynwb is in the extra nwb only")
    for number, name in enumerate(HOSTILE[:12] if kind == "nwb" else HOSTILE):
        write_npz(tmp_path / "source" / f"{number:02d}.npz", field(name))
    (tmp_path / "source" / ".hidden.npz").unlink(missing_ok=True)
    assert convert(tmp_path / "source", output, format=kind) == 0
    made = [name for name in os.listdir(output) if not name.endswith(("_masks.tif", "_labels.tif"))]
    images = {"coco", "cellpose"}
    count = 12 if kind == "nwb" else len(HOSTILE)
    assert len(made) == count * (2 if kind in images else 1)


def test_no_recording_is_written_over_the_labels_of_another(output, tmp_path):
    for number, name in enumerate(("b_labels", "b", "c", "c_labels")):
        write_npz(tmp_path / "source" / f"{number}.npz", field(name))
    assert convert(tmp_path / "source", output, format="labels") == 0
    assert len(tree(output)) == 8


def test_predictions_are_written_into_the_folder_only(output, tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (32, 32)).astype(np.uint8)
    names = [n for n in HOSTILE if n.strip("./ ") and "/" not in n and "\0" not in n]
    kept = [n for n in names if len(n) < 200 and "\ud800" not in n and not n.startswith(".")]
    for number, name in enumerate(kept):
        folder = tmp_path / "source" / str(number)
        folder.mkdir()
        tifffile.imwrite(folder / f"{name}.tif", image)
    jobs = plan_jobs([str(tmp_path / "source")])[0]
    assert len(jobs) == len(kept)
    outcomes = predict_files(tiny_model(), jobs, output, ("probability", "imagej", "npz"))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert len(tree(output)) == 3 * len(kept) + 1


def test_a_review_is_written_into_the_folder_only(output):
    source = Strange()
    plan = ReviewPlan(tiny_model(threshold=0.99), source, Config(), tuple(source.keys()), ())
    found, left_out = review_recordings(plan, output, min_confidence=0.0)
    assert not left_out
    assert len({one.name.casefold() for one in found}) == len(found)
    assert len([path for path in tree(output) if path.endswith(".zip")]) >= len(found)


def test_a_corrected_review_is_written_into_the_folder_only(output, tmp_path):
    write_npz(tmp_path / "source" / "one.npz", field())
    folder = tmp_path / "source" / "review"
    folder.mkdir()
    rows = [{"name": name, "key": "one.npz", "files": []} for name in HOSTILE if name != "\ud800"]
    write_json(
        folder / "review.json",
        {"source": str(tmp_path / "source"), "simulator": None, "recordings": rows},
    )
    applied, _ = apply_review(folder, output)
    assert len({row["name"].casefold() for row in applied}) == len(rows)
    assert len(tree(output)) == len(rows) + 1


@pytest.mark.parametrize("quarters", [False, True])
def test_images_are_exported_into_the_folder_only(output, quarters, caplog):
    keys = Strange().keys()
    count, left_out = export_images(Strange(), output, DataConfig(workers=1), quarters=quarters)
    assert (count, left_out) == (len(keys), ())
    assert len(tree(output)) == len(keys) * (8 if quarters else 2)
    assert "already" not in caplog.text
    again = export_images(Strange(), output, DataConfig(workers=1), quarters=quarters)
    assert again == (count, left_out)
    assert f"{len(keys)} recordings are in {output} already: kept" in caplog.text


def test_projections_are_written_into_the_folder_only(output, tmp_path):
    movie = np.zeros((3, 16, 16), np.uint8)
    movies = [tmp_path / "source" / name for name in (".ome.tif", "CON.tif", "a\\b.tif")]
    for path in movies:
        tifffile.imwrite(path, movie, photometric="minisblack", metadata={"axes": "TYX"})
    assert project(tuple(movies), output=output, kind=("max",)) == 0
    assert len(tree(output)) == len(movies)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "..", ".", "", 3, None, "a\0b"])
def test_files_name_no_paths_elsewhere(tmp_path, name):
    row = {"id": "a", "key": "a", "split": "test", "rank": "best", "neuron_iou": 0.5, "file": name}
    write_json(tmp_path / "scores.json", {"splits": {}})
    write_json(tmp_path / "examples" / "examples.json", [row])
    with pytest.raises(WorkdirError, match=r"examples\.json"):
        read_run(tmp_path)
    entry = {
        "key": "a", "id": "a", "group": "g", "shape": [1, 1], "n_rois": 0, "digest": "",
        "fingerprint": "", "shard": name, "first": 0, "remarks": [], "neuron_pixels": [],
        "valid_pixels": [],
    }  # fmt: skip
    with pytest.raises(WorkdirError, match="shard"):
        from_plain(entry, CacheEntry, "index.json")


def test_names_do_not_steer_the_terminal(output, tmp_path, capsys):
    write_npz(tmp_path / "source" / "a.npz", field("\x1b]0;owned\x07\x1b[2Jx\r\x9b31m"))
    (tmp_path / "source" / "b\x1b[31m.npz").write_bytes(b"PK\x03\x04")
    assert convert(tmp_path / "source", output, format="imagej") == 1
    shown = "".join(capsys.readouterr())
    assert "b\\x1b[31m.npz" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r")

    def fail():
        raise FluxsegError("\x1b]0;owned\x07\nsecond line")

    assert run_guarded(fail) == 2
    assert capsys.readouterr().err == "error: \\x1b]0;owned\\x07\nsecond line\n"


FORMULAS = (
    "=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "  =1", "=cmd|' /C calc'!A0", "|x",
    "＝1", '"=1', "a\r=1", "a;=1", 'a",=1', "a\n=1", "a\t=1",
)  # fmt: skip


def cells(text, separator):
    """Every cell that a spreadsheet would show; rows end at any line break."""
    found, cell, quoted, closed = [], "", False, False
    for character in text:
        if quoted and character == '"':
            quoted, closed = False, True
        elif not quoted and character == '"' and (closed or not cell):
            cell, quoted, closed = cell + '"' * closed, True, False
        elif not quoted and character in (separator, "\r", "\n", "\t"):
            found.append(cell)
            cell, closed = "", False
        else:
            cell, closed = cell + character, False
    return [*found, cell]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FORMULAS), st.text(), st.floats()), min_size=2))
def test_no_cell_of_a_table_is_computed(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    columns = [str(number) for number in range(len(values))]
    write_csv(path, columns, [dict(zip(columns, values, strict=True))])
    text = path.read_bytes().decode()
    for separator in ",;":
        for cell in cells(text, separator):
            if cell.lstrip().startswith(tuple("=+-@|")):
                float(cell.partition(",")[0])
    with path.open(newline="", encoding="utf-8") as file:
        _, read = csv.reader(file)
    for value, cell in zip(values, read, strict=True):
        if isinstance(value, float):
            assert float(cell) == value or value != value
        else:
            assert cell.replace("'", "") == value.replace("'", "") or not value.isprintable()


def test_numbers_and_ordinary_texts_stay(tmp_path):
    values = {"a": -1.5, "b": 3, "c": None, "d": "cell 1", "e": ["=1", "2"], "f": "a-b", "g": True}
    write_csv(tmp_path / "a.csv", list(values), [values])
    assert (tmp_path / "a.csv").read_text() == (
        '"a","b","c","d","e","f","g"\n-1.5,3,"","cell 1","\'=1 2","a-b",True\n'
    )
    write_history(tmp_path, [{"epoch": 1, "=cmd": -0.5}])
    assert (tmp_path / "metrics.csv").read_text() == '"epoch","\'=cmd"\n1,-0.5\n'
