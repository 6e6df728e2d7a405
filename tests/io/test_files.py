import os

import pytest

from fluxseg.errors import WorkdirError
from fluxseg.io.files import atomic_path, read_json, write_json


def test_json_round_trip_makes_folders(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_json(path, {"id": "Mäuse", "n": [1, 2]})
    assert read_json(path) == {"id": "Mäuse", "n": [1, 2]}
    assert os.listdir(path.parent) == ["a.json"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == 1
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="file"):
        write_json(tmp_path / "file" / "a.json", 1)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(WorkdirError, match=r"a\.json"):
        read_json(path)


def test_absent_json_is_named(tmp_path):
    with pytest.raises(WorkdirError, match="cannot be read"):
        read_json(tmp_path / "a.json")
