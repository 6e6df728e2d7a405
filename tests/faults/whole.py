"""Whether every file of a workdir is what its name says, at any moment."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from safetensors.numpy import load_file

from fluxseg.io.files import TEMPORARY
from tests.faults.jobs import KEPT, read_bits

ORBAX_TEMPORARY = "orbax-checkpoint-tmp"


def is_unfinished(path: Path) -> bool:
    """Tell whether a name says itself that its content is not finished."""
    return any(part.startswith(TEMPORARY) or ORBAX_TEMPORARY in part for part in path.parts)


def check_whole(workdir: Path) -> int:
    """Fail if a file under its final name is half written; return how many were read.

    Event files of TensorBoard are logs that grow: all but their last record must be whole.
    """
    count = 0
    for path in sorted(Path(workdir).rglob("*")):
        name = path.relative_to(workdir)
        if is_unfinished(name) or not path.is_file() or name.parts[0] == "checkpoints":
            continue
        try:
            count += _read(path)
        except Exception as error:
            raise AssertionError(f"{path} is not whole: {error!r}") from error
    if (Path(workdir) / "checkpoints").is_dir():
        count += _check_checkpoints(workdir)
    return count


def _check_checkpoints(workdir: Path) -> int:
    """Every folder that is named by a step must be a checkpoint that can be read; see `KEPT`."""
    folders = set()
    for name, kept in KEPT.items():
        paths = (workdir / "checkpoints" / name).glob("*")
        steps = sorted(int(path.name) for path in paths if path.name.isdigit())
        folders |= {f"{name}/{step}" for step in steps[-kept:]}
    read = read_bits(workdir) if folders else {}
    assert folders == set(read), f"{workdir}: {folders - set(read)} are not whole"
    return len(folders)


def find_leftovers(workdir: Path) -> list[str]:
    """List unfinished files and folders."""
    paths = (path.relative_to(workdir) for path in Path(workdir).rglob("*"))
    return sorted(str(path) for path in paths if is_unfinished(path))


def _read(path: Path) -> int:
    match path.suffix:
        case ".json":
            json.loads(path.read_text(encoding="utf-8"))
        case ".jsonl":
            text = path.read_text(encoding="utf-8")
            assert not text or text.endswith("\n")
            for line in text.splitlines():
                json.loads(line)
        case ".csv":
            text = path.read_text(encoding="utf-8")
            assert text.endswith("\n")
            assert len({len(row) for row in csv.reader(text.splitlines())}) <= 1
        case ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        case ".png":
            with Image.open(path) as image:
                image.load()
        case ".safetensors":
            assert load_file(path)
        case ".npz":
            with np.load(path, allow_pickle=False) as fields:
                assert [fields[name].shape for name in fields]
        case ".array_record":
            _read_records(path)
        case _ if path.name.startswith("events.out.tfevents"):
            _read_events(path)
        case _:
            return 0
    return 1


def _read_records(path: Path) -> None:
    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    try:
        assert len(reader.read_all()) == reader.num_records()
    finally:
        reader.close()


def _read_events(path: Path) -> None:
    data, place = path.read_bytes(), 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        assert length < 2**24, "a record of an impossible length"
        place += 12 + length + 4
