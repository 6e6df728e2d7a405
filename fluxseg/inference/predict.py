"""A trained network applied to an image of any size and dtype."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fluxseg.config import Config, ModelConfig
from fluxseg.data.recording import check_image, list_images
from fluxseg.data.resample import choose_zoom, resample_image, zoomed_shape
from fluxseg.data.transforms import normalize_image
from fluxseg.errors import ConfigError
from fluxseg.inference.probability import BUCKET, ApplyFn, predict_probability
from fluxseg.inference.programs import apply_of, network_probability
from fluxseg.io.markup import render_table

if TYPE_CHECKING:
    from fluxseg.inference.objects.rois import Rois
    from fluxseg.training.state import TrainState

LICENCE = "not stated; ask those who trained the model"


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model finds in an image."""

    rois: "Rois"  # the neurons
    # `[H, W]` float32 by name: "probability" of neuron, and "std" of several networks.
    maps: Mapping[str, np.ndarray]
    diameter: float | None  # of the cells, px; None if the model does not know its own

    @property
    def probability(self) -> np.ndarray:
        """Probability of "neuron", `[H, W]` float32."""
        return self.maps["probability"]


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
        um_per_px: size of the pixels that it was trained on, um; None if unknown, or if images
            are brought to `diameter_px`, as it then says nothing about those to come.
        licence: terms of the parameters.
        info: how it was trained, as plain values.
        diameter_px: median diameter of the cells that it was trained on, px; images are brought
            to it. None: images are taken as they are.
        tta: whether it averages over flips and rotations unless told otherwise.
        min_confidence: least confidence of a ROI (see `Rois`), chosen on labelled fields if there
            were some.
    """

    config: ModelConfig
    params: Any = dataclasses.field(repr=False)
    low_percentile: float = 1.0
    high_percentile: float = 99.5
    threshold: float = 0.5
    temperature: float = 1.0
    tile: int = 256
    um_per_px: float | None = None
    licence: str = LICENCE
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    diameter_px: float | None = None
    tta: bool = False
    min_confidence: float = 0.0

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the model is and how it was trained."""
        scale = "unknown" if self.um_per_px is None else f"{self.um_per_px:.4g} um"
        rows: list[tuple[str, Any]] = [
            ("levels", " - ".join(map(str, self.config.features))),
            ("parameters", f"{sum(leaf.size for leaf in jax.tree.leaves(self.params)):,}"),
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
        return apply_of(self.config)

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters, hexadecimal."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf, np.float32).tobytes())
        return digest.hexdigest()

    @property
    def side_multiple(self) -> int:
        """What the sides of the images that the network is given are multiples of, px."""
        return max(BUCKET, pooling_stride(self.config))

    def predict(
        self,
        image: Any,
        *,
        tta: bool | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        diameter: float | None = None,
    ) -> np.ndarray:
        """Predict where neurons are.

        Args:
            image: `[H, W]`, any real dtype and size, in any units: it is normalised by its
                percentiles. Pixels that are not finite are taken as dark. Or a list of images
                of one field, such as its maximum and its mean over time: the largest of their
                probabilities counts, and the first one tells the size of the cells.
            tta: average over the 8 flips and rotations of the image (test-time augmentation); None
                for the model's own `tta`.
            tile: images with a longer side are predicted in overlapping tiles of this side, px;
                default 512. Rounded up to what the poolings of the network need.
            overlap: least overlap of tiles, px; default a quarter of `tile`.
            diameter: typical diameter of the cells, px, for a model that knows its own; None to
                estimate it from the image.

        Returns:
            `[H, W]` float32, probability of "neuron", 0 to 1.

        Raises:
            RecordingError: if it is not a 2-D array of real numbers, or several differ in shape.
            ConfigError: if tile and overlap do not fit together, or the diameter is of no use.
        """
        if self.diameter_px is None and diameter is not None:
            raise ConfigError(
                "diameter is of no use to this model: it does not know the size of the cells that "
                "it was trained on, and takes images as they are"
            )
        normal, zoom = [self.normalize(one) for one in list_images(image)], 1.0
        shape = (normal[0].shape[0], normal[0].shape[1])
        if self.diameter_px is not None:
            found = self._estimate(normal[0], self.diameter_px) if diameter is None else diameter
            zoom = choose_zoom(found, self.diameter_px)
        settings = {"tta": self.tta if tta is None else tta, "tile": tile, "overlap": overlap}
        zoomed = (resample_image(one, zoomed_shape(shape, zoom)) for one in normal)
        probability = functools.reduce(
            np.maximum, (self._probability(one, **settings) for one in zoomed)
        )
        return probability if zoom == 1 else resample_image(probability, shape)

    def predict_maps(self, image: Any, **settings: Any) -> dict[str, np.ndarray]:
        """Return what `predict` does, `[H, W]` float32, as the map "probability"."""
        return {"probability": self.predict(image, **settings)}

    def segment(
        self,
        image: Any,
        *,
        threshold: float | None = None,
        min_confidence: float | None = None,
        um_per_px: float | None = None,
        diameter: float | None = None,
        **settings: Any,
    ) -> "Rois":
        """Find separate neurons in an image, as `fluxseg predict` does.

        Args:
            image: see `predict`; no neuron is found where it is not finite.
            threshold: least probability of a neuron pixel; None for the model's own.
            min_confidence: least confidence of a neuron; None for the model's own.
            um_per_px: size of a pixel, um; None if it is not known, or that of the training.
            diameter: see `predict`.
            settings: `tta`, `tile` and `overlap` of `predict`.

        Returns:
            The neurons; see `find_rois`.

        Raises:
            RecordingError: see `predict`.
            ConfigError: naming the setting that is out of its range.
        """
        chosen = (threshold, min_confidence, um_per_px, diameter)
        return self.find_neurons(image, *chosen, **settings).rois

    def find_neurons(
        self,
        image: Any,
        threshold: float | None = None,
        min_confidence: float | None = None,
        um_per_px: float | None = None,
        diameter: float | None = None,
        **settings: Any,
    ) -> Segmentation:
        """Do as `segment` does, and return the maps and the diameter of the cells besides."""
        # Imported here, as separating cells takes long to import and training needs none of it.
        from fluxseg.inference.objects.rois import find_rois

        images = list_images(image)
        diameter = self.find_diameter(images[0]) if diameter is None else diameter
        maps = self.predict_maps(image, diameter=diameter, **settings)
        rois = find_rois(
            # Pixels that are not finite lie outside of the field: no neuron is found there.
            np.where(np.isfinite(images).any(0), maps["probability"], np.float32(np.nan)),
            threshold=self.threshold if threshold is None else threshold,
            min_confidence=self.min_confidence if min_confidence is None else min_confidence,
            um_per_px=um_per_px or self.um_per_px,
            diameter=diameter,
        )
        return Segmentation(rois, maps, diameter)

    def find_diameter(self, image: Any) -> float | None:
        """Estimate the typical diameter of the cells in an image `[H, W]` (`estimate_diameter`).

        Returns:
            Diameter, px: that of the training if too few cells are found; None if the model does
            not know its own.

        Raises:
            RecordingError: if it is not a 2-D array of real numbers.
        """
        if self.diameter_px is None:
            return None
        return self._estimate(self.normalize(image), self.diameter_px)

    def _estimate(self, normal: np.ndarray, trained_px: float) -> float:
        # Imported here, as separating cells takes long to import and training needs none of it.
        from fluxseg.inference.scale import estimate_diameter

        found = estimate_diameter(self._probability, normal, trained_px, self.threshold)
        return trained_px if found is None else found

    def normalize(self, image: Any) -> np.ndarray:
        """Scale an image `[H, W]` as those of the training were, to float32 (`normalize_image`).

        Raises:
            RecordingError: if it is not a 2-D array of real numbers.
        """
        image = np.asarray(image)
        check_image(image)
        return normalize_image(image, self.low_percentile, self.high_percentile)

    def _probability(self, normal: np.ndarray, **settings: Any) -> np.ndarray:
        return predict_probability(
            functools.partial(network_probability, self.config),
            self.params,
            normal,
            multiple=self.side_multiple,
            temperature=self.temperature,
            **settings,
        )


def create_predictor(
    state: "TrainState",
    config: Config,
    threshold: float = 0.5,
    info: Mapping[str, Any] | None = None,
    um_per_px: float | None = None,
) -> Predictor:
    """Create the predictor of a trained state (its `eval_params`); see `Predictor` for the rest.

    `um_per_px` is left out with `config.data.diameter_px`.
    """
    diameter = config.data.diameter_px or None
    return Predictor(
        config=config.model,
        params=state.eval_params,
        low_percentile=config.data.low_percentile,
        high_percentile=config.data.high_percentile,
        threshold=threshold,
        tile=config.data.tile,
        um_per_px=um_per_px if diameter is None else None,
        info=dict(info or {}),
        diameter_px=diameter,
    )


def pooling_stride(config: ModelConfig) -> int:
    """Pixels of the image beneath one pixel of the coarsest level of the network."""
    return config.stem * 2 ** (len(config.features) - 1)
