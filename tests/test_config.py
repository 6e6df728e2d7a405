import dataclasses
import json

import pytest

from fluxseg.arguments import read_config_file, split_config_file
from fluxseg.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    reference_model,
    resume_difference,
)
from fluxseg.errors import ConfigError


def test_a_config_survives_json():
    config = Config(
        data=DataConfig(source="x", tile=128),
        model=ModelConfig(features=(8, 16)),
        train=TrainConfig(learning_rate=1e-4),
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_missing_fields_take_defaults():
    assert config_from_dict({"train": {"epochs": 3}}).train.epochs == 3
    assert config_from_dict({}) == Config()


def test_a_config_of_before_diameters_takes_recordings_as_they_are():
    values = config_to_dict(Config())
    assert values["data"].pop("diameter_px") == 0
    assert config_from_dict(values) == Config()
    assert config_from_dict({"data": {"diameter_px": 14}}).data.diameter_px == 14.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, "unknown setting trian"),
        ({"train": {"epoch": 3}}, r"unknown setting train\.epoch"),
        ({"train": {"epochs": "3"}}, r"train\.epochs: expected `int`, got `str`"),
        ({"train": {"epochs": True}}, r"train\.epochs: expected `int`, got `bool`"),
        ({"train": {"learning_rate": "fast"}}, r"train\.learning_rate: expected `float`"),
        ({"train": {"epochs": 0}}, r"train\.epochs must be >= 1, got 0"),
        ({"model": {"norm": "batch"}}, r"model\.norm: invalid enum value 'batch'"),
        ({"model": {"features": 3}}, r"model\.features: expected `array`"),
        ({"model": {"features": []}}, r"model\.features must be at least one level"),
        ({"data": 3}, "data. must be a table"),
        ({"data": {"low_percentile": 60, "high_percentile": 40}}, "low_percentile"),
        ({"data": {"diameter_px": 0.5}}, r"data\.diameter_px must be 0 or 1 to 1000 px, got 0.5"),
        ({"data": {"diameter_px": -3}}, "diameter_px"),
        ({"data": {"train_fraction": 0.8, "val_fraction": 0.4}}, "val_fraction"),
    ],
)
def test_a_wrong_setting_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_only_settings_that_change_the_result_block_a_resume():
    config = Config()
    free = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, epochs=99),
        data=dataclasses.replace(config.data, workers=3, cache="elsewhere"),
    )
    assert resume_difference(config, free) == []
    model = dataclasses.replace(config.model, features=(8, 16))
    other = dataclasses.replace(config, model=model)
    assert resume_difference(config, other) == [
        f"model.features: {config.model.features} -> (8, 16)"
    ]


def test_a_config_file_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "my config.py"
    path.write_text(
        "from fluxseg.config import Config, TrainConfig\n"
        "def get_config():\n    return Config(train=TrainConfig(epochs=7))\n"
    )
    assert read_config_file(path).train.epochs == 7
    config, others = split_config_file(["--config", str(path), "--config.train.seed", "3"])
    assert config.train.epochs == 7
    assert others == ["--config.train.seed", "3"]
    assert split_config_file(["--config.train.seed=3"]) == (Config(), ["--config.train.seed=3"])
    for text, message in (
        ("x = 1", "get_config"),
        ("def get_config(): return 3", "must return"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_config_file(path)
    with pytest.raises(ConfigError, match="no such"):
        read_config_file(tmp_path / "absent.py")


def test_files_of_earlier_versions_are_read_where_what_is_gone_changed_nothing():
    values = {"data": {"touching": False, "tile": 64}, "loss": {"ignore_rim": 0, "truncate": 0.0}}
    assert config_from_dict(values).data.tile == 64
    assert config_from_dict({"model": {"remat": True}}).model == ModelConfig()
    assert config_from_dict({"train": {"shard_optimizer": True, "log_every": 3}}) == Config()
    with pytest.raises(ConfigError, match=r"data\.touching = True .*earlier versions"):
        config_from_dict({"data": {"touching": True}})
    with pytest.raises(ConfigError, match=r"loss\.soften = 1 "):
        config_from_dict({"loss": {"soften": 1}})


def test_networks_of_earlier_versions_are_the_same_networks():
    old = {"pool": "first", "up": "shuffle", "up_kernel": 2, "up_features": "skip"}
    values = config_to_dict(Config())
    values["model"] |= old | {"dropout_kind": "channel"}
    assert config_from_dict(values) == Config()
    classic = config_to_dict(Config(model=reference_model()))
    classic["model"] |= {"pool": "last", "up": "transposed", "up_kernel": 4, "up_features": "keep"}
    assert config_from_dict(classic).model == reference_model()
    with pytest.raises(ConfigError, match=r"up_features = \('shuffle', 'last'.*earlier versions"):
        config_from_dict({"model": old | {"pool": "last"}})


def test_there_are_few_settings():
    sections = [getattr(Config(), field.name) for field in dataclasses.fields(Config)]
    assert sum(len(dataclasses.fields(section)) for section in sections) <= 55
