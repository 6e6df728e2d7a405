"""A run begins with weights that others trained, and goes on without their file."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

import fluxseg.training.resume
import fluxseg.training.train
from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError, FluxsegError
from fluxseg.inference.features import layer_features
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.predict import create_predictor
from fluxseg.model.encoder_weights import load_encoder
from fluxseg.model.unet import create_unet, encoder_name
from fluxseg.training.encoder_weights import check_encoder_start, start_encoder
from fluxseg.training.state import create_train_state
from tests.conftest import TINY, train_network, with_train

MODEL = ModelConfig(features=(4, 4, 4, 4, 4), convs=1, encoder_kind="resnet18")
CONFIG = dataclasses.replace(TINY, model=MODEL)


def torch_tensors(seed=0):
    """Weights of a ResNet-18 as torchvision names them, as a training might leave them."""
    unet = create_unet(MODEL)
    shape = jax.ShapeDtypeStruct((1, 32, 32, 1), np.float32)
    params = jax.eval_shape(unet.init, jax.random.key(0), shape)["params"]
    rng = np.random.default_rng(seed)
    tensors = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params[encoder_name(MODEL)])[0]:
        *blocks, layer, kind = (key.key for key in keys)
        name = ".".join((*(part.replace("_", ".") for part in blocks), layer.replace("norm", "bn")))
        name = name.replace("downsample_conv", "downsample.0").replace(
            "downsample_bn", "downsample.1"
        )
        if kind == "kernel":
            size, _, channels, features = leaf.shape
            channels = 3 if name == "conv1" else channels
            spread = (2 / (size * size * channels)) ** 0.5
            shape = (features, channels, size, size)
            tensors[f"{name}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        else:
            last = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
            low = 0.2 if kind in ("scale", "var") else -0.2
            values = rng.uniform(low, low + 0.4, leaf.shape).astype(np.float32)
            tensors[f"{name}.{last.get(kind, kind)}"] = values
    tensors["fc.weight"] = np.zeros((1000, 512), np.float32)
    return tensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(torch_tensors(), path)
    return path


@pytest.fixture(scope="module")
def state():
    return create_train_state(CONFIG, np.ones(2), 10, tile=32)


def leaves_of(tree):
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def test_a_state_begins_with_the_weights_of_a_file_and_so_does_its_average(weights):
    config = with_train(CONFIG, start=str(weights), ema_decay=0.9)
    plain = create_train_state(config, np.ones(2), 10, tile=32)
    before = leaves_of(plain.params)
    state = start_encoder(plain, config)
    after, average = leaves_of(state.params), leaves_of(state.ema_params)
    tensors = torch_tensors()
    name = encoder_name(MODEL)
    np.testing.assert_array_equal(after[f"{name}/norm1/mean"], tensors["bn1.running_mean"])
    np.testing.assert_array_equal(
        after[f"{name}/layer4_1/conv2/kernel"],
        tensors["layer4.1.conv2.weight"].transpose(2, 3, 1, 0),
    )
    for path, values in after.items():
        assert values.tobytes() == average[path].tobytes()
        assert (values.tobytes() == before[path].tobytes()) is not path.startswith(name)
    assert start_encoder(plain, with_train(config, start="random")) is plain


def test_a_file_that_does_not_fit_is_named_with_the_weight(tmp_path, weights, state):
    tensors = torch_tensors()
    del tensors["layer3.0.downsample.1.running_var"]
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path)
    params = state.params
    with pytest.raises(FluxsegError, match=r"damaged\.safetensors: .*layer3\.0\.downsample\.1"):
        load_encoder(params, MODEL, path)
    deeper = dataclasses.replace(MODEL, encoder_kind="resnet34")
    params = {encoder_name(deeper): {**params[encoder_name(MODEL)], "layer1_2": {}}}
    params[encoder_name(deeper)]["layer1_2"] = params[encoder_name(deeper)]["layer1_1"]
    with pytest.raises(
        FluxsegError, match=r"resnet18\.safetensors: .*layer1\.2\.\w+\.\w+ of resnet34"
    ):
        load_encoder(params, deeper, weights)


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        ({"encoder_norm": "group"}, "FILE", "group"),
        ({"encoder_norm": "frozen"}, "random", "frozen needs a train.start"),
        ({}, "absent.safetensors", "absent.safetensors is no file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(model, path, message, weights, tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, **model))
    config = with_train(config, start=path.replace("FILE", str(weights)))
    with pytest.raises(ConfigError, match=message):
        check_encoder_start(config)
    with pytest.raises(ConfigError, match=message):
        train_network(config, tmp_path / "run")
    assert not (tmp_path / "run" / "cache").exists()
    for fine in (TINY, CONFIG):
        check_encoder_start(fine)


def test_a_run_that_is_resumed_asks_for_no_weights(tmp_path, monkeypatch):
    asked = []

    def spy(name):
        def call(*arguments):
            asked.append(name)
            return arguments[0]

        return call

    monkeypatch.setattr(fluxseg.training.resume, "check_encoder_start", spy("check_encoder_start"))
    monkeypatch.setattr(fluxseg.training.train, "start_encoder", spy("start_encoder"))
    train_network(with_train(TINY, epochs=1), tmp_path)
    assert asked == ["check_encoder_start", "start_encoder"]
    train_network(TINY, tmp_path)
    assert len(asked) == 2


def test_a_model_file_and_the_layers_of_a_network_know_its_encoder(tmp_path, state):
    model = create_predictor(state, CONFIG)
    write_model(tmp_path / "model.safetensors", model)
    again = read_model(tmp_path / "model.safetensors")
    assert again.config == MODEL
    for path, values in leaves_of(again.params).items():
        assert values.tobytes() == leaves_of(model.params)[path].tobytes()
    features = layer_features(again, np.random.default_rng(0).random((40, 50)))
    # Two pixels of the coarsest level each way, since 32 does not divide the sides.
    assert features["encoder_resnet18/conv1"].shape == (32, 32, 64)
    assert features["encoder_resnet18/layer2_0"].shape == (8, 8, 128)
    assert features["encoder_resnet18/layer4_1/conv2"].shape == (2, 2, 512)
    assert "encoder_resnet18" not in features
    assert features["head"].shape == (32, 32, 8)
