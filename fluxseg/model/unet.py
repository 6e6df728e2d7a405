"""The U-Net: an image of any size to one vector of logits per pixel."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError
from fluxseg.model import layers
from fluxseg.model.efficientnet import EfficientNetLite0
from fluxseg.model.resnet import ResNet

Formulation = Literal["auto", "fast", "plain"]


def create_unet(
    config: ModelConfig, num_classes: int = 2, formulation: Formulation = "auto"
) -> "UNet":
    """Build the U-Net of a configuration.

    Args:
        config: the architecture.
        num_classes: logits per pixel.
        formulation: how the layers are computed, see `UNet`; it changes speed only.

    Returns:
        The module. `unet.init(key, image)["params"]` makes its parameters, and
        `unet.apply({"params": params}, image, train=True, rngs={"dropout": key})` the logits.
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
        config = self.config
        height, width = image.shape[1:3]
        stride = config.stem * 2 ** (len(config.features) - 1)
        x = _pad_to_multiple(image, stride)
        skips: list[jax.Array] = []
        block = UNet._block
        if config.remat and train:
            # Of each level only the ends are kept; what is between is computed again backwards.
            block = nn.remat(UNet._block, static_argnums=(1, 2, 3, 4))
        if config.encoder_kind == "unet":
            x, levels = layers.pixel_unshuffle(x, config.stem), len(config.features)
        else:
            skips, levels = list(self._foreign_encoder(train)(x)), 0
            x = skips[-1]
        for level in range(levels):
            if level > 0 and config.pool == "first":
                x = layers.max_pool(x, self._fast)
            x = block(self, f"encoder_{level}", level, config.convs, train, rows, x)
            if level > 0 and config.pool == "last":
                x = layers.max_pool(x, self._fast)
            skips.append(x)
        if config.bottleneck_convs:
            x = block(self, "bottleneck", -1, config.bottleneck_convs, train, rows, x)
        for level in reversed(range(len(config.features) - 1)):
            x = self._up(f"up_{level}", level, x)
            x = block(self, f"decoder_{level}", level, config.convs, train, rows, x, skips[level])
        # The head stays in float32: rounded logits would tie where the classes are close.
        features = self.num_classes * config.stem**2
        head = layers.Conv(features, 1, fast=self._fast, scale=1.0, name="head")
        logits = layers.pixel_shuffle(head(x), config.stem)
        return logits[:, :height, :width]

    @property
    def _fast(self) -> bool:
        if self.formulation == "auto":
            return jax.default_backend() == "cpu"
        return self.formulation == "fast"

    @property
    def _dtype(self) -> jnp.dtype:
        if self.config.dtype == "auto":
            return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.config.dtype)

    def _foreign_encoder(self, train: bool) -> nn.Module:
        config = self.config
        name, remat = encoder_name(config), config.remat and train
        if config.encoder_kind == "efficientnet_lite0":
            return EfficientNetLite0(config.encoder_norm, self._dtype, self._fast, remat, name=name)
        return ResNet(
            config.encoder_kind, config.encoder_norm, self._dtype, self._fast, remat, name=name
        )

    def _block(
        self,
        name: str,
        level: int,
        convs: int,
        train: bool,
        rows: layers.Rows | None,
        *inputs: jax.Array,
    ) -> jax.Array:
        config = self.config
        for index in range(convs):
            conv = layers.Conv(
                config.features[level],
                dtype=self._dtype,
                fast=self._fast,
                use_bias=config.norm == "none",
                name=f"{name}_conv_{index}",
            )
            x = conv(*inputs)
            if config.norm == "group":
                x = layers.GroupNorm(self._dtype, name=f"{name}_norm_{index}")(x)
            inputs = (nn.relu(x),)
        dropout = layers.Dropout(
            config.dropout, config.dropout_kind == "channel", name=f"{name}_dropout"
        )
        return dropout(inputs[0], train, rows)

    def _up(self, name: str, level: int, x: jax.Array) -> jax.Array:
        config = self.config
        features = x.shape[-1] if config.up_features == "keep" else config.features[level]
        if config.up == "transposed":
            return layers.ConvTranspose(
                features, config.up_kernel, self._dtype, self._fast, name=name
            )(x)
        conv = layers.Conv(4 * features, 1, self._dtype, self._fast, scale=1.0, name=name)
        return layers.pixel_shuffle(conv(x), 2)


def _pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    missing = [-side % multiple for side in image.shape[1:3]]
    if not any(missing):
        return image
    return jnp.pad(image, [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
