"""Names and layout of the weights of known encoders, as torchvision, timm and others keep them."""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fluxseg.errors import FluxsegError
from fluxseg.formats.admitted import shorten

_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LITE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE_PARTS = {"expand": 0, "depthwise": 1, "project": 2}
"""Number of a layer's normalisation within its block."""
_HEADS = {
    "resnet": r"fc\.(weight|bias)",
    "lite": r"_conv_head\.weight|_bn1\.\w+|_fc\.(weight|bias)",
    "timm lite": r"conv_head\.weight|bn2\.\w+|classifier\.(weight|bias)",
}
"""Classifiers and what belongs to them alone, which no encoder needs."""


def encoder_weights(
    kind: str, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Find the weights of an encoder among tensors that PyTorch wrote.

    The first kernel is summed over its three input channels, which is three times their average:
    what a grey image shown as three equal channels meets. A file for one channel is taken as it
    is. Classifiers and counters of batches are left out.

    Args:
        kind: "resnet18", "resnet34", "resnet50" (names of torchvision and timm) or
            "efficientnet_lite0" (names of timm, or of the package efficientnet_lite_pytorch).
        tensors: name -> array, as `fluxseg.formats.torch_files.read_torch_tensors` returns.
        expected: shape of each weight that the encoder has, by its path, such as
            "layer1_0/conv1/kernel".

    Returns:
        Path -> float32 array, for every path in `expected`.

    Raises:
        FluxsegError: naming the tensor, if one is missing, left over, of the wrong shape or type,
            or holds values that are not finite or negative variances.
    """
    name_of, head = _naming(kind, tensors)
    names = {path: name_of(path) for path in expected}
    for name in names.values():
        if name not in tensors:
            raise FluxsegError(
                f"the weight {name} of {kind} is missing; are these the weights of another network?"
            )
    known = set(names.values())
    for name in sorted(set(tensors) - known):
        if not re.fullmatch(rf"{head}|.*\.num_batches_tracked", name):
            raise FluxsegError(
                f"the weight {shorten(name)} has no place in {kind}; are these the weights of "
                "another network?"
            )
    first = next(
        name for path, name in names.items() if path in ("conv1/kernel", "stem_conv/kernel")
    )
    return {
        path: _convert(name, tensors[name], expected[path], name == first)
        for path, name in names.items()
    }


def _naming(kind: str, tensors: Mapping[str, Any]) -> tuple[Callable[[str], str], str]:
    if kind != "efficientnet_lite0":
        return _resnet_name, _HEADS["resnet"]
    if "_conv_stem.weight" in tensors:
        return _lite_name, _HEADS["lite"]
    return _timm_lite_name, _HEADS["timm lite"]


def _resnet_name(path: str) -> str:
    *block, layer, leaf = path.split("/")
    layer = re.sub(r"^norm(\d)$", r"bn\1", layer)
    layer = {"downsample_conv": "downsample.0", "downsample_norm": "downsample.1"}.get(layer, layer)
    return ".".join((*(part.replace("_", ".") for part in block), layer, _leaf(leaf)))


def _lite_name(path: str) -> str:
    *block, layer, leaf = path.split("/")
    part, kind = layer.split("_")
    if not block:
        return f"{'_conv_stem' if kind == 'conv' else '_bn0'}.{_leaf(leaf)}"
    layer = f"_{part}_conv" if kind == "conv" else f"_bn{_LITE_PARTS[part]}"
    return f"_blocks.{block[0].removeprefix('block_')}.{layer}.{_leaf(leaf)}"


def _timm_lite_name(path: str) -> str:
    *block, layer, leaf = path.split("/")
    part, kind = layer.split("_")
    if not block:
        return f"{'conv_stem' if kind == 'conv' else 'bn1'}.{_leaf(leaf)}"
    number = int(block[0].removeprefix("block_"))
    starts = (0, *itertools.accumulate(_LITE_REPEATS))
    stage = max(s for s in range(len(_LITE_REPEATS)) if starts[s] <= number)
    # The first stage has no expansion: its names begin one step later.
    order = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    index = _LITE_PARTS[part] - (stage == 0)
    layer = order[index] if kind == "conv" else f"bn{index + 1}"
    return f"blocks.{stage}.{number - starts[stage]}.{layer}.{_leaf(leaf)}"


def _leaf(leaf: str) -> str:
    return "weight" if leaf == "kernel" else _LEAVES[leaf]


def _convert(name: str, tensor: np.ndarray, shape: tuple[int, ...], first: bool) -> np.ndarray:
    wanted = shape if len(shape) == 1 else (shape[3], shape[2], shape[0], shape[1])
    colour = (wanted[0], 3, *wanted[2:]) if first else None
    if tensor.dtype.kind != "f" or tensor.shape not in (wanted, colour):
        raise FluxsegError(
            f"the weight {name} is {list(tensor.shape)} {tensor.dtype}, needed are "
            f"{list(colour or wanted)} floating-point numbers"
        )
    values = tensor.astype(np.float32)
    if not np.isfinite(values).all():
        raise FluxsegError(f"the weight {name} holds values that are not finite")
    if name.endswith("running_var") and (values < 0).any():
        raise FluxsegError(f"the weight {name} holds negative variances")
    if values.shape == colour:
        values = values.sum(1, keepdims=True)
    return np.ascontiguousarray(values if len(shape) == 1 else values.transpose(2, 3, 1, 0))
