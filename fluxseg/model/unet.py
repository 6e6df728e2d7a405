"""The U-Net: an image of any size to one vector of logits per pixel.

Flax Linen, because its modules are stateless and `init` and `apply` are pure functions; Flax keeps
it, though it points new users to NNX.
"""

from typing import Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError
from fluxseg.model import layers
from fluxseg.model.efficientnet import EfficientNetLite0
from fluxseg.model.layers import Compute
from fluxseg.model.local import normalise_locally
from fluxseg.model.resnet import ResNet

Formulation = Literal["auto", "fast", "plain"]
Block = TypeVar("Block", bound=nn.Module)


def create_unet(
    config: ModelConfig, num_classes: int = 2, formulation: Formulation = "auto"
) -> "UNet":
    """Build the U-Net of a configuration, with `num_classes` logits per pixel.

    The formulation says how the layers are computed, see `UNet`; it changes speed only.

    Returns:
        The module. `unet.init(key, image)["params"]` makes its parameters, and
        `unet.apply({"params": params}, image, train=True, rngs={"dropout": key})` the logits
        `[B, H, W, num_classes]` of `image` `[B, H, W, 1]`.
    """
    if num_classes < 2:
        raise ConfigError(f"num_classes must be >= 2, got {num_classes!r}")
    return UNet(config, num_classes, formulation)


def encoder_name(config: ModelConfig) -> str:
    """Return the name that the parameters of a ResNet or EfficientNet have in the U-Net's."""
    return f"encoder_{config.encoder_kind}"


class UNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) in the variants that `ModelConfig` describes.

    With `config.encoder_kind` a network that others trained takes the place of the encoder; its
    features of five levels go to the same decoder.

    An image whose sides the strides do not divide has its last row and column repeated as far
    as needed, and the logits are cut back. Pixel (r, c) therefore meets the same grid of
    poolings whatever the size of the image.

    Attributes:
        config: the architecture.
        num_classes: logits per pixel.
        formulation: "plain" convolutions as GPUs and TPUs like them, the equal "fast" forms for
            CPUs (see `layers`), or "auto", which takes the fast ones if JAX runs on a CPU. The
            parameters are the same.
    """

    config: ModelConfig
    num_classes: int = 2
    formulation: Formulation = "auto"

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, rows: layers.Rows | None = None
    ) -> jax.Array:
        """Compute the logits.

        Args:
            image: `[B, H, W, 1]`, floating, normalised intensities, any H and W >= 1.
            train: apply dropout; needs an rng named "dropout".
            rows: which rows of a larger batch these are, for the same dropout as there.

        Returns:
            `[B, H, W, num_classes]`, float32.
        """
        config, compute = self.config, self._compute()
        height, width = image.shape[1:3]
        x = normalise_locally(image, config.local_px) if config.local_px else image
        x = _pad_to_multiple(x, config.stem * 2 ** (len(config.features) - 1))
        skips: list[jax.Array] = []
        if config.encoder_kind == "unet":
            x = layers.pixel_unshuffle(x, config.stem)
            for level in range(len(config.features)):
                x = _within(self, Down(config, compute, level, name=f"down_{level}"))(
                    x, train, rows
                )
                skips.append(x)
        else:
            skips += _create_encoder(config, compute)(x)
            x = skips[-1]
        if config.bottleneck_convs:
            x = _conv_block(self, config, compute, "bottleneck", -1, config.bottleneck_convs)(
                (x,), train, rows
            )
        for level in reversed(range(len(config.features) - 1)):
            x = _within(self, Up(config, compute, level, name=f"level_{level}"))(
                x, skips[level], train, rows
            )
        # The head stays in float32: rounded logits would tie where the classes are close.
        features = self.num_classes * config.stem**2
        head = layers.Conv(features, 1, Compute(fast=compute.fast), scale=1.0, name="head")
        return layers.pixel_shuffle(head(x), config.stem)[:, :height, :width]

    def _compute(self) -> Compute:
        on_cpu = jax.default_backend() == "cpu"
        dtype = self.config.dtype
        if dtype == "auto":
            dtype = "float32" if on_cpu else "bfloat16"
        fast = on_cpu if self.formulation == "auto" else self.formulation == "fast"
        return Compute(jnp.dtype(dtype), fast)


class Down(nn.Module):
    """One level of the encoder, from the finest, 0: max-pooling (not at 0) and convolutions."""

    config: ModelConfig
    compute: Compute
    level: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: layers.Rows | None) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H / 2, W / 2, features]`, at level 0 `[B, H, W, features]`."""
        config, level = self.config, self.level
        if level > 0 and config.up != "reference":
            x = layers.max_pool(x, self.compute.fast)
        block = _conv_block(self, config, self.compute, f"encoder_{level}", level, config.convs)
        x = block((x,), train, rows)
        if level > 0 and config.up == "reference":
            x = layers.max_pool(x, self.compute.fast)
        return x


class Up(nn.Module):
    """The decoder up to a level: up-sampling, then convolutions of it and the skip connection."""

    config: ModelConfig
    compute: Compute
    level: int

    @nn.compact
    def __call__(
        self, x: jax.Array, skip: jax.Array, train: bool, rows: layers.Rows | None
    ) -> jax.Array:
        """Map `[B, H, W, C]` and the skip `[B, 2 H, 2 W, D]` to `[B, 2 H, 2 W, features]`."""
        config, level, compute = self.config, self.level, self.compute
        name, features = f"up_{level}", config.features[level]
        if config.up == "reference":
            x = layers.ConvTranspose(x.shape[-1], 4, compute, name=name)(x)
        elif config.up == "transposed":
            x = layers.ConvTranspose(features, 2, compute, name=name)(x)
        else:
            conv = layers.Conv(4 * features, 1, compute, scale=1.0, name=name)
            x = layers.pixel_shuffle(conv(x), 2)
        block = _conv_block(self, config, compute, f"decoder_{level}", level, config.convs)
        return block((x, skip), train, rows)


class ConvBlock(nn.Module):
    """Convolutions, each with its normalisation and a ReLU, and dropout behind the last.

    The names of its layers begin with its own.
    """

    config: ModelConfig
    compute: Compute
    features: int
    convs: int

    @nn.compact
    def __call__(
        self, inputs: tuple[jax.Array, ...], train: bool, rows: layers.Rows | None
    ) -> jax.Array:
        """Map inputs `[B, H, W, C_n]`, taken as concatenated, to `[B, H, W, features]`."""
        config, compute = self.config, self.compute
        for index in range(self.convs):
            conv = layers.Conv(
                self.features,
                compute=compute,
                use_bias=config.norm != "group",
                standardise=config.norm == "weights",
                name=f"{self.name}_conv_{index}",
            )
            x = conv(*inputs)
            if config.norm == "group":
                x = layers.GroupNorm(compute.dtype, name=f"{self.name}_norm_{index}")(x)
            inputs = (nn.relu(x),)
        dropout = layers.Dropout(config.dropout, name=f"{self.name}_dropout")
        return dropout(inputs[0], train, rows)


def _conv_block(
    parent: nn.Module, config: ModelConfig, compute: Compute, name: str, level: int, convs: int
) -> ConvBlock:
    return _within(parent, ConvBlock(config, compute, config.features[level], convs, name=name))


def _within(parent: nn.Module, block: Block) -> Block:
    # The layers of all blocks lie side by side in the parameters, as in every file written so far.
    nn.share_scope(parent, block)
    return block


def _create_encoder(config: ModelConfig, compute: Compute) -> nn.Module:
    name = encoder_name(config)
    if config.encoder_kind == "efficientnet_lite0":
        return EfficientNetLite0(config.encoder_norm, compute, name=name)
    return ResNet(config.encoder_kind, config.encoder_norm, compute, name=name)


def _pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    missing = [-side % multiple for side in image.shape[1:3]]
    if not any(missing):
        return image
    return jnp.pad(image, [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
