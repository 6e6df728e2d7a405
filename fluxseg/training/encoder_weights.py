"""Weights that others trained, put into the encoder of a network that is about to be trained."""

from pathlib import Path

import jax
import jax.numpy as jnp

from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.model.encoder_weights import load_encoder
from fluxseg.training.state import TrainState


def encoder_file(config: Config) -> str:
    """Return the file of the weights that an `encoder_kind` begins with; "" if there is none."""
    start = config.train.start
    named = config.model.encoder_kind != "unet" and start not in ("auto", "pretrained", "random")
    return start if named else ""


def check_encoder_start(config: Config, given: bool = False) -> None:
    """Make sure that a new run has the encoder weights that its settings need, and no others.

    Raises `ConfigError` if `train.start` is no file, or does not suit the encoder; or if batch
    normalisation is to be frozen as it was drawn, unless parameters are `given`.
    """
    model, path = config.model, encoder_file(config)
    if path and model.encoder_norm == "group":
        raise ConfigError(
            "train.start gives weights of a network with batch normalisation: set "
            "model.encoder_norm to trained or frozen, got group"
        )
    if path and not Path(path).is_file():
        raise ConfigError(f"train.start: {path} is no file")
    frozen = model.encoder_kind != "unet" and model.encoder_norm == "frozen"
    if frozen and not path and not given:
        raise ConfigError(
            "model.encoder_norm frozen needs a train.start with weights: statistics that were "
            "never computed would be frozen"
        )


def start_encoder(state: TrainState, config: Config) -> TrainState:
    """Give a state at step 0, and its running average, the encoder weights that settings name.

    Errors are those of `load_encoder`.
    """
    path = encoder_file(config)
    if not path:
        return state
    params = load_encoder(state.params, config.model, path)
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=average)
