"""The U-Net: parameter counts by hand, any image size, dropout, dtypes, transformations."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from fluxseg.config import ModelConfig, reference_model
from fluxseg.errors import ConfigError
from fluxseg.model.unet import create_unet

TINY = ModelConfig(features=(3, 4, 5), convs=1, stem=1, norm="none")


def _image(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)[..., None]


def _key(seed):
    # The default generator takes seconds to compile.
    return jax.random.key(seed, impl="rbg")


@functools.cache
def _init(config):
    unet = create_unet(config)
    return jax.jit(lambda key: unet.init(key, jnp.zeros((1, 16, 16, 1)))["params"])


def _params(config, seed=0):
    return _init(config)(_key(seed))


def _logits(config, params, image):
    return jax.jit(create_unet(config).apply)({"params": params}, image)


def _count(config, num_classes=2):
    unet = create_unet(config, num_classes)
    shapes = jax.eval_shape(unet.init, _key(0), jnp.zeros((1, 64, 64, 1)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_reference_has_the_hand_counted_parameters():
    rows = [
        9 * 1 * 64 + 64,  # encoder, full size
        9 * 64 * 128 + 128,  # then pooled to 1/2
        9 * 128 * 128 + 128,  # 1/4
        9 * 128 * 256 + 256,  # 1/8
        9 * 256 * 512 + 512,  # 1/16
        9 * 512 * 512 + 512,  # bottleneck
        16 * 512 * 512 + 512,  # up to 1/8, 4x4, keeps the channels
        9 * (512 + 256) * 256 + 256,
        16 * 256 * 256 + 256,  # up to 1/4
        9 * (256 + 128) * 128 + 128,
        16 * 128 * 128 + 128,  # up to 1/2
        9 * (128 + 128) * 128 + 128,
        16 * 128 * 128 + 128,  # up to full size
        9 * (128 + 64) * 64 + 64,
        1 * 64 * 2 + 2,  # logits
    ]
    assert sum(rows) == 12_443_458
    assert _count(reference_model()) == 12_443_458


def test_default_has_the_hand_counted_parameters():
    def block(inputs, features):
        # Convolutions, each with a gain and a bias of its outputs.
        return 9 * inputs * features + 9 * features * features + 4 * features

    features = (16, 32, 64, 112, 160)
    encoder = sum(block(i, f) for i, f in zip((4, *features), features, strict=False))
    up = sum(coarse * 4 * fine + 4 * fine for fine, coarse in itertools.pairwise(features))
    decoder = sum(block(2 * f, f) for f in features[:-1])
    head = 16 * 8 + 8
    assert _count(ModelConfig()) == encoder + up + decoder + head == 1_238_984


@pytest.mark.parametrize(
    "config",
    [TINY, ModelConfig(features=(4, 6)), ModelConfig(features=(4, 6), norm="group"),
     dataclasses.replace(TINY, up="transposed"),
     pytest.param(dataclasses.replace(reference_model(), features=(3, 4, 5, 6, 7)),
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_both_formulations_are_one_function(config):
    image = _image(0, 2, 37, 21)
    config = dataclasses.replace(config, dropout=0.3)
    plain, fast = (create_unet(config, formulation=f) for f in ("plain", "fast"))
    params = jax.jit(plain.init)(_key(0), image)["params"]
    same = jax.jit(fast.init)(_key(0), image)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, same)

    def loss(params, image, unet):
        rngs = {"dropout": _key(5)}
        logits = unet.apply({"params": params}, image, train=True, rngs=rngs)
        return jnp.mean(jnp.sin(3 * logits)), logits

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    grads, logits = grad(params, image, plain)
    fast_grads, fast_logits = grad(params, image, fast)
    np.testing.assert_allclose(fast_logits, logits, rtol=1e-4, atol=1e-5)
    assert jnp.abs(grads[0]["encoder_0_conv_0"]["kernel"]).max() > 0
    for left, right in zip(jax.tree.leaves(fast_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


OPTIONS = {
    "convs": (1, 2),
    "stem": (1, 2),
    "bottleneck_convs": (0, 1),
    "up": ("shuffle", "transposed", "reference"),
    "norm": ("none", "group", "weights"),
}


def test_every_combination_of_options_has_logits_of_the_image_size():
    image = jax.ShapeDtypeStruct((2, 13, 10, 1), jnp.float32)
    for values in itertools.product(*OPTIONS.values()):
        options = dict(zip(OPTIONS, values, strict=True))
        unet = create_unet(ModelConfig(features=(2, 3), **options), num_classes=3)

        def run(image, unet=unet):
            keys = {"params": _key(0), "dropout": _key(1)}
            return unet.init_with_output(keys, image, train=True)[0]

        logits = jax.eval_shape(run, image)
        assert (logits.shape, logits.dtype) == ((2, 13, 10, 3), jnp.float32), options


@pytest.mark.parametrize("sides", [(447, 512), (37, 53), (1, 1), (1, 70)])
def test_any_size(sides):
    config = ModelConfig(features=(2, 2, 2, 2, 2), convs=1)
    logits = _logits(config, _params(config), _image(0, 1, *sides))
    assert logits.shape == (1, *sides, 2)
    assert np.isfinite(logits).all()


def test_padding_repeats_the_last_row_and_column_and_is_cut_off():
    config = dataclasses.replace(TINY, stem=2)
    params, image = _params(config), _image(1, 1, 37, 53)
    padded = np.pad(image, [(0, 0), (0, 3), (0, 3), (0, 0)], mode="edge")
    expected = _logits(config, params, padded)[:, :37, :53]
    np.testing.assert_allclose(_logits(config, params, image), expected, rtol=1e-5, atol=1e-6)


def test_dropout_works_in_training_only_and_by_key():
    unet, params = create_unet(TINY), {"params": _params(TINY)}
    image = _image(0, 2, 16, 16)

    @functools.partial(jax.jit, static_argnums=0)
    def run(train, seed):
        return unet.apply(params, image, train, rngs={"dropout": _key(seed)})

    np.testing.assert_array_equal(run(False, 1), run(False, 2))
    np.testing.assert_array_equal(run(True, 1), run(True, 1))
    assert not np.array_equal(run(True, 1), run(True, 2))
    assert not np.array_equal(run(True, 1), run(False, 1))
    with pytest.raises(InvalidRngError, match="dropout"):
        unet.apply(params, image, train=True)


def test_examples_of_a_batch_do_not_mix():
    config = ModelConfig(features=(4, 8), convs=1)
    params, image = _params(config), _image(0, 3, 16, 16)
    single = jnp.concatenate([_logits(config, params, image[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(_logits(config, params, image), single, rtol=1e-4, atol=1e-5)


def test_auto_dtype_is_bfloat16_off_the_cpu(monkeypatch):
    params, image = _params(TINY), _image(0, 1, 16, 16)
    exact = _logits(TINY, params, image)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.clear_caches()  # the backend is asked for while tracing
    rounded = _logits(TINY, params, image)
    jax.clear_caches()
    assert rounded.dtype == jnp.float32
    assert not np.array_equal(exact, rounded)


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="num_classes"):
        create_unet(TINY, num_classes=1)
