"""Starting from a trained network: which of its parameters learn how fast."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from fluxseg.config import TrainConfig
from fluxseg.errors import ConfigError

ENCODER_PREFIXES = ("encoder_", "bottleneck")  # of layers before the first up-sampling
DISCOUNT = 0.1  # share of the learning rate that a discounted encoder learns with


def label_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree like the U-Net's parameters with "encoder" or "decoder" in place of arrays."""
    return {
        name: jax.tree.map(
            lambda _, name=name: "encoder" if name.startswith(ENCODER_PREFIXES) else "decoder",
            layer,
        )
        for name, layer in params.items()
    }


def adapt_optimizer(
    optimizer: optax.GradientTransformation, config: TrainConfig
) -> optax.GradientTransformation:
    """Let the encoder learn as `config.encoder` says.

    "free" leaves the optimiser as it is. "discounted" multiplies the steps of the encoder, weight
    decay included, by `DISCOUNT`, which is Adam at that share of the learning rate (discriminative
    fine-tuning: Howard & Ruder 2018, arXiv:1801.06146). "frozen" gives the encoder no steps, and
    its gradient no part in the clipping of the others.
    """
    if config.encoder == "frozen":
        parts = {"encoder": optax.set_to_zero(), "decoder": optimizer}
        return optax.multi_transform(parts, label_parameters)
    if config.encoder == "discounted":
        return optax.chain(optimizer, optax.masked(optax.scale(DISCOUNT), _is_encoder))
    return optimizer


def _is_encoder(params: Mapping[str, Any]) -> Any:
    return jax.tree.map(lambda label: label == "encoder", label_parameters(params))


def check_initial(params: Any, initial: Any) -> None:
    """Raise `ConfigError` unless initial parameters have the structure and shapes of `params`."""
    wanted, given = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (params, initial)
    )
    for name in sorted(set(wanted) | set(given)):
        if wanted.get(name) != given.get(name):
            raise ConfigError(
                f"the parameters to start from do not fit the architecture: {name} is "
                f"{given.get(name, 'missing')}, needed is {wanted.get(name, 'none of it')}"
            )
