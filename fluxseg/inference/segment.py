"""The neurons of an image, found by one network or by several: the same way everywhere."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from fluxseg.inference.objects.rois import Rois


class Model(Protocol):
    """What one network (`Predictor`) and several (`Ensemble`) have in common."""

    @property
    def threshold(self) -> float:
        """Least probability of a neuron pixel."""

    @property
    def min_confidence(self) -> float:
        """Least confidence of a neuron."""

    @property
    def um_per_px(self) -> float | None:
        """Size of the pixels of the training, um."""

    @property
    def diameter_px(self) -> float | None:
        """Diameter of the cells that images are brought to, px."""

    @property
    def tta(self) -> bool:
        """Whether it averages over flips and rotations unless told otherwise."""

    def find_diameter(self, image: Any) -> float | None:
        """Estimate the diameter of the cells in an image `[H, W]`, px."""

    def predict_maps(self, image: Any, **settings: Any) -> dict[str, np.ndarray]:
        """Return maps `[H, W]` float32: "probability", and "std" of several networks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model finds in an image."""

    rois: "Rois"  # the neurons
    # `[H, W]` float32 by name: "probability" of neuron, and "std" of several networks.
    maps: Mapping[str, np.ndarray]
    # Of the cells, px, given or estimated; None for a model that does not know its own.
    diameter: float | None

    @property
    def probability(self) -> np.ndarray:
        """Probability of "neuron", `[H, W]` float32."""
        return self.maps["probability"]


def find_neurons(
    model: Model,
    image: Any,
    *,
    threshold: float | None = None,
    min_confidence: float | None = None,
    um_per_px: float | None = None,
    diameter: float | None = None,
    **settings: Any,
) -> Segmentation:
    """Find the neurons of an image; see `Predictor.segment` for arguments and errors.

    Pixels that are not finite lie outside of the field: no neuron is found there.
    """
    # Imported here, as separating cells takes long to import and training needs none of it.
    from fluxseg.inference.objects.rois import find_rois

    diameter = model.find_diameter(image) if diameter is None else diameter
    maps = model.predict_maps(image, diameter=diameter, **settings)
    rois = find_rois(
        np.where(np.isfinite(image), maps["probability"], np.float32(np.nan)),
        threshold=model.threshold if threshold is None else threshold,
        min_confidence=model.min_confidence if min_confidence is None else min_confidence,
        um_per_px=um_per_px or model.um_per_px,
        diameter=diameter,
    )
    return Segmentation(rois, maps, diameter)
