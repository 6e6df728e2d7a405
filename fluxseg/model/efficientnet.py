"""EfficientNet-Lite0 as the encoder of the U-Net.

Tan and Le, "EfficientNet", ICML 2019, in the "Lite" form for small devices: no squeeze and
excitation, ReLU6 in place of swish, so plain convolutions only. As its authors trained it in
TensorFlow: "SAME" padding, which lies after an image rather than before, and an epsilon of 1e-3.
"""

from typing import NamedTuple

import flax.linen as nn
import jax

from fluxseg.model.encoder_layers import EncoderNorm, NormalizedConv, same_padding
from fluxseg.model.layers import Compute

EPSILON = 1e-3
MEAN, STD = 0.5, 0.5
"""What its authors standardised intensities from 0 to 1 with."""
STEM = 32
"""Channels of the first convolution."""


class Stage(NamedTuple):
    """Blocks of one resolution and width."""

    blocks: int  # their number
    size: int  # side of the depthwise kernels, px
    stride: int  # of the first block
    expansion: int  # channels inside of a block for each one that it is given
    features: int  # channels that a block gives


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
        conv = NormalizedConv(self.norm, EPSILON, self.compute)
        x = (image - MEAN) / STD
        x = nn.relu6(conv(x, ("stem_conv", "stem_norm"), STEM, 3, 2, same_padding(3, 2)))
        features: list[jax.Array] = []
        number = 0
        for stage in STAGES:
            for repeat in range(stage.blocks):
                stride = stage.stride if repeat == 0 else 1
                if stride == 2:
                    features.append(x)
                x = _Block(stage, stride, conv, name=f"block_{number}")(x)
                number += 1
        return (*features, x)


class _Block(nn.Module):
    stage: Stage
    stride: int
    conv: NormalizedConv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, features = self.stage.size, self.stage.features
        inner = self.stage.expansion * x.shape[-1]
        shortcut = self.stride == 1 and x.shape[-1] == features
        y = x
        if self.stage.expansion > 1:
            y = nn.relu6(self.conv(y, ("expand_conv", "expand_norm"), inner))
        names, padding = ("depthwise_conv", "depthwise_norm"), same_padding(size, self.stride)
        y = nn.relu6(self.conv(y, names, inner, size, self.stride, padding, depthwise=True))
        scale = 0.0 if shortcut else 1.0
        y = self.conv(y, ("project_conv", "project_norm"), features, scale=scale)
        return x + y if shortcut else y
