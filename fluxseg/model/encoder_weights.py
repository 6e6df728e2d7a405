"""Weights of encoders that others trained: safetensors files, named as torchvision or timm do.

The first kernel is summed over its three input channels, which is three times their average: what
a grey image shown as three equal channels meets.
"""

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.config import ModelConfig
from fluxseg.errors import FluxsegError
from fluxseg.formats.admitted import shorten
from fluxseg.formats.npy import open_regular
from fluxseg.model.efficientnet import STAGES
from fluxseg.model.unet import encoder_name

logger = logging.getLogger(__name__)

MAX_BYTES = 2**30
"""Bytes of a file; the largest of the known encoders takes a tenth of it."""
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_LITE_PARTS = {"expand": 0, "depthwise": 1, "project": 2}
"""Number of a layer's normalisation within its block."""
_HEADS = {
    "resnet": r"fc\.(weight|bias)",
    "lite": r"_conv_head\.weight|_bn1\.\w+|_fc\.(weight|bias)",
    "timm lite": r"conv_head\.weight|bn2\.\w+|classifier\.(weight|bias)",
}
"""Classifiers and what belongs to them alone, which no encoder needs."""


def load_encoder(params: Mapping[str, Any], model: ModelConfig, path: str | Path) -> dict[str, Any]:
    """Replace the encoder's parameters by those of a file.

    Args:
        params: parameters of the U-Net; new ones are returned.
        model: its architecture, with another `encoder_kind` than "unet".
        path: a `.safetensors` file of torchvision's or timm's weights.

    Raises:
        FluxsegError: naming the file, and the weight if one does not fit.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params[encoder_name(model)])
    paths = ["/".join(str(key.key) for key in keys) for keys, _ in leaves]
    expected = {name: leaf.shape for name, (_, leaf) in zip(paths, leaves, strict=True)}
    try:
        found = encoder_weights(model.encoder_kind, read_tensors(path), expected)
    except OSError as error:
        raise FluxsegError(f"{path}: cannot be read: {error.strerror or error}") from error
    except FluxsegError as error:
        raise FluxsegError(f"{path}: {error}") from error
    arrays = [jnp.asarray(found[name]) for name in paths]
    count = sum(array.size for array in arrays)
    logger.info(
        "The encoder begins with %s (%s values, %s)", path, f"{count:,}", fingerprint(found)
    )
    return {**params, encoder_name(model): jax.tree_util.tree_unflatten(structure, arrays)}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a safetensors file by name, which executes nothing.

    Raises:
        OSError: if the file cannot be read.
        FluxsegError: if it is damaged, too large, or of another form.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with open_regular(Path(path)) as (file, size):
        if size > MAX_BYTES:
            raise FluxsegError(f"has {size} bytes, the limit is {MAX_BYTES}")
        content = file.read()
    if content[8:9] != b"{":
        raise FluxsegError(
            "is no safetensors file; with PyTorch, safetensors.torch.save_file("
            'torch.load("FILE.pth", weights_only=True), "FILE.safetensors") converts one of its own'
        )
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise FluxsegError(f"is damaged, or has a type that NumPy lacks: {error!s:.200}") from error


def encoder_weights(
    kind: str, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Find the weights of an encoder among tensors that PyTorch wrote.

    A file for one channel is taken as it is. Classifiers and counters of batches are left out.

    Args:
        kind: "resnet18", "resnet34", "resnet50" (names of torchvision and timm) or
            "efficientnet_lite0" (names of timm, or of the package efficientnet_lite_pytorch).
        tensors: name -> array.
        expected: shape of each weight that the encoder has, by its path, such as
            "layer1_0/conv1/kernel".

    Returns:
        Path -> float32 array, for every path in `expected`.

    Raises:
        FluxsegError: naming the tensor, if one is missing, left over, of the wrong shape or type,
            or holds values that are not finite or negative variances.
    """
    name_of, head = naming(kind, tensors)
    names = {path: name_of(path) for path in expected}
    other = "are these the weights of another network?"
    for name in names.values():
        if name not in tensors:
            raise FluxsegError(f"the weight {name} of {kind} is missing; {other}")
    for name in sorted(set(tensors) - set(names.values())):
        if not re.fullmatch(rf"{head}|.*\.num_batches_tracked", name):
            raise FluxsegError(f"the weight {shorten(name)} has no place in {kind}; {other}")
    first = ("conv1/kernel", "stem_conv/kernel")
    return {
        path: _convert(name, tensors[name], expected[path], path in first)
        for path, name in names.items()
    }


def naming(kind: str, tensors: Mapping[str, Any]) -> tuple[Callable[[str], str], str]:
    """Return the function from a path to PyTorch's name, and a pattern of the classifier's names.

    The names of the tensors tell whose they are.
    """
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
    starts = [0, *itertools.accumulate(stage.blocks for stage in STAGES)]
    stage = max(s for s in range(len(STAGES)) if starts[s] <= number)
    # The first stage has no expansion: its names begin one step later.
    order = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    index = _LITE_PARTS[part] - (stage == 0)
    layer = order[index] if kind == "conv" else f"bn{index + 1}"
    return f"blocks.{stage}.{number - starts[stage]}.{layer}.{_leaf(leaf)}"


def _leaf(leaf: str) -> str:
    return _LEAVES.get(leaf, leaf)


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


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Return a hash of named arrays that does not depend on the file they were kept in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return f"sha256 {digest.hexdigest()[:16]}"
