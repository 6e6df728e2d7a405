"""A trained network applied to an image of any size and dtype."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.config import Config, DataConfig, ModelConfig
from fluxseg.data.recording import check_image
from fluxseg.data.touching import TOUCHING
from fluxseg.data.transforms import normalize_image, turn, unturn
from fluxseg.errors import ConfigError
from fluxseg.inference.tiling import blend_tiles, cut_tiles, pad_image, plan_tiles
from fluxseg.markup import render_table
from fluxseg.model.unet import create_unet

if TYPE_CHECKING:
    from fluxseg.training.state import TrainState

TILE = 512
"""Largest side of an image that is predicted as a whole, px."""
BATCH = 4
"""Tiles that are predicted at once, at most."""
BUCKET = 32
"""Sides are padded to a multiple of this, so that few shapes are ever compiled, px."""
CLASSES = DataConfig().classes
LICENCE = "not stated; ask those who trained the model"

ApplyFn = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network and all that its use needs.

    Attributes:
        config: the architecture.
        params: parameters of the network, nested dicts of float32 arrays.
        low_percentile: percentile of an image's pixels that becomes 0.
        high_percentile: percentile of an image's pixels that becomes 1.
        threshold: least probability of a neuron pixel, chosen on validation if there was one.
        temperature: what log-odds are divided by so that probabilities are shares, fitted on
            validation if there was one.
        tile: side of the crops that it was trained on, px.
        um_per_px: size of the pixels that it was trained on, um; None if unknown.
        classes: names of the classes, in the order of the logits.
        licence: terms of the parameters.
        info: how it was trained, as plain values.
    """

    config: ModelConfig
    params: Any
    low_percentile: float = 1.0
    high_percentile: float = 99.5
    threshold: float = 0.5
    temperature: float = 1.0
    tile: int = 256
    um_per_px: float | None = None
    classes: tuple[str, ...] = CLASSES
    licence: str = LICENCE
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the model is and how it was trained."""
        scale = "unknown" if self.um_per_px is None else f"{self.um_per_px:.4g} um"
        rows: list[tuple[str, Any]] = [
            ("levels", " - ".join(map(str, self.config.features))),
            ("parameters", f"{sum(leaf.size for leaf in jax.tree.leaves(self.params)):,}"),
            ("classes", ", ".join(self.classes)),
            ("threshold", self.threshold),
            ("temperature", self.temperature),
            ("pixel of the training data", scale),
            ("licence", self.licence),
        ]
        data = self.info.get("data", {})
        if isinstance(data, Mapping) and data.get("source"):
            count = data.get("recordings")
            rows.append(("trained on", f"{count} recordings of {data['source']}"))
        for split, scores in dict(self.info.get("scores") or {}).items():
            if isinstance(scores, Mapping) and isinstance(scores.get("neuron_iou"), float):
                rows.append((f"neuron IoU, {split}", scores["neuron_iou"]))
        return render_table(rows, title="Model")

    @property
    def apply_fn(self) -> ApplyFn:
        """Function `apply_fn({"params": params}, image, train)` -> logits; one object per model."""
        return _apply_of(self.config, len(self.classes))

    def predict(
        self, image: Any, *, tta: bool = False, tile: int | None = None, overlap: int | None = None
    ) -> np.ndarray:
        """Predict where neurons are.

        Args:
            image: `[H, W]`, any real dtype and size, in any units: it is normalised by its
                percentiles. Pixels that are not finite are taken as dark.
            tta: average over the 8 flips and turns of the image (test-time augmentation).
            tile: images with a longer side are predicted in overlapping tiles of this side, px;
                default `TILE`. Rounded up to what the poolings of the network need.
            overlap: least overlap of tiles, px; default a quarter of `tile`.

        Returns:
            `[H, W]` float32, probability of "neuron", 0 to 1.

        Raises:
            RecordingError: if it is not a 2-D array of real numbers.
            ConfigError: if tile and overlap do not fit together.
        """
        return self._predict(neuron_probability, image, tta, tile, overlap)

    def predict_classes(
        self, image: Any, *, tta: bool = False, tile: int | None = None, overlap: int | None = None
    ) -> np.ndarray:
        """Predict the probability of each class; arguments and errors as of `predict`.

        Returns:
            `[H, W, C]` float32, in the order of `classes`. All but the first add up to what
            `predict` gives, up to rounding.
        """
        return self._predict(class_probabilities, image, tta, tile, overlap)

    def predict_touching(
        self, image: Any, *, tta: bool = False, tile: int | None = None, overlap: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Predict what `find_rois` takes; arguments and errors as of `predict`.

        Returns:
            `[H, W]` float32 probability of "neuron", as `predict` gives, and that of "touching",
            None if the network has no such class.
        """
        if "touching" not in self.classes:
            return self.predict(image, tta=tta, tile=tile, overlap=overlap), None
        return split_classes(self.predict_classes(image, tta=tta, tile=tile, overlap=overlap))

    def _predict(
        self, kind: ApplyFn, image: Any, tta: bool, tile: int | None, overlap: int | None
    ) -> np.ndarray:
        image = np.asarray(image)
        check_image(image)
        return predict_probability(
            self.apply_fn,
            self.params,
            normalize_image(image, self.low_percentile, self.high_percentile),
            tta=tta,
            tile=TILE if tile is None else tile,
            overlap=overlap,
            multiple=max(BUCKET, pooling_stride(self.config)),
            temperature=self.temperature,
            kind=kind,
            channels=() if kind is neuron_probability else (len(self.classes),),
        )


def create_predictor(
    state: "TrainState",
    config: Config,
    threshold: float = 0.5,
    info: Mapping[str, Any] | None = None,
    um_per_px: float | None = None,
    temperature: float = 1.0,
) -> Predictor:
    """Create the predictor of a trained state.

    Args:
        state: its `eval_params` are used.
        config: settings that it was trained with.
        threshold: least probability of a neuron pixel.
        info: how it was trained, as plain values.
        um_per_px: size of the pixels that it was trained on, um.
        temperature: what log-odds are divided by.

    Returns:
        The predictor.
    """
    return Predictor(
        config=config.model,
        params=state.eval_params,
        low_percentile=config.data.low_percentile,
        high_percentile=config.data.high_percentile,
        threshold=threshold,
        temperature=temperature,
        tile=config.data.tile,
        um_per_px=um_per_px,
        classes=config.data.classes,
        info=dict(info or {}),
    )


def pooling_stride(config: ModelConfig) -> int:
    """Pixels of the image beneath one pixel of the coarsest level of the network."""
    return config.stem * 2 ** (len(config.features) - 1)


def predict_probability(
    apply_fn: ApplyFn,
    params: Any,
    image: np.ndarray,
    *,
    tta: bool = False,
    tile: int = TILE,
    overlap: int | None = None,
    multiple: int = BUCKET,
    temperature: float = 1.0,
    kind: ApplyFn | None = None,
    channels: tuple[int, ...] = (),
) -> np.ndarray:
    """Apply a network to a normalised image of any size.

    An image that fits in a tile is predicted as a whole; of a larger one, overlapping tiles are
    blended by raised cosines, and no more than two batches of tiles are on the device.

    Args:
        apply_fn: `apply_fn({"params": params}, image [B, H, W, 1], False)` -> logits.
        params: its parameters.
        image: `[H, W]` float32, normalised.
        tta: average over the 8 symmetries of the square.
        tile: largest side of a tile, px.
        overlap: least overlap of two tiles, px; None for a quarter of `tile`.
        multiple: tiles have sides and positions that are multiples of this, px: at least the
            stride of the network's poolings.
        temperature: see `neuron_probability`.
        kind: what is computed of each tile, `neuron_probability` (the default) or
            `class_probabilities`.
        channels: `(C,)` for `class_probabilities`.

    Returns:
        `[H, W, *channels]` float32, probability of "neuron", or of each class; 0 to 1.

    Raises:
        ConfigError: if tile and overlap do not fit together.
    """
    if tile < 16:
        raise ConfigError(f"tile must be 16 px or more, got {tile}")
    overlap = tile // 4 if overlap is None else overlap
    kind = kind or neuron_probability
    total = np.zeros((*image.shape, *channels), np.float32)
    symmetries = range(8) if tta else range(1)
    for symmetry in symmetries:
        turned = turn(image, symmetry)
        height, width = turned.shape
        plan = plan_tiles((height, width), tile, overlap, multiple)
        tiles = cut_tiles(pad_image(turned, plan.padded), plan)
        predicted = _predict_tiles(
            functools.partial(kind, apply_fn, params, temperature=temperature),
            tiles,
            len(plan.positions),
        )
        total += unturn(blend_tiles(predicted, plan, channels), symmetry)
    # Weights that add up to 1 in theory may exceed it by a rounding error.
    return np.clip(total / len(symmetries), 0, 1)


def _predict_tiles(
    predict: ApplyFn, tiles: Iterable[np.ndarray], count: int
) -> Iterator[np.ndarray]:
    """Predict tiles in batches of one size, the next one computed while one is handed out."""
    size = -(-count // -(-count // BATCH))
    pending: tuple[Any, int] | None = None
    iterator = iter(tiles)
    while group := list(itertools.islice(iterator, size)):
        images = np.stack([*group, *[group[0]] * (size - len(group))])
        following = predict(images[..., None]), len(group)
        if pending is not None:
            yield from np.asarray(pending[0])[: pending[1]]
        pending = following
    if pending is not None:
        yield from np.asarray(pending[0])[: pending[1]]


@functools.partial(jax.jit, static_argnames="apply_fn")
def neuron_probability(
    apply_fn: ApplyFn, params: Any, images: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Apply a network to normalised images.

    Args:
        apply_fn: see `predict_probability`; equal functions share the compiled program.
        params: its parameters.
        images: `[B, H, W, 1]` float32.
        temperature: what log-odds are divided by (see `fluxseg.model.calibration`); 1 leaves the
            probability of the softmax.

    Returns:
        `[B, H, W]` float32 probability of "neuron", that is, of any class but the first.
    """
    return jax.nn.sigmoid(neuron_log_odds(apply_fn, params, images) / temperature)


@functools.partial(jax.jit, static_argnames="apply_fn")
def class_probabilities(
    apply_fn: ApplyFn, params: Any, images: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Apply a network to normalised images; arguments as of `neuron_probability`.

    The temperature acts on "background or not" alone, as it was fitted; how the rest is shared out
    among the other classes is left as the network says.

    Returns:
        `[B, H, W, C]` float32, the probability of each class.
    """
    logits = apply_fn({"params": params}, images, False)
    log_odds = jax.nn.logsumexp(logits[..., 1:], -1, keepdims=True) - logits[..., :1]
    shares = jax.nn.softmax(logits[..., 1:], -1)
    foreground = jax.nn.sigmoid(log_odds / temperature)
    background = jax.nn.sigmoid(-log_odds / temperature)
    return jnp.concatenate([background, foreground * shares], -1)


def split_classes(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `find_rois` takes of the probabilities `[..., 3]` of `class_probabilities`.

    Returns:
        `[...]` float32, that of "neuron", which a touching pixel belongs to, and of "touching".
    """
    # Shares that add up to 1 in theory may exceed it by a rounding error.
    return np.clip(classes[..., 1:].sum(-1), 0, 1), classes[..., TOUCHING]


def neuron_log_odds(apply_fn: ApplyFn, params: Any, images: jax.Array) -> jax.Array:
    """Return `[B, H, W]` float32, log of the probability of any class but the first over its."""
    logits = apply_fn({"params": params}, images, False)
    return jax.nn.logsumexp(logits[..., 1:], -1) - logits[..., 0]


@functools.cache
def _apply_of(config: ModelConfig, num_classes: int) -> ApplyFn:
    return create_unet(config, num_classes).apply
