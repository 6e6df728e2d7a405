"""A trained model as one portable file: safetensors, with all that its use needs in the header.

The tensors are the parameters, named by their path in the network ("encoder_0_conv_0/kernel"),
all float32. The entry `fluxseg` of the header's metadata is JSON: format version, architecture,
normalisation, threshold, temperature, classes, licence, and how the model was trained; the entry
`sha256` tells whether anything of that, or a parameter, has changed since. Reading executes
nothing, and needs neither the run's workdir nor orbax.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import msgspec
import numpy as np
from msgspec import Meta

from fluxseg.config import CLASSES, ModelConfig, config_from_dict, config_to_dict
from fluxseg.errors import FluxsegError
from fluxseg.inference.predict import Predictor, pooling_stride
from fluxseg.io.files import atomic_path
from fluxseg.io.schema import from_plain

MODEL_NAME, TUNING_NAME = "model.safetensors", "finetune.json"
"""Names in a workdir: the model file, and the note of what a fine-tuning began from."""
FORMAT_VERSION = 5  # raised when a field is added or means something else; `ModelConfig` too
ADDED: dict[int, dict[str, Any]] = {
    2: {"temperature": 1.0},
    3: {"diameter_px": None, "tta": False},
    5: {"min_confidence": 0.0},
}
MODEL_ADDED: dict[int, dict[str, Any]] = {
    4: {"encoder_kind": "unet", "encoder_norm": "trained"},
    5: {"local_px": 0.0},
}
"""Version -> fields that came with it, and how files of earlier versions are read."""
ENTRY = "fluxseg"
CHECKSUM = "sha256"
MAX_HEADER = 2**20  # bytes of the header; the largest sensible model takes a hundredth of it
_KEPT = (
    "low_percentile", "high_percentile", "threshold", "temperature", "tile", "um_per_px", "licence",
    "diameter_px", "tta", "min_confidence",
)  # fmt: skip
"""Fields that header and `Predictor` have in common, as they are."""


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The entry of a model file's header; see `Predictor` for what the fields mean."""

    format_version: int
    model: dict[str, Any]
    low_percentile: Annotated[float, Meta(ge=0, le=100)]
    high_percentile: Annotated[float, Meta(ge=0, le=100)]
    threshold: Annotated[float, Meta(gt=0, lt=1)]
    temperature: Annotated[float, Meta(ge=0.01, le=100)]
    tile: Annotated[int, Meta(ge=16, le=4096)]
    um_per_px: Annotated[float, Meta(gt=0, lt=1000)] | None
    classes: list[str]
    licence: str
    info: dict[str, Any]
    diameter_px: Annotated[float, Meta(ge=1, le=1000)] | None
    tta: bool
    min_confidence: Annotated[float, Meta(ge=0, le=1)]

    def __post_init__(self) -> None:
        if len(self.classes) > len(CLASSES):
            raise FluxsegError(
                f"holds a network of {len(self.classes)} classes, which an earlier version made; "
                f"those of this one have {len(CLASSES)}: train it anew"
            )
        if self.classes != list(CLASSES):
            raise FluxsegError(f"its classes are {self.classes}, not {list(CLASSES)}")
        if self.low_percentile >= self.high_percentile:
            raise FluxsegError("low_percentile must be below high_percentile")


def _check_header(values: dict[str, Any]) -> Header:
    return from_plain(values, Header, "is damaged: its header", error=FluxsegError)


def write_model(path: str | Path, model: Predictor) -> None:
    """Write a model as one file, usually named `*.safetensors`, whole or not at all.

    Raises `FluxsegError` if `model.info` holds more than plain values, or a parameter is not
    finite; and `WorkdirError` if the file cannot be written.
    """
    from safetensors.numpy import save

    tensors = {
        name: np.ascontiguousarray(leaf, np.float32) for name, leaf in _flatten(model.params)
    }
    header = {
        "format_version": FORMAT_VERSION,
        "model": config_to_dict(model.config),
        "classes": list(CLASSES),
        "info": dict(model.info),
        **{name: getattr(model, name) for name in _KEPT},
    }
    try:
        text = json.dumps(header, ensure_ascii=False, allow_nan=False)
        _check_header(json.loads(text))
        _check_finite(tensors)
    except (FluxsegError, TypeError, ValueError, RecursionError) as error:
        raise FluxsegError(f"{path}: this model cannot be written: {error}") from error
    if len(text.encode()) > MAX_HEADER // 2:
        raise FluxsegError(f"{path}: model.info takes more than {MAX_HEADER // 2} bytes")
    content = save(tensors, {ENTRY: text, CHECKSUM: _checksum(text, tensors)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_stored_model(workdir: Path, checkpoint: Mapping[str, Any]) -> Predictor | None:
    """Read the model file of a run; None if there is none, or it is of another checkpoint.

    Raises `FluxsegError` if it is damaged.
    """
    path = workdir / MODEL_NAME
    model = read_model(path) if path.exists() else None
    return model if model and model.info.get("checkpoint") == dict(checkpoint) else None


def read_model(path: str | Path, *, known: bool = False) -> Predictor:
    """Read a model that `write_model` wrote; nothing in the file is executed.

    `known`: its parameters fit its architecture, as those of the model that comes with fluxseg do
    (describing the network takes longer than reading it). Raises `FluxsegError`, naming the file,
    if it cannot be read, is damaged or no model of fluxseg, or parameters and architecture do not
    fit.
    """
    path = Path(path)
    try:
        values, tensors = _read_content(path)
        return _create_model(values, tensors, known)
    except OSError as error:
        raise FluxsegError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise FluxsegError(f"{path}: needs more memory than there is") from error
    except FluxsegError as error:
        raise FluxsegError(f"{path}: {error}") from error


def _read_content(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from fluxseg.formats.npy import open_regular

    with open_regular(path) as (file, size):
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or start[8:] != b"{" or length > size - 8:
            raise FluxsegError("is not a model file of fluxseg, or is truncated")
        if length > MAX_HEADER:
            raise FluxsegError(f"declares a header of {length} bytes, the limit is {MAX_HEADER}")
        file.seek(0)
        content = file.read()
    header = _parse_json(content[8 : 8 + length], "its header")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(ENTRY), str):
        raise FluxsegError(
            "is a safetensors file, but not a model of fluxseg: its header has no entry "
            f"{ENTRY!r}; `fluxseg train` writes model files"
        )
    values = _parse_json(metadata[ENTRY], f"the entry {ENTRY!r} of its header")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise FluxsegError(f"is damaged: {error}") from error
    if metadata.get(CHECKSUM) != _checksum(metadata[ENTRY], tensors):
        raise FluxsegError("is damaged, or was changed by another program: its checksum is wrong")
    return values, tensors


def _checksum(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        little = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), copy=False)
        digest.update(f"\n{name}{list(little.shape)}".encode("utf-8", "surrogatepass"))
        digest.update(little.tobytes())
    return digest.hexdigest()


def _create_model(values: dict[str, Any], tensors: dict[str, np.ndarray], known: bool) -> Predictor:
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FluxsegError(
            f"has the format version {version}, this fluxseg knows {FORMAT_VERSION}; update fluxseg"
        )
    header = _check_header(_complete(values, version, ADDED))
    config = _read_config(_complete(header.model, version, MODEL_ADDED))
    if not known:
        _check_shapes(config, tensors)
    _check_finite(tensors)
    kept = {name: getattr(header, name) for name in (*_KEPT, "info")}
    return Predictor(config=config, params=jax.device_put(_unflatten(tensors)), **kept)


def _complete(
    values: dict[str, Any], version: Any, added: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    """Add to a file of an earlier version what came after it."""
    for since, fields in added.items():
        if isinstance(version, int) and version < since:
            values = {**fields, **values}
    return values


def _read_config(settings: dict[str, Any]) -> ModelConfig:
    config = config_from_dict({"model": settings}).model
    for name in config_to_dict(config):
        # A default would silently give another network than the one that was trained.
        if name not in settings:
            raise FluxsegError(f"is damaged: the setting model.{name} is missing")
    return config


def _check_shapes(config: ModelConfig, tensors: dict[str, np.ndarray]) -> None:
    from fluxseg.model.unet import create_unet

    if len(config.features) > 10 or (side := pooling_stride(config)) > 1024:
        raise FluxsegError("is damaged: model.features in its header is out of range")
    convolutions = config.convs * (2 * len(config.features) - 1) + config.bottleneck_convs
    if convolutions > len(tensors):
        # The network is not even described before that: a few bytes can ask for any size.
        raise FluxsegError(f"is damaged: {len(tensors)} tensors for {convolutions} convolutions")
    unet = create_unet(config)
    try:
        image = jax.ShapeDtypeStruct((1, side, side, 1), np.float32)
        described = jax.eval_shape(lambda x: unet.init(jax.random.key(0), x), image)["params"]
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise FluxsegError(f"describes a network that cannot be built: {error}") from error
    expected = {name: leaf.shape for name, leaf in _flatten(described)}
    if missing := sorted(set(expected) - set(tensors)):
        raise FluxsegError(f"is damaged: it lacks the tensor {missing[0]!r} of its network")
    if foreign := sorted(set(tensors) - set(expected)):
        raise FluxsegError(f"is damaged: the tensor {foreign[0]!r} is none of its network's")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise FluxsegError(
                f"is damaged: the tensor {name!r} is {list(tensor.shape)} {tensor.dtype}, its "
                f"network needs {list(shape)} float32"
            )


def _check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise FluxsegError(f"the tensor {name!r} holds values that are not finite")


def _parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FluxsegError(f"is damaged: {what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FluxsegError(f"is damaged: {what} is not a table of values")
    return value


def _flatten(params: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [("/".join(str(key.key) for key in path), leaf) for path, leaf in leaves]


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, last = name.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = tensor
    return params
