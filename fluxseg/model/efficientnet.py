"""EfficientNet-Lite0 as the encoder of the U-Net.

Tan and Le, "EfficientNet", ICML 2019, in the "Lite" form for small devices: no squeeze and
excitation, ReLU6 in place of swish, so plain convolutions only. As its authors trained it in
TensorFlow: "SAME" padding, which lies after an image rather than before, and an epsilon of 1e-3.
"""

from typing import NamedTuple

import flax.linen as nn
import jax

from fluxseg.model.encoder_layers import (
    EncoderConv,
    EncoderNorm,
    EncoderNormalization,
    same_padding,
)
from fluxseg.model.layers import Compute

EPSILON = 1e-3
MEAN, STD = 0.5, 0.5
"""What its authors standardised intensities from 0 to 1 with."""
STEM = 32
"""Channels of the first convolution."""


class Stage(NamedTuple):
    """Blocks of one resolution and width.

    Attributes:
        blocks: their number.
        size: side of the depthwise kernels, px.
        stride: of the first block.
        expansion: channels inside of a block for each one that it is given.
        features: channels that a block gives.
    """

    blocks: int
    size: int
    stride: int
    expansion: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, for images of one channel.

    The first kernel stands for the three of a colour image, summed, see
    `fluxseg.model.resnet.ResNet`.

    Attributes:
        norm: see `EncoderNormalization`.
        compute: see `Compute`.
    """

    norm: EncoderNorm = "trained"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Compute the features of five levels.

        Args:
            image: `[B, H, W, 1]`, floating, intensities mostly from 0 to 1; 32 divides H and W.

        Returns:
            `[B, H / s, W / s, C]` of the compute dtype for s = 2, 4, 8, 16, 32 and C = 16, 24,
            40, 112, 320: what the last block of each resolution gives.
        """
        x = (image - MEAN) / STD
        conv = EncoderConv(STEM, 3, 2, same_padding(3, 2), compute=self.compute, name="stem_conv")
        norm = EncoderNormalization(self.norm, EPSILON, dtype=self.compute.dtype, name="stem_norm")
        x = nn.relu6(norm(conv(x)))
        features: list[jax.Array] = []
        number = 0
        for stage in STAGES:
            for repeat in range(stage.blocks):
                stride = stage.stride if repeat == 0 else 1
                if stride == 2:
                    features.append(x)
                x = _Block(stage, stride, self.norm, self.compute, name=f"block_{number}")(x)
                number += 1
        return (*features, x)


class _Block(nn.Module):
    stage: Stage
    stride: int
    norm: EncoderNorm
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, features = self.stage.size, self.stage.features
        inner = self.stage.expansion * x.shape[-1]
        shortcut = self.stride == 1 and x.shape[-1] == features
        y = x
        if self.stage.expansion > 1:
            y = nn.relu6(self._norm("expand")(self._conv("expand", inner)(y)))
        padding = same_padding(size, self.stride)
        depthwise = EncoderConv(
            inner, size, self.stride, padding, True, self.compute, name="depthwise_conv"
        )
        y = nn.relu6(self._norm("depthwise")(depthwise(y)))
        y = self._norm("project", 0.0 if shortcut else 1.0)(self._conv("project", features)(y))
        return x + y if shortcut else y

    def _conv(self, name: str, channels: int) -> EncoderConv:
        return EncoderConv(channels, 1, compute=self.compute, name=f"{name}_conv")

    def _norm(self, name: str, initial_scale: float = 1.0) -> EncoderNormalization:
        return EncoderNormalization(
            self.norm, EPSILON, initial_scale, self.compute.dtype, name=f"{name}_norm"
        )
