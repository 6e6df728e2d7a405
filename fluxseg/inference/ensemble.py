"""Several models on one image: their mean, and where they disagree.

Networks from different random starts err in different places: their mean is a better probability
than that of one, and their disagreement says where not to trust it (Lakshminarayanan et al.,
"Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Models that predict together, a `fluxseg.inference.segment.Model` as each of them."""

    # Two or more, with one diameter of cells (`Predictor.diameter_px`).
    models: tuple[Predictor, ...]

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError("an ensemble needs two or more models")
        if len({model.diameter_px for model in self.models}) > 1:
            raise ConfigError(
                "the models of an ensemble must bring images to one size of cells; these do not"
            )

    @property
    def threshold(self) -> float:
        """Mean of the thresholds that were chosen for the models."""
        return float(np.mean([model.threshold for model in self.models]))

    @property
    def min_confidence(self) -> float:
        """Mean of the least confidences that were chosen for the models."""
        return float(np.mean([model.min_confidence for model in self.models]))

    @property
    def tta(self) -> bool:
        """Whether one of the models averages over flips and rotations unless told otherwise."""
        return any(model.tta for model in self.models)

    @property
    def diameter_px(self) -> float | None:
        """See `Predictor`."""
        return self.models[0].diameter_px

    @property
    def um_per_px(self) -> float | None:
        """Size of the pixels that all were trained on, um; None if it is not one."""
        sizes = {model.um_per_px for model in self.models}
        return self.models[0].um_per_px if len(sizes) == 1 else None

    @property
    def params(self) -> list[Any]:
        """Parameters of each model."""
        return [model.params for model in self.models]

    def find_diameter(self, image: Any) -> float | None:
        """See `Predictor.find_diameter`; the first model tells."""
        return self.models[0].find_diameter(image)

    def predict_maps(self, image: Any, **settings: Any) -> dict[str, np.ndarray]:
        """Return mean ("probability") and standard deviation ("std") of what the models predict.

        Both are `[H, W]` float32, 0 to 1 and 0 to 0.5; see `Predictor.predict` for the rest.
        """
        members = np.stack([model.predict(image, **settings) for model in self.models])
        mean, std = members.mean(0, dtype=np.float64), members.std(0, dtype=np.float64)
        return {"probability": mean.astype(np.float32), "std": std.astype(np.float32)}


def load_models(paths: Sequence[str | Path]) -> Predictor | Ensemble:
    """Load one model, or several as an ensemble; each path as for `load_model`.

    Raises `ConfigError` if there is none, or one comes twice; and `FluxsegError`, naming the path,
    if it holds no model.
    """
    if not paths:
        raise ConfigError("give at least one model")
    whole = [Path(path).resolve() for path in paths]
    for path, resolved in zip(paths, whole, strict=True):
        if whole.count(resolved) > 1:
            raise ConfigError(f"{path} is named twice; an ensemble needs different models")
    models = tuple(load_model(path) for path in paths)
    return models[0] if len(models) == 1 else Ensemble(models)
