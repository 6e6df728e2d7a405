"""Weights that others trained, put into the encoder of a network that is about to be trained."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.config import Config, ModelConfig
from fluxseg.errors import ConfigError, FluxsegError
from fluxseg.formats.torch_files import read_torch_tensors
from fluxseg.formats.torch_weights import encoder_weights
from fluxseg.model.unet import encoder_name
from fluxseg.training.state import TrainState

logger = logging.getLogger(__name__)


def check_encoder_start(config: Config, given: bool = False) -> None:
    """Make sure that a new run has the encoder weights that its settings need, and no others.

    Args:
        config: of the run.
        given: whether the parameters to start from are given.

    Raises:
        ConfigError: if `train.encoder_weights` is no file, has no encoder to go to, or contradicts
            given parameters; or if batch normalisation is to be frozen as it was drawn.
    """
    model, path = config.model, config.train.encoder_weights
    if path and model.encoder_kind == "unet":
        raise ConfigError(
            "train.encoder_weights needs a model.encoder_kind that has such weights, got unet"
        )
    if path and model.encoder_norm == "group":
        raise ConfigError(
            "train.encoder_weights are those of a network with batch normalisation: set "
            "model.encoder_norm to trained or frozen, got group"
        )
    if path and given:
        raise ConfigError(
            "train.encoder_weights must be empty where training starts from a model's parameters"
        )
    if path and not Path(path).is_file():
        raise ConfigError(f"train.encoder_weights: {path} is no file")
    frozen = model.encoder_kind != "unet" and model.encoder_norm == "frozen"
    if frozen and not path and not given:
        raise ConfigError(
            "model.encoder_norm frozen needs train.encoder_weights: statistics that were never "
            "computed would be frozen"
        )


def start_encoder(state: TrainState, config: Config) -> TrainState:
    """Give a state at step 0 the encoder weights that its settings name, if they do.

    Args:
        state: as `create_train_state` made it; the optimiser has seen nothing yet.
        config: of the run.

    Returns:
        The state, with a running average that begins there too.

    Raises:
        FluxsegError: see `load_encoder`.
    """
    path = config.train.encoder_weights
    if not path:
        return state
    params = load_encoder(state.params, config.model, path)
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=average)


def load_encoder(params: Mapping[str, Any], model: ModelConfig, path: str | Path) -> dict[str, Any]:
    """Replace the encoder's parameters by those of a file.

    Args:
        params: parameters of the U-Net.
        model: its architecture, with another `encoder_kind` than "unet".
        path: see `fluxseg.formats.torch_files.read_torch_tensors`.

    Returns:
        New parameters; the decoder's are the same arrays.

    Raises:
        FluxsegError: naming the file, and the weight if one does not fit.
    """
    tensors = read_torch_tensors(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params[encoder_name(model)])
    paths = ["/".join(str(key.key) for key in keys) for keys, _ in leaves]
    expected = {name: leaf.shape for name, (_, leaf) in zip(paths, leaves, strict=True)}
    try:
        found = encoder_weights(model.encoder_kind, tensors, expected)
    except FluxsegError as error:
        raise FluxsegError(f"{path}: {error}") from error
    arrays = [jnp.asarray(found[name]) for name in paths]
    encoder = jax.tree_util.tree_unflatten(structure, arrays)
    logger.info(
        "The encoder begins with %s (%s values, %s)",
        path,
        f"{sum(array.size for array in arrays):,}",
        fingerprint(found),
    )
    return {**params, encoder_name(model): encoder}


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Return a hash of named arrays that does not depend on the file they were kept in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return f"sha256 {digest.hexdigest()[:16]}"
