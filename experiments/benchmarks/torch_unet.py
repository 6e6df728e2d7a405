"""The same U-Nets in plain PyTorch, as the reference that fluxseg is measured against.

Written as a PyTorch user would: modules from `torch.nn`, NCHW, nothing hand-tuned. `load_flax`
brings fluxseg's parameters over, so that both frameworks can be shown to compute the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fluxseg.config import ModelConfig
from fluxseg.model.layers import EPSILON, MAX_GROUPS, RELU_GAIN


class TorchUNet(nn.Module):
    """The U-Net that a `ModelConfig` describes; sides must be divisible by its strides."""

    def __init__(self, config: ModelConfig, num_classes: int = 2) -> None:
        super().__init__()
        self.config = config
        features = config.features
        self.unshuffle = nn.PixelUnshuffle(config.stem)
        self.encoder = nn.ModuleList()
        channels = config.stem**2
        for width in features:
            self.encoder.append(self._block(channels, width, config.convs))
            channels = width
        self.bottleneck = self._block(channels, channels, config.bottleneck_convs)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for width in reversed(features[:-1]):
            raised = channels if config.up == "reference" else width
            self.up.append(self._up(channels, raised))
            self.decoder.append(self._block(raised + width, width, config.convs))
            channels = width
        self.head = nn.Conv2d(channels, num_classes * config.stem**2, 1)
        self.shuffle = nn.PixelShuffle(config.stem)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, 1, H, W]` float to logits `[B, num_classes, H, W]`."""
        x = self.unshuffle(image)
        skips = []
        for level, block in enumerate(self.encoder):
            if level > 0 and self.config.up != "reference":
                x = self.pool(x)
            x = block(x)
            if level > 0 and self.config.up == "reference":
                x = self.pool(x)
            skips.append(x)
        x = self.bottleneck(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([up(x), skip], dim=1))
        logits: torch.Tensor = self.shuffle(self.head(x))
        return logits

    def _block(self, channels: int, width: int, convs: int) -> nn.Module:
        parts: list[nn.Module] = []
        for _ in range(convs):
            norm = self.config.norm == "group"
            kind = StandardisedConv2d if self.config.norm == "weights" else nn.Conv2d
            parts.append(kind(channels, width, 3, padding=1, bias=not norm))
            if norm:
                groups = max(g for g in range(1, MAX_GROUPS + 1) if width % g == 0)
                parts.append(nn.GroupNorm(groups, width, eps=1e-6))
            parts.append(nn.ReLU(inplace=True))
            channels = width
        if parts and self.config.dropout:
            parts.append(nn.Dropout2d(self.config.dropout))
        return nn.Sequential(*parts)

    def _up(self, channels: int, width: int) -> nn.Module:
        if self.config.up != "shuffle":
            size = 4 if self.config.up == "reference" else 2
            return nn.ConvTranspose2d(channels, width, size, stride=2, padding=(size - 2) // 2)
        return nn.Sequential(nn.Conv2d(channels, 4 * width, 1), nn.PixelShuffle(2))


class StandardisedConv2d(nn.Conv2d):
    """Convolution with standardised weights, see `fluxseg.model.layers.standardise_weights`."""

    def __init__(self, channels: int, width: int, size: int, **settings: Any) -> None:
        super().__init__(channels, width, size, **settings)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, channels, H, W]` to `[B, width, H, W]`."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), unbiased=False, keepdim=True)
        scale = RELU_GAIN / torch.sqrt((variance + EPSILON) * self.weight[0].numel())
        weight = (self.weight - mean) * scale * self.gain[:, None, None, None]
        return nn.functional.conv2d(x, weight, self.bias, padding=self.padding)


def to_torch(image: np.ndarray, layout: Any = torch.channels_last) -> torch.Tensor:
    """Turn `[B, H, W, 1]` float into a tensor `[B, 1, H, W]` in a memory layout."""
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)


def make_torch_trainer(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    layout: Any = torch.channels_last,
    weights: torch.Tensor | None = None,
) -> Callable[[Mapping[str, np.ndarray]], float]:
    """Make a training step: takes a batch as fluxseg has it, and returns the loss."""

    def train(batch: Mapping[str, np.ndarray]) -> float:
        label = torch.from_numpy(batch["label"]).long()
        optimizer.zero_grad()
        logits = network(to_torch(batch["image"], layout))
        loss = torch.nn.functional.cross_entropy(logits, label, weights)
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def load_flax(model: TorchUNet, params: Mapping[str, Any]) -> None:
    """Copy the parameters of fluxseg's U-Net of the same configuration into the model.

    Args:
        model: is changed.
        params: as `fluxseg.create_unet(config).init(...)["params"]` has them.

    Raises:
        KeyError: if a layer is missing.
        RuntimeError: if a shape differs.
    """
    config = model.config
    levels = len(config.features)
    blocks: dict[str, nn.Module] = {f"encoder_{n}": b for n, b in enumerate(model.encoder)}
    blocks |= {f"decoder_{levels - 2 - n}": b for n, b in enumerate(model.decoder)}
    blocks["bottleneck"] = model.bottleneck
    with torch.no_grad():
        for name, block in blocks.items():
            convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            norms = [m for m in block.modules() if isinstance(m, nn.GroupNorm)]
            for index, conv in enumerate(convs):
                _copy_conv(conv, params[f"{name}_conv_{index}"])
            for index, norm in enumerate(norms):
                values = params[f"{name}_norm_{index}"]
                norm.weight.copy_(_tensor(values["scale"]))
                norm.bias.copy_(_tensor(values["bias"]))
        for number, up in enumerate(model.up):
            values = params[f"up_{levels - 2 - number}"]
            if isinstance(up, nn.ConvTranspose2d):
                # PyTorch's is the gradient of a convolution and turns the kernel round.
                kernel = np.asarray(values["kernel"])[::-1, ::-1].transpose(2, 3, 0, 1)
                up.weight.copy_(_tensor(kernel))
                assert up.bias is not None
                up.bias.copy_(_tensor(values["bias"]))
            else:
                assert isinstance(up, nn.Sequential)
                _copy_conv(up[0], values, 2)
        _copy_conv(model.head, params["head"], config.stem)


def _copy_conv(conv: nn.Module, values: Mapping[str, Any], shuffled: int = 1) -> None:
    assert isinstance(conv, nn.Conv2d)
    kernel = np.asarray(values["kernel"]).transpose(3, 2, 0, 1)
    conv.weight.copy_(_tensor(_reorder(kernel, shuffled)))
    if isinstance(conv, StandardisedConv2d):
        conv.gain.copy_(_tensor(values["gain"]))
    if conv.bias is not None:
        conv.bias.copy_(_tensor(_reorder(np.asarray(values["bias"]), shuffled)))


def _reorder(values: np.ndarray, factor: int) -> np.ndarray:
    # fluxseg orders the channels of a pixel shuffle (row, column, channel), PyTorch (channel, row,
    # column).
    phases = values.reshape(factor**2, -1, *values.shape[1:])
    return phases.swapaxes(0, 1).reshape(values.shape)


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, order="C"))
