"""The train state, and how it and its optimiser are made from a config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from fluxseg.config import CLASSES, Config, TrainConfig
from fluxseg.errors import ConfigError
from fluxseg.model.losses import make_loss
from fluxseg.model.unet import create_unet
from fluxseg.training.finetune import adapt_optimizer, check_initial


class TrainState(struct.PyTreeNode):
    """Everything that a step needs; a step returns a new one."""

    step: jax.Array  # int32 scalar, number of steps taken
    params: Any  # parameters of the network, float32
    opt_state: Any  # state of the optimiser
    ema_params: Any  # running average of the parameters, or None
    class_weights: jax.Array  # `[C]` float32, weight of each class in the loss
    key: jax.Array  # PRNG key; each step derives its own from it and `step`
    ema_decay: float = struct.field(pytree_node=False)
    # `apply_fn({"params": params}, image, train, rngs=...)` -> logits; if a batch is computed in
    # micro-batches or sharded by `axis_name`, it is told `rows=...` too
    # (`fluxseg.model.layers.Rows`), for the same dropout as in one piece.
    apply_fn: Callable[..., Any] = struct.field(pytree_node=False)
    # `loss_fn(logits, label, valid, class_weights)` -> (sum, weight sum).
    loss_fn: Callable[..., tuple[jax.Array, jax.Array]] = struct.field(pytree_node=False)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)  # the optimiser

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the running average if there is one."""
        return self.params if self.ema_params is None else self.ema_params


def create_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Create the learning rate as a function of the step: linear warm-up, then constant or cosine.

    The cosine reaches 1 % of the peak after `total_steps`, the whole run.
    """
    peak, warmup = config.learning_rate, min(config.warmup_steps, max(total_steps - 1, 0))
    after: optax.Schedule = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1), alpha=0.01)
    # The first step has a rate above 0, else it would be lost.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


@functools.cache
def create_optimizer(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """Create Adam with the schedule and, where asked for, clipping and decoupled weight decay.

    Equal settings give the very same object, so that states made from them are of one type and a
    compiled step serves all.

    Weight decay (AdamW; Loshchilov & Hutter 2019, arXiv:1711.05101) acts on kernels only. For
    `config.encoder` see `adapt_optimizer`, for `total_steps` `create_schedule`.
    """
    schedule = create_schedule(config, total_steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    decay = config.weight_decay
    adam = optax.adamw(schedule, weight_decay=decay, mask=_is_kernel) if decay else None
    parts.append(adam or optax.adam(schedule))
    return adapt_optimizer(optax.chain(*parts), config)


def _quick_to_compile() -> dict[str, bool | int]:
    # The random numbers of each layer are much code, run once: at full effort compiling it takes
    # a third of a first start, with the same bits as its result.
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


_loss_of = functools.cache(make_loss)
_model_of = functools.cache(create_unet)


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_train_state(
    config: Config,
    class_weights: np.ndarray,
    total_steps: int,
    tile: int | None = None,
    init: Any = None,
) -> TrainState:
    """Create the state that training starts from.

    Args:
        config: model, loss, optimiser and seed.
        class_weights: `[2]` weights of background and neuron.
        total_steps: steps of the whole run, for the schedule.
        tile: side of the crops, px; default `config.data.tile`.
        init: parameters to start from; None for random ones.

    Returns:
        State at step 0.

    Raises:
        ConfigError: if the parameters to start from are those of another architecture, or there
            are not two weights.
    """
    if len(class_weights) != len(CLASSES):
        raise ConfigError(f"{len(class_weights)} weights for the classes {CLASSES}")
    model = _model_of(config.model)
    key = jax.random.key(config.train.seed)
    init_key, step_key = jax.random.split(key)
    tile = tile or config.data.tile
    image = jnp.zeros((1, tile, tile, 1), jnp.float32)
    draw = jax.jit(
        lambda k, x: model.init(k, x, train=False)["params"], compiler_options=_quick_to_compile()
    )
    if init is None:
        params = draw(init_key, image)
    else:
        check_initial(jax.eval_shape(draw, init_key, image), init)
        # Copied, as steps consume their state.
        params = _copy(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), init))
    tx = create_optimizer(config.train, total_steps)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=jax.jit(tx.init)(params),
        ema_params=_copy(params) if config.train.ema_decay else None,
        class_weights=jnp.asarray(class_weights, jnp.float32),
        key=step_key,
        ema_decay=config.train.ema_decay,
        apply_fn=model.apply,
        loss_fn=_loss_of(config.loss),
        tx=tx,
    )


@jax.jit
def _copy(tree: Any) -> Any:
    # One program: copied one by one, each shape of an array would need its own.
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def sum_arrays(tree: Any) -> jax.Array:
    """Compute a checksum of the bits of arrays of 32-bit values: a uint32 scalar.

    The 32-bit words are summed modulo 2^32, each multiplied by an odd number of its place: a
    change of any one word changes the sum. Integers add up to the same in any order.
    """
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        place = jnp.arange(leaf.size, dtype=jnp.uint32).reshape(leaf.shape)
        total += jnp.uint32(2 * number + 1) * (words * (2 * place + 1)).sum(dtype=jnp.uint32)
    return total
