"""What the training of a network begins with: the network that ships, another one, or chance."""

import dataclasses
import logging
from typing import Any

from fluxseg import pretrained
from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model
from fluxseg.training.encoder_weights import encoder_file

logger = logging.getLogger(__name__)

FREE = ("dropout", "dtype")  # settings of the model that any parameters suit


def load_start(config: Config) -> Any:
    """Load the parameters that a new run begins with, by its `train.start`.

    None for random ones, and where the start is a file with the weights of an `encoder_kind` alone.
    Raises `ConfigError`, naming the settings that are not those of the model to start from; and
    `FluxsegError` if that model cannot be read.
    """
    start = config.train.start
    if start == "random" or encoder_file(config):
        return None
    model = load_model(pretrained.NAME if start == "auto" else start)
    different = list_differences(config, model)
    if not different:
        logger.info("Training starts from the model %s", "pretrained" if start == "auto" else start)
        return model.params
    if start == "auto":
        logger.info("Training starts at random, not pretrained: %s", "; ".join(different))
        return None
    raise ConfigError(
        f"train.start {start} has other settings than this run; give those of the model, or "
        "train.start random:\n  " + "\n  ".join(different)
    )


def list_differences(config: Config, model: Predictor) -> list[str]:
    """List the settings of the network and its input in which a run and a model differ."""
    theirs = {f"model.{key}": value for key, value in dataclasses.asdict(model.config).items()}
    ours = {f"model.{key}": value for key, value in dataclasses.asdict(config.model).items()}
    for field in ("low_percentile", "high_percentile"):
        theirs[f"data.{field}"] = getattr(model, field)
        ours[f"data.{field}"] = getattr(config.data, field)
    return [
        f"{name} is {ours[name]!r}, the model's {value!r}"
        for name, value in theirs.items()
        if value != ours[name] and name.removeprefix("model.") not in FREE
    ]
