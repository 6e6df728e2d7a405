"""The comparison of encoders: nested sets, equal steps, a table and a figure of what is there."""

import pytest

from experiments.studies import encoders
from experiments.studies.encoders import HELD_OUT, Network
from fluxseg.config import SimulatorConfig
from fluxseg.data.splits import manifest_from_json
from fluxseg.errors import ConfigError
from fluxseg.io.files import read_json

PRESET = Network()


def create(root, fields, network=PRESET, steps=100, size=128):
    simulator = SimulatorConfig(containers=fields + 2 * HELD_OUT, sessions=1, size=size)
    return encoders.create_config(network, fields, 0, steps, root, simulator)


def test_sets_are_nested_and_what_is_held_out_is_the_same(tmp_path):
    parts = []
    for fields in (2, 4):
        config = create(tmp_path, fields)
        encoders.write_manifest(config)
        manifest = manifest_from_json(read_json(config.data.manifest))
        parts.append({split: set(manifest.crops(split)) for split in ("train", "val", "test")})
    small, large = parts
    assert len({key for key, _ in small["train"]}) == 2
    assert small["train"] < large["train"]
    assert small["val"] == large["val"]
    assert small["test"] == large["test"]
    assert (
        len({key for key, _ in small["val"] | small["test"] | small["train"]}) == 2 * HELD_OUT + 2
    )


def test_networks_are_parsed(tmp_path):
    found = encoders.parse_networks(["resnet18"], [f"resnet50={tmp_path}/a=b.safetensors"])
    assert [network.name for network in found] == ["preset", "resnet18-random", "resnet50-imagenet"]
    assert found[2].weights == f"{tmp_path}/a=b.safetensors"
    with pytest.raises(ConfigError, match="KIND=FILE"):
        encoders.parse_networks([], ["resnet18"])
    config = create(tmp_path, 10, found[2])
    assert (config.model.encoder_norm, config.train.encoder) == ("trained", "discounted")
    assert config.train.start == found[2].weights
    config = create(tmp_path, 10, found[1])
    assert (config.model.encoder_norm, config.train.encoder) == ("group", "free")
