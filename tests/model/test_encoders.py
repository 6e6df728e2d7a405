"""Encoders that others trained: equal to theirs layer by layer, and part of the same U-Net."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fluxseg.config import ModelConfig, TrainConfig
from fluxseg.model.efficientnet import EfficientNetLite0
from fluxseg.model.encoder_layers import (
    EncoderConv,
    EncoderNormalization,
    convolve_depthwise,
    convolve_strided,
    max_pool_overlapping,
    same_padding,
    symmetric_padding,
    take_taps,
)
from fluxseg.model.encoder_weights import encoder_weights, naming, read_tensors
from fluxseg.model.layers import Compute
from fluxseg.model.resnet import ResNet
from fluxseg.model.unet import create_unet, encoder_name
from fluxseg.training.finetune import label_parameters
from fluxseg.training.state import create_optimizer

SMALL = ModelConfig(features=(4, 4, 4, 4, 4), convs=1, dropout=0.2)
KINDS = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0")
CHANNELS = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "efficientnet_lite0": (16, 24, 40, 112, 320),
}
# As torchvision and the authors of EfficientNet give them, without classifier, and with a first
# kernel for one channel.
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000 - 64 * 2 * 49,
    "resnet34": 21_797_672 - 513_000 - 64 * 2 * 49,
    "resnet50": 25_557_032 - 2_049_000 - 64 * 2 * 49,
    "efficientnet_lite0": 4_652_008 - 1_281_000 - 320 * 1280 - 2 * 1280 - 32 * 2 * 9,
}


def create_encoder(kind, **changes):
    if kind == "efficientnet_lite0":
        return EfficientNetLite0(**changes)
    return ResNet(kind, **changes)


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).random((*shape, 1), np.float32)


def by_path(params):
    return flatten_dict(params, sep="/")


def nested(values):
    return unflatten_dict(values, sep="/")


def describe(module, size=64):
    shape = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), shape)["params"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_has_the_known_number_of_parameters_and_five_levels(kind):
    module = create_encoder(kind)
    params = describe(module)
    leaves = by_path(params)
    learnt = sum(leaf.size for name, leaf in leaves.items() if not name.endswith(("/mean", "/var")))
    assert learnt == PARAMETERS[kind]
    image = jax.ShapeDtypeStruct((2, 64, 96, 1), np.float32)
    features = jax.eval_shape(module.apply, {"params": params}, image)
    assert [f.shape for f in features] == [
        (2, 64 // 2**level, 96 // 2**level, channels)
        for level, channels in enumerate(CHANNELS[kind], start=1)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["trained", "frozen", "group"])
def test_a_unet_takes_an_encoder_for_images_of_any_size(kind, norm):
    config = dataclasses.replace(SMALL, encoder_kind=kind, encoder_norm=norm, bottleneck_convs=1)
    unet = create_unet(config, 3)
    params = describe(unet)
    assert {name for name in params if name.startswith("encoder")} == {encoder_name(config)}
    image = jax.ShapeDtypeStruct((2, 37, 81, 1), np.float32)
    assert jax.eval_shape(unet.apply, {"params": params}, image).shape == (2, 37, 81, 3)
    labels = label_parameters(params)
    assert set(jax.tree.leaves(labels[encoder_name(config)])) == {"encoder"}
    assert labels["decoder_0_conv_0"] == {"kernel": "decoder"}


@pytest.mark.parametrize(("size", "stride"), [(1, 2), (3, 1), (3, 2), (5, 1), (7, 2)])
@pytest.mark.parametrize("pad", ["symmetric", "same"])
def test_the_forms_of_a_convolution_are_equal_and_so_are_their_gradients(size, stride, pad):
    rng = np.random.default_rng(size)
    padding = symmetric_padding(size) if pad == "symmetric" else same_padding(size, stride)
    x = rng.standard_normal((2, 10, 12, 3), np.float32)
    for function, kernel in (
        (convolve_strided, rng.standard_normal((size, size, 3, 4), np.float32)),
        (convolve_depthwise, rng.standard_normal((size, size, 1, 3), np.float32)),
    ):
        results = []
        for fast in (False, True):

            def both(x, kernel, cotangent, function=function, fast=fast):
                y, back = jax.vjp(lambda *of: function(*of, stride, padding, fast), x, kernel)
                return y, back(cotangent)

            shape = (2, *(-(-side // stride) for side in x.shape[1:3]), kernel.shape[-1])
            cotangent = np.random.default_rng(0).standard_normal(shape, np.float32)
            results.append(jax.tree.leaves(jax.jit(both)(x, kernel, cotangent)))
        for plain, other in zip(*results, strict=True):
            np.testing.assert_allclose(plain, other, atol=2e-4)


def test_taps_are_what_a_kernel_meets():
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    padded = np.pad(x[0, :, :, 0], ((1, 2), (1, 2)))
    taps = take_taps(jnp.asarray(x), 5, 2, (1, 2))
    assert len(taps) == 25
    for index, tap in enumerate(taps):
        row, column = divmod(index, 5)
        wanted = [[padded[row + 2 * i, column + 2 * j] for j in range(3)] for i in range(2)]
        np.testing.assert_array_equal(tap[0, :, :, 0], wanted)


def test_overlapping_pooling_is_that_of_flax():
    x = nn.relu(np.random.default_rng(0).standard_normal((2, 8, 6, 3), np.float32))

    def plain(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    np.testing.assert_array_equal(max_pool_overlapping(x), plain(x))
    weights = np.random.default_rng(1).standard_normal((2, 4, 3, 3), np.float32)
    ours, theirs = (
        jax.grad(lambda x, f=f: (f(nn.relu(x)) * weights).sum())(x - 0.1)
        for f in (max_pool_overlapping, plain)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_normalisation_uses_stored_statistics_whatever_the_batch():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 5, 5, 6)).astype(np.float32)
    params = {
        name: rng.uniform(0.5, 2, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")
    }
    for kind in ("trained", "frozen"):
        found = EncoderNormalization(kind, 1e-3).apply({"params": params}, x)
        wanted = (x - params["mean"]) / np.sqrt(params["var"] + 1e-3)
        np.testing.assert_allclose(found, wanted * params["scale"] + params["bias"], rtol=1e-5)


class Pair(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x):
        return EncoderNormalization(self.norm, 1e-5, name="norm")(EncoderConv(4, name="conv")(x))


@pytest.mark.parametrize("norm", ["trained", "frozen"])
def test_no_optimiser_changes_a_stored_statistic_by_a_bit(norm):
    module, image = Pair(norm), image_of(2, 8, 8)
    params = module.init(jax.random.key(0), image)["params"]
    for encoder in ("free", "discounted"):
        tx = create_optimizer(TrainConfig(weight_decay=0.1, encoder=encoder, warmup_steps=0), 10)
        tree = {"encoder_resnet18": jax.tree.map(lambda leaf: leaf + 0.123, params)}
        first, opt_state = tree, tx.init(tree)
        for _ in range(3):
            grads = jax.grad(
                lambda p: jnp.square(module.apply({"params": p["encoder_resnet18"]}, image)).sum()
            )(tree)
            updates, opt_state = tx.update(grads, opt_state, tree)
            tree = optax.apply_updates(tree, updates)
        changed = {
            name
            for name, leaf in by_path(tree["encoder_resnet18"]).items()
            if np.asarray(leaf).tobytes()
            != np.asarray(by_path(first["encoder_resnet18"])[name]).tobytes()
        }
        learnt = {"norm/scale", "norm/bias"} if norm == "trained" else set()
        assert changed == {"conv/kernel"} | learnt


def randomise(torch, model):
    """Weights and statistics as a trained network might have them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def load(kind, tensors, **changes):
    module = create_encoder(kind, **changes)
    expected = {path: leaf.shape for path, leaf in by_path(describe(module)).items()}
    return module, nested(encoder_weights(kind, tensors, expected))


def compare_with_torch(torch, kind, model, path, mean, std, fast):
    """Compare what every convolution, normalisation and level of two encoders gives."""
    from safetensors.torch import save_file

    outputs = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            # Cloned, since a ReLU may write into it.
            layer.register_forward_hook(
                lambda _, __, output, name=name: outputs.__setitem__(name, output.clone().numpy())
            )
    save_file(model.state_dict(), path)
    tensors = read_tensors(path)
    module, params = load(kind, tensors, compute=Compute(fast=fast))
    image = image_of(2, 96, 64)
    grey = torch.from_numpy(np.repeat((image - mean) / std, 3, -1).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        levels = model(grey)
    features, captured = jax.jit(
        lambda image: module.apply(
            {"params": params}, image, capture_intermediates=True, mutable=["intermediates"]
        )
    )(image)
    name_of, _ = naming(kind, tensors)
    compared = 0
    for key, found in by_call(captured["intermediates"]):
        layer = key.rsplit("/", 1)[-1]
        if "conv" not in layer and "norm" not in layer:
            continue
        name = name_of(f"{key}/{'kernel' if 'conv' in layer else 'scale'}").removesuffix(".weight")
        wanted = outputs[name].transpose(0, 2, 3, 1)
        if kind == "efficientnet_lite0" and "norm" in layer and "project" not in layer:
            found = nn.relu6(found)  # timm's normalisation comes with it
        np.testing.assert_allclose(found, wanted, atol=1e-4, err_msg=name)
        compared += 1
    return features, levels, compared, len(outputs)


def by_call(captured, above=""):
    """Every module's path and output."""
    for name, values in captured.items():
        if name == "__call__":
            yield above.removesuffix("/"), values[0]
        else:
            yield from by_call(values, f"{above}{name}/")


@pytest.mark.parametrize(("kind", "fast"), [*((kind, True) for kind in KINDS), (KINDS[0], False)])
def test_every_layer_equals_that_of_timm(kind, fast, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra encoders only")
    timm = pytest.importorskip("timm", reason="timm is in the extra encoders only")
    lite = kind == "efficientnet_lite0"
    name = "tf_efficientnet_lite0" if lite else kind
    model = randomise(torch, timm.create_model(name, pretrained=False, features_only=True))
    scale = (0.5, 0.5) if lite else (0.449, 0.226)
    features, levels, compared, layers = compare_with_torch(
        torch, kind, model, tmp_path / "weights.safetensors", *scale, fast
    )
    assert compared == layers >= 40
    for found, wanted in zip(features, levels, strict=True):
        np.testing.assert_allclose(found, wanted.numpy().transpose(0, 2, 3, 1), atol=1e-4)
