import dataclasses
import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from fluxseg.config import ModelConfig
from fluxseg.errors import FluxsegError
from fluxseg.inference.model_file import CHECKSUM, ENTRY, FORMAT_VERSION, read_model, write_model
from fluxseg.inference.predict import Predictor
from tests.inference.models import random_params

CONFIG = ModelConfig(features=(4, 8), convs=1, stem=1)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    params = random_params(CONFIG, seed=1)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_model(path, Predictor(CONFIG, params, info={"seed": 1}))
    return path.read_bytes()


def seal(text, tensors):
    """What a program that knows the format would write, checksum included."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name}{list(tensors[name].shape)}".encode())
        digest.update(tensors[name].tobytes())
    return save(tensors, {ENTRY: text, CHECKSUM: digest.hexdigest()})


def parts(content):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return json.loads(header["__metadata__"][ENTRY]), load(content)


def refused(tmp_path, content, match):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(FluxsegError, match=match) as caught:
        read_model(path)
    assert str(caught.value).startswith(str(path))


def test_the_format_is_as_documented(content, tmp_path):
    values, tensors = parts(content)
    path = tmp_path / "m.safetensors"
    path.write_bytes(seal(json.dumps(values), tensors))
    assert read_model(path).info == {"seed": 1}
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())
    assert "encoder_0_conv_0/kernel" in tensors


@pytest.mark.parametrize(
    ("version", "gone", "name", "value"),
    [
        (1, ["temperature"], "temperature", 1),
        (2, ["diameter_px", "tta"], "diameter_px", None),
        (3, ["encoder_kind", "encoder_norm"], "encoder_kind", "unet"),
        (4, ["min_confidence", "local_px"], "min_confidence", 0),
    ],
)
def test_files_of_earlier_versions_are_read(content, tmp_path, version, gone, name, value):
    values, tensors = parts(content)
    for field in gone:
        (values if field in values else values["model"]).pop(field)
    path = tmp_path / "m.safetensors"
    path.write_bytes(seal(json.dumps({**values, "format_version": version}), tensors))
    model = read_model(path)
    assert getattr(model, name, None) == value or getattr(model.config, name) == value
    refused(tmp_path, seal(json.dumps(values), tensors), name)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "update fluxseg"),
        ({"format_version": "1"}, "format_version"), ({"surprise": 1}, "surprise"),
        ({"threshold": 0}, "threshold"), ({"threshold": True}, "threshold"),
        ({"temperature": 0}, "temperature"), ({"temperature": None}, "temperature"),
        ({"tile": 3}, "tile"), ({"high_percentile": 0.5}, "percentile"),
        ({"um_per_px": -1}, "um_per_px"), ({"diameter_px": 0}, "diameter_px"),
        ({"diameter_px": True}, "diameter_px"), ({"tta": 1}, "tta"),
        ({"classes": ["neuron"]}, "classes"), ({"classes": ["a", 2]}, "classes"),
        ({"classes": ["background", "neuron", "touching"]}, "3 classes.*train it anew"),
        ({"info": []}, "info"), ({"licence": None}, "licence"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(content, tmp_path, changes, match):
    values, tensors = parts(content)
    refused(tmp_path, seal(json.dumps({**values, **changes}), tensors), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"colour": 1}, "colour"), ({"convs": 2}, "convolutions|lacks"),
        ({"convs": 10**9}, "convolutions"), ({"features": [4, 16]}, "needs"),
        ({"features": [4] * 40}, "features"), ({"features": [4, 10**18]}, "needs|built"),
        ({"features": [4, "8"]}, "features"), ({"norm": "batch"}, "norm"),
        ({"norm": "none"}, "lacks|none of"), ({"stem": 3}, "stem"),
    ],
)  # fmt: skip
def test_wrong_architectures_are_named(content, tmp_path, changes, match):
    values, tensors = parts(content)
    values["model"] = {**values["model"], **changes}
    refused(tmp_path, seal(json.dumps(values), tensors), match)


def test_missing_fields_are_named(content, tmp_path):
    values, tensors = parts(content)
    for name in values:
        kept = {key: value for key, value in values.items() if key != name}
        refused(tmp_path, seal(json.dumps(kept), tensors), name)
    for name in values["model"]:
        model = {key: value for key, value in values["model"].items() if key != name}
        refused(tmp_path, seal(json.dumps({**values, "model": model}), tensors), f"model.{name}")


def test_wrong_tensors_are_named(content, tmp_path):
    values, tensors = parts(content)
    text = json.dumps(values)
    name = "encoder_0_conv_0/kernel"
    kernel = tensors[name]
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    refused(tmp_path, seal(text, rest), name)
    refused(tmp_path, seal(text, {**tensors, "more": kernel}), "more")
    refused(tmp_path, seal(text, {**tensors, name: kernel[:2]}), name)
    refused(tmp_path, seal(text, {**tensors, name: kernel.astype(np.float64)}), name)
    refused(tmp_path, seal(text, {**tensors, name: kernel * np.inf}), "not finite")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"threshold": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "1" * 9999]
)
def test_wrong_json_is_refused(content, tmp_path, text):
    refused(tmp_path, seal(text, parts(content)[1]), "JSON|table")


def test_other_safetensors_files_are_told_apart(content, tmp_path):
    tensors = parts(content)[1]
    refused(tmp_path, save(tensors), "not a model of fluxseg")
    refused(tmp_path, save(tensors, {ENTRY: "{}"}), "checksum")
    huge = save(tensors, {ENTRY: "x" * 2**21})
    refused(tmp_path, huge, "header of")
    with pytest.raises(FluxsegError, match="folder"):
        read_model(tmp_path)


def test_what_json_cannot_hold_is_not_written(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    model = read_model(path)
    for info in ({"x": float("nan")}, {"x": object()}, {"x": "y" * 2**20}):
        with pytest.raises(FluxsegError, match=r"other\.safetensors"):
            write_model(tmp_path / "other.safetensors", dataclasses.replace(model, info=info))
    assert not (tmp_path / "other.safetensors").exists()
