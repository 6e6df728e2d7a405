"""Files of PyTorch are read without it, whole or not at all, and nothing in them runs."""

import contextlib
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fluxseg.errors import FluxsegError, RecordingError, UnsafeFileError
from fluxseg.formats import torch_files
from fluxseg.formats.torch_files import read_torch_tensors
from tests.formats import malicious
from tests.formats.torch_writer import (
    MAGIC,
    PROTOCOL,
    SYSTEM,
    archive,
    as_archive,
    as_legacy,
    describe,
    number,
    state_dict,
    storage,
    tensor,
    tuple_of,
)

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv1.weight": RNG.standard_normal((4, 3, 2, 2)).astype(np.float32),
    "turned": np.asfortranarray(RNG.standard_normal((3, 5))),
    "bn1.num_batches_tracked": np.array(7, np.int64),
    "half": RNG.standard_normal(6).astype(np.float16),
    "empty": np.zeros((0, 3), np.float32),
}
FORMS = {"archive": as_archive, "legacy": as_legacy}


def read(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    return read_torch_tensors(path)


def check_equal(found, arrays):
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        assert array.size == 0 or not found[name].flags.writeable


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_read(form, tmp_path):
    check_equal(read(tmp_path, FORMS[form](ARRAYS)), ARRAYS)


def test_safetensors_are_read(tmp_path):
    arrays = {name: np.ascontiguousarray(ARRAYS[name]) for name in sorted(ARRAYS)}
    found = read(tmp_path, save(arrays))
    check_equal({name: found[name] for name in arrays}, arrays)


def test_tensors_that_share_a_storage_are_views_of_it(tmp_path):
    flat = np.arange(12, dtype=np.float32)
    items = {
        "whole": tensor(storage("0", 12), (3, 4), (4, 1)),
        "column": tensor(storage("0", 12), (3,), (4,), offset=1),
        "repeated": tensor(storage("0", 12), (5, 2), (0, 1), offset=10),
    }
    found = read(tmp_path, archive(b"\x80\x02" + state_dict(items) + b".", {"0": flat.tobytes()}))
    np.testing.assert_array_equal(found["whole"], flat.reshape(3, 4))
    np.testing.assert_array_equal(found["column"], [1, 5, 9])
    np.testing.assert_array_equal(found["repeated"], [[10, 11]] * 5)
    assert np.shares_memory(found["whole"], found["column"])


def test_a_state_dict_beside_other_values_and_parameters_are_found(tmp_path):
    parameter = malicious.name("torch._utils._rebuild_parameter")
    parameter += tuple_of(tensor(storage("0", 2), (2,), (1,)), b"\x88", b"}") + b"R"
    inner = state_dict({"a": parameter})
    outer = b"}(" + malicious.text("epoch") + number(3) + malicious.text("state_dict") + inner
    content = np.array([1, 2], np.float32).tobytes()
    found = read(tmp_path, archive(b"\x80\x02" + outer + b"u.", {"0": content}))
    np.testing.assert_array_equal(found["a"], [1, 2])
    assert list(found) == ["a"]


def wrap(pickled, form):
    if form == "archive":
        return archive(pickled, {})
    return MAGIC + PROTOCOL + SYSTEM + pickled


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_a_file_asks_for_is_done(form, tmp_path):
    canary = tmp_path / "canary"
    cases = malicious.unsafe(str(canary))
    assert len(cases) > 100
    for asked, pickled in cases:
        with pytest.raises(RecordingError) as caught:
            read(tmp_path, wrap(pickled, form))
        assert not canary.exists(), asked
        assert str(tmp_path / "weights.pt") in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "dotted",
    [
        "torch.load", "torch.hub.load", "torch.nn.modules.linear.Linear", "torch.jit.load",
        "torch._utils._rebuild_qtensor", "torch.FloatTensor", "torch.storage._load_from_bytes",
        "numpy.core.multiarray._reconstruct", "builtins.getattr", "collections.defaultdict",
    ],
)  # fmt: skip
def test_other_names_of_torch_and_numpy_are_refused_by_name(form, dotted, tmp_path):
    pickled = b"\x80\x02" + malicious.call(dotted, malicious.text("x")) + b"."
    with pytest.raises(UnsafeFileError, match=dotted.replace(".", r"\.")) as caught:
        read(tmp_path, wrap(pickled, form))
    assert "state_dict()" in str(caught.value)


def one(stored, shape, strides, offset=0):
    described = state_dict({"a": tensor(stored, shape, strides, offset)})
    return b"\x80\x02" + described + b"."


EIGHT = {"0": bytes(8)}
DAMAGED = {
    "beyond its storage": archive(one(storage("0", 2), (3,), (1,)), EIGHT),
    "beyond by its offset": archive(one(storage("0", 2), (2,), (1,), 1), EIGHT),
    "beyond by its strides": archive(one(storage("0", 2), (2, 2), (1, 1)), EIGHT),
    "negative stride": archive(one(storage("0", 2), (2,), (-1,), 1), EIGHT),
    "negative side": archive(one(storage("0", 2), (-1,), (1,)), EIGHT),
    "huge side": archive(one(storage("0", 2), (2**60, 2**60), (0, 0)), EIGHT),
    "overflowing sides": archive(one(storage("0", 2), (2**40,) * 3, (0, 0, 0)), EIGHT),
    "more sides than strides": archive(one(storage("0", 2), (2, 1), (1,)), EIGHT),
    "a storage too short": archive(one(storage("0", 3), (3,), (1,)), EIGHT),
    "a storage too long": archive(one(storage("0", 1), (1,), (1,)), EIGHT),
    "no storage": archive(one(storage("1", 2), (2,), (1,)), EIGHT),
    "a storage elsewhere": archive(one(storage("../0", 2), (2,), (1,)), EIGHT),
    "an unknown type": archive(one(storage("0", 2, "ComplexFloat"), (2,), (1,)), EIGHT),
    "compressed": archive(one(storage("0", 2), (2,), (1,)), EIGHT, compression=8),
    "not a state dict": archive(b"\x80\x02K\x01.", {}),
    "an empty dict": archive(b"\x80\x02}.", {}),
    "two lengths": archive(
        b"\x80\x02" + state_dict({
            "a": tensor(storage("0", 2), (2,), (1,)), "b": tensor(storage("0", 9), (9,), (1,)),
        }) + b".", EIGHT,
    ),
    "a view of a storage": archive(one(storage("0", 2, "Float", b"K\x01"), (2,), (1,)), EIGHT),
    "legacy, a huge storage": MAGIC + PROTOCOL + SYSTEM
    + one(storage("0", 2**40, "Float", b"N"), (2,), (1,))
    + b"\x80\x02](" + malicious.text("0") + b"e." + struct.pack("<q", 2**40) + bytes(8),
    "legacy, other protocol": MAGIC + b"\x80\x02K\x01." + SYSTEM,
    "legacy, big-endian": MAGIC + PROTOCOL + b"\x80\x02}.",
    "an array of numpy": b"\x93NUMPY\x01\x00" + bytes(100),
    "empty": b"",
    "safetensors, a huge header": struct.pack("<Q", 2**40) + b"{" + bytes(100),
    "safetensors, damaged": struct.pack("<Q", 8) + b"{" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_an_error_that_names_the_file_and_takes_no_memory(what, tmp_path):
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=r"weights\.pt"):
            read(tmp_path, DAMAGED[what])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_an_archive_writes_nothing_wherever_its_members_point(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    content = as_archive(ARRAYS)
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as members:
        for name in ("../evil", "/evil", "archive/../../evil", "archive/data/../../../evil"):
            members.writestr(name, "evil")
    check_equal(read(folder, file.getvalue()), ARRAYS)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "weights.pt"]


def test_a_storage_that_many_members_share_is_not_read_more_often_than_the_file_is_long(tmp_path):
    content = bytes(2**20)
    items = {f"t{index}": tensor(storage(str(index), 2**18), (2**18,), (1,)) for index in range(50)}
    file = io.BytesIO(archive(b"\x80\x02" + state_dict(items) + b".", {"0": content}))
    with zipfile.ZipFile(file, "a") as members:
        first = members.getinfo("archive/data/0")
        for index in range(1, 50):
            other = zipfile.ZipInfo(f"archive/data/{index}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(other, field, getattr(first, field))
            members.filelist.append(other)
            members.NameToInfo[other.filename] = other
        members.writestr("last", "")  # so that the directory is written anew
    assert len(file.getvalue()) < 2 * len(content)
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=r"weights\.pt"):
            read(tmp_path, file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_other_archives_are_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("a.txt", "b")
    with pytest.raises(RecordingError, match=r"no data\.pkl"):
        read(tmp_path, file.getvalue())
    with zipfile.ZipFile(file, "a") as members:
        members.writestr("one/data.pkl", "")
        members.writestr("other/data.pkl", "")
    with pytest.raises(RecordingError, match=r"no data\.pkl"):
        read(tmp_path, file.getvalue())


def test_limits_hold_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "MAX_HEADER", 2000)
    items = {"0": bytes(8)} | {f"more{index}": b"" for index in range(100)}
    with pytest.raises(RecordingError, match="far too many members"):
        read(tmp_path, archive(one(storage("0", 2), (2,), (1,)), items))
    with pytest.raises(RecordingError, match="describes itself in"):
        read(tmp_path, archive(b"\x80\x02" + b"N0" * 2000 + b"}.", {}))
    with pytest.raises(RecordingError, match="describes itself in"):
        read(tmp_path, save({"a" * 3000: np.zeros(1)}))
    monkeypatch.setattr(torch_files, "MAX_BYTES", 100)
    with pytest.raises(RecordingError, match="the limit is 100"):
        read(tmp_path, bytes(101))


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(RecordingError, match=path.name):
            read_torch_tensors(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), form=st.sampled_from([*FORMS, "safetensors"]))
def test_damaged_files_are_read_whole_or_refused(data, form, tmp_path_factory):
    arrays = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items()}
    content = bytearray({**FORMS, "safetensors": save}[form](arrays))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "weights.pt"
    path.write_bytes(content)
    # Whatever else it raised would fail the test.
    with contextlib.suppress(FluxsegError):
        found = read_torch_tensors(path)
        assert all(isinstance(array, np.ndarray) for array in found.values())


def test_what_describes_names_is_not_run_by_the_reader_of_recordings(tmp_path):
    from fluxseg.formats.npy import read_npy

    path = tmp_path / "a.npy"
    pickled = b"\x80\x02" + state_dict(describe({"a": np.zeros(2, np.float32)})) + b"."
    path.write_bytes(malicious.npy(pickled))
    with pytest.raises(UnsafeFileError, match=r"torch\._utils\._rebuild_tensor_v2"):
        read_npy(path)


@pytest.mark.parametrize("form", ["archive", "legacy", "safetensors"])
def test_files_that_torch_writes_are_read(form, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra encoders only")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, generator=generator)
    tensors = {
        "single": values,
        "turned": values.T if form != "safetensors" else values.T.contiguous(),
        "bfloat16": values.to(torch.bfloat16),
        "half": values.half(),
        "double": values.double(),
        "long": torch.tensor(5),
        "bool": values > 0,
    }
    path = tmp_path / "weights"
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(tensors, path)
    else:
        module = torch.nn.Module()
        tensors = {f"of_{name}": value for name, value in tensors.items()}
        for name, value in tensors.items():
            module.register_buffer(name, value)
        module.register_parameter("of_parameter", torch.nn.Parameter(values.clone()))
        tensors["of_parameter"] = values
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=form == "archive")
    found = read_torch_tensors(path)
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        exact = value.float() if name.endswith("bfloat16") else value
        exact = value.to(torch.uint8) if name.endswith("bool") else exact
        assert found[name].dtype == exact.numpy().dtype
        np.testing.assert_array_equal(found[name], exact.numpy())


def test_a_whole_module_of_torch_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra encoders only")
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch_tensors(path)
