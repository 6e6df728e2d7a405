"""ResNets as the encoder of the U-Net, in the form whose ImageNet weights are widely shared.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride of a
bottleneck in its 3x3 convolution ("v1.5"), as torchvision and timm have them. Names of layers
follow theirs, so that `fluxseg.model.encoder_weights` can map them.
"""

import flax.linen as nn
import jax

from fluxseg.model.encoder_layers import EncoderNorm, NormalizedConv, max_pool_overlapping
from fluxseg.model.layers import Compute

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
"""Blocks of the four stages."""
WIDTHS = (64, 128, 256, 512)
"""Channels inside of the blocks of the four stages."""
EPSILON = 1e-5
MEAN, STD = 0.449, 0.226
"""Of ImageNet's training images over all three channels, intensities from 0 to 1."""


class ResNet(nn.Module):
    """A ResNet without its classifier, for images of one channel.

    The image is standardised with ImageNet's mean and standard deviation. The first kernel stands
    for the three of a colour image, summed: three times their average. A grey image shown to the
    original as three equal channels gives the same values, and so those that the stored
    statistics of the batch normalisation belong to.

    Attributes:
        kind: one of `BLOCKS`.
        norm: see `EncoderNormalization`.
        compute: see `Compute`.
    """

    kind: str
    norm: EncoderNorm = "trained"
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Compute the features of five levels.

        Args:
            image: `[B, H, W, 1]`, floating, intensities mostly from 0 to 1; 32 divides H and W.

        Returns:
            `[B, H / s, W / s, C]` of the compute dtype for s = 2, 4, 8, 16, 32: what the stem,
            before its pooling, and the four stages give.
        """
        conv = NormalizedConv(self.norm, EPSILON, self.compute)
        x = nn.relu(conv((image - MEAN) / STD, ("conv1", "norm1"), 64, 7, 2))
        features = [x]
        x = max_pool_overlapping(x)
        bottleneck = self.kind == "resnet50"
        for stage, (count, width) in enumerate(zip(BLOCKS[self.kind], WIDTHS, strict=True)):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                name = f"layer{stage + 1}_{number}"
                x = _Block(width, stride, bottleneck, conv, name=name)(x)
            features.append(x)
        return tuple(features)


class _Block(nn.Module):
    width: int
    stride: int
    bottleneck: bool
    conv: NormalizedConv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # (channels, side of the kernel, stride) of each convolution
        plan = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        branch = x
        for number, layer in enumerate(plan, start=1):
            last, names = number == len(plan), (f"conv{number}", f"norm{number}")
            branch = self.conv(branch, names, *layer, scale=0.0 if last else 1.0)
            branch = branch if last else nn.relu(branch)
        if x.shape != branch.shape:
            names = ("downsample_conv", "downsample_norm")
            x = self.conv(x, names, branch.shape[-1], 1, self.stride)
        return nn.relu(x + branch)
