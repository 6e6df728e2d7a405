"""Confusion matrices on the device, exact totals and scores on the host.

All scores come from pixel counts pooled over every example; a mean of batch means would depend
on the batch size. Counts are int32 per call on the device and int64 on the host: float32 stops
counting at 2^24, int32 at 2^31.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.errors import FluxsegError
from fluxseg.model.score_names import PIXEL_SCORES

SCORE_NAMES = tuple(score.name for score in PIXEL_SCORES)
MAX_PIXELS = 2**31 - 1


def confusion_per_example(
    label: jax.Array, prediction: jax.Array, valid: jax.Array, num_classes: int = 2
) -> jax.Array:
    """Count the valid pixels of each example by true and predicted class.

    Args:
        label: `[B, H, W]` integer, the true classes; where valid, 0 to `num_classes` - 1 (other
            values are in no row).
        prediction: `[B, H, W]` integer, the predicted classes.
        valid: `[B, H, W]`, bool or number; pixels of 0 are not counted.
        num_classes: C.

    Returns:
        `[B, C, C]` int32: rows are the truth, columns the prediction.

    Raises:
        FluxsegError: if the shapes differ or one call has 2^31 pixels or more.
    """
    if not label.shape == prediction.shape == valid.shape:
        shapes = ", ".join(str(list(a.shape)) for a in (label, prediction, valid))
        raise FluxsegError(f"label, prediction and valid must have one shape, got {shapes}")
    if label.size > MAX_PIXELS:
        raise FluxsegError(
            f"{label.size} pixels in one confusion matrix, int32 counts up to {MAX_PIXELS}; "
            "use smaller batches and add their matrices"
        )
    # Comparing and summing takes about as long as a histogram on CPUs, needs no atomic additions
    # on GPUs, and is summed over devices like any other sum.
    inside = valid > 0
    cells = [
        jnp.sum(inside & (label == row) & (prediction == column), axis=(-2, -1), dtype=jnp.int32)
        for row in range(num_classes)
        for column in range(num_classes)
    ]
    return jnp.stack(cells, axis=-1).reshape(*label.shape[:-2], num_classes, num_classes)


def confusion_matrix(
    label: jax.Array, prediction: jax.Array, valid: jax.Array, num_classes: int = 2
) -> jax.Array:
    """Count the valid pixels of a batch by true and predicted class.

    Arguments and errors as of `confusion_per_example`.

    Returns:
        `[C, C]` int32: rows are the truth, columns the prediction.
    """
    return confusion_per_example(label, prediction, valid, num_classes).sum(axis=0, dtype=jnp.int32)


def scores_from_confusion(confusion: Any) -> dict[str, Any]:
    """Pixel scores of confusion matrices; "neuron" is class 1.

    One definition for device and host: it runs under `jax.jit` and `jax.vmap` in float32, and with
    NumPy arrays in float64. With TN, FP, FN, TP the cells of the matrix, row by row:

    - `neuron_iou` = TP / (TP + FP + FN), `background_iou` = TN / (TN + FP + FN)
    - `macro_iou` = mean of the two
    - `dice` = 2 TP / (2 TP + FP + FN), of the neurons (also called F1)
    - `precision` = TP / (TP + FP), `recall` = TP / (TP + FN)
    - `accuracy` = (TN + TP) / all

    Args:
        confusion: `[..., 2, 2]` integer, rows are the truth, columns the prediction.

    Returns:
        For each name of `SCORE_NAMES` an array `[...]` of the same library, and a float for one
        matrix of NumPy; 0/0 is NaN, such as the recall where no pixel is neuron.

    Raises:
        FluxsegError: if the matrices are of another form.
    """
    on_device = isinstance(confusion, jax.Array)
    xp: Any = jnp if on_device else np
    # Sums of counts may exceed what their integers hold, so they are taken in floating point.
    counts = _check_binary(confusion).astype(np.float32 if on_device else np.float64)
    tn, fp, fn, tp = (counts[..., row, column] for row in (0, 1) for column in (0, 1))

    def ratio(part: Any, whole: Any) -> Any:
        return xp.where(whole > 0, part / xp.where(whole > 0, whole, 1), np.nan)

    neuron, background = ratio(tp, tp + fp + fn), ratio(tn, tn + fp + fn)
    values = (
        (neuron + background) / 2,
        neuron,
        background,
        ratio(2 * tp, 2 * tp + fp + fn),
        ratio(tp, tp + fp),
        ratio(tp, tp + fn),
        ratio(tn + tp, tn + fp + fn + tp),
    )
    one = counts.ndim == 2 and not on_device
    named = zip(SCORE_NAMES, values, strict=True)
    return {name: float(value) if one else value for name, value in named}


@dataclasses.dataclass(frozen=True, eq=False)
class Totals:
    """Sums over any number of batches, from which loss and scores are computed once."""

    loss_sum: float = 0.0  # sum of weight times loss
    weight_sum: float = 0.0  # sum of weights
    # `[C, C]` int64, rows are the truth, columns the prediction.
    confusion: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 2), np.int64))

    @classmethod
    def from_device(cls, loss_sum: Any, weight_sum: Any, confusion: Any) -> "Totals":
        """Fetch what one step returned: two scalars and a `[C, C]` integer matrix."""
        counts = np.asarray(confusion)
        if counts.dtype.kind not in "iu":
            raise FluxsegError(f"confusion must hold integers, got dtype {counts.dtype}")
        return cls(float(loss_sum), float(weight_sum), counts.astype(np.int64))

    def merge(self, other: "Totals") -> "Totals":
        """Add two totals."""
        return Totals(
            self.loss_sum + other.loss_sum,
            self.weight_sum + other.weight_sum,
            self.confusion + other.confusion,
        )

    @property
    def mean_loss(self) -> float:
        """Weighted mean of the loss; NaN if nothing was summed."""
        return self.loss_sum / self.weight_sum if self.weight_sum else float("nan")

    def scores(self) -> dict[str, float]:
        """Scores as of `scores_from_confusion`, for two classes."""
        return scores_from_confusion(self.confusion)

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` restores these totals to the last bit."""
        return {
            "loss_sum": self.loss_sum,
            "weight_sum": self.weight_sum,
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Totals":
        """Build totals from what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: if the values are something else.
        """
        confusion = np.array(values["confusion"], np.int64)
        return cls(float(values["loss_sum"]), float(values["weight_sum"]), confusion)


def bootstrap_intervals(
    confusions: np.ndarray,
    groups: Sequence[str],
    rng: np.random.Generator,
    samples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of the pooled scores by resampling groups of recordings.

    Recordings of one group show the same tissue and are no independent evidence, so whole groups
    are drawn with replacement (cluster bootstrap; Davison and Hinkley, "Bootstrap Methods and
    their Application", 1997, section 3.8). Each sample's counts are pooled, then scored.

    Args:
        confusions: `[R, 2, 2]` integer, one matrix per recording.
        groups: `[R]`, the group of each recording; their order does not matter.
        rng: source of the draws: `rng.integers(G, size=(samples, G))`, G groups by sorted name.
        samples: number of samples.
        confidence: share of the samples inside the interval.

    Returns:
        (low, high) per name of `SCORE_NAMES`; None with fewer than two groups, or if a score is
        undefined in every sample (samples in which it is undefined are left out).

    Raises:
        FluxsegError: if `confusions` and `groups` do not fit together.
    """
    confusions = _check_binary(confusions).astype(np.int64)
    if confusions.ndim != 3:
        raise FluxsegError(f"confusions must be [R, 2, 2], got {list(confusions.shape)}")
    if len(groups) != len(confusions):
        raise FluxsegError(f"{len(groups)} groups for {len(confusions)} confusion matrices")
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(SCORE_NAMES)
    pooled = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(pooled, index, confusions)
    times = draw_groups(len(names), rng, samples)
    scores = scores_from_confusion((times @ pooled.reshape(-1, 4)).reshape(-1, 2, 2))
    return {name: percentile_interval(values, confidence) for name, values in scores.items()}


def plain_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Replace what is not finite, which JSON does not have, by None."""
    return {name: float(v) if np.isfinite(v) else None for name, v in scores.items()}


def draw_groups(count: int, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Draw groups with replacement, as many as there are, for a bootstrap.

    Returns `[samples, count]` int64, how often each group is in each sample.
    """
    draws = rng.integers(count, size=(samples, count))
    times = np.zeros((samples, count), np.int64)
    np.add.at(times, (np.arange(samples)[:, None], draws), 1)
    return times


def percentile_interval(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Return the percentile interval of bootstrap samples; NaN are left out, None if all are."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _check_binary(confusion: Any) -> Any:
    array = confusion if isinstance(confusion, jax.Array) else np.asarray(confusion)
    if array.shape[-2:] != (2, 2):
        raise FluxsegError(f"confusion must be [..., 2, 2], got {list(array.shape)}")
    if array.dtype.kind not in "iu":
        raise FluxsegError(f"confusion must hold integers, got dtype {array.dtype}")
    return array
