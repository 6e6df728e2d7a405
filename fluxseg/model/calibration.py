"""Does a probability of 0.7 mean 7 of 10? Reliability of probabilities, and a temperature for it.

Everything is computed from counts of pixels by true class and log-odds, which add up over batches
and are small whatever the number of pixels: one pass over the data serves the reliability before
and after any temperature, and every threshold.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.errors import FluxsegError
from fluxseg.model.metrics import draw_groups, percentile_interval
from fluxseg.model.score_names import CALIBRATION_SCORES

BINS = 15
"""Bins of equal width of the reliability curve, as in Guo et al. 2017."""
LEVELS_PER_UNIT = 64
"""Levels of the histogram in a unit of log-odds: a probability is known to 1/256 at worst."""
LIMIT = 16
"""Log-odds beyond it are counted at it: a probability of 1e-7 or less, or of its complement."""
LEVELS = 2 * LIMIT * LEVELS_PER_UNIT
TEMPERATURES = (0.1, 10.0)
"""Least and largest temperature that is fitted."""
EDGES = np.arange(LEVELS) / LEVELS_PER_UNIT - LIMIT
"""`[LEVELS]` float64, lowest log-odds of each level."""
_CENTRES = EDGES + 0.5 / LEVELS_PER_UNIT


def log_odds_histogram(log_odds: jax.Array, label: jax.Array, valid: jax.Array) -> jax.Array:
    """Count the valid pixels of each example by true class and log-odds.

    Args:
        log_odds: `[B, H, W]` float32, log of the probability of "neuron" over that of the rest.
        label: `[B, H, W]` integer, above 0 is neuron.
        valid: `[B, H, W]`, bool or number; pixels of 0 are not counted.

    Returns:
        `[B, 2, LEVELS]` int32; row 0 counts background, row 1 neuron; see `EDGES`. Add up batches
        in int64.
    """
    # Scaled before it is shifted: the product with a power of two is exact, so 0 is an exact edge.
    level = jnp.floor(log_odds * LEVELS_PER_UNIT).astype(jnp.int32) + LIMIT * LEVELS_PER_UNIT
    cell = jnp.where(label > 0, LEVELS, 0) + jnp.clip(level, 0, LEVELS - 1)
    cell = jnp.where(valid > 0, cell, 2 * LEVELS).reshape(len(log_odds), -1)
    counts = jax.vmap(lambda row: jnp.bincount(row, length=2 * LEVELS + 1))(cell)
    return counts[:, : 2 * LEVELS].reshape(-1, 2, LEVELS).astype(jnp.int32)


def probability_edges(temperature: float = 1.0) -> np.ndarray:
    """Return the least tempered probability of each level of a histogram, `[LEVELS]` float64."""
    return np.asarray(_sigmoid(EDGES / temperature))


def fit_temperature(histogram: np.ndarray) -> float:
    """Fit the temperature that makes the probabilities of labelled pixels most likely.

    The log-odds are divided by one number, which changes no order and so no mask at the matching
    threshold: temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks",
    ICML, section 4.2), for two classes the same as dividing their logits. The mean negative
    log-likelihood is convex in 1 / temperature and is minimised by Brent's bounded method, at the
    centres of the levels.

    Args:
        histogram: `[2, LEVELS]` integer, see `log_odds_histogram`, of validation pixels; else
            `FluxsegError`.

    Returns:
        Temperature within `TEMPERATURES`; above 1 the network was too sure of itself. 1 if there
        are not both classes to learn it from.
    """
    counts = _check_histogram(histogram, 2).astype(np.float64)
    if not counts.any(1).all():
        return 1.0
    from scipy.optimize import minimize_scalar

    shares = counts / counts.sum()
    found = minimize_scalar(
        lambda log_temperature: float(
            _sum_likelihood(shares[0], shares[1], math.exp(log_temperature))
        ),
        bounds=tuple(map(math.log, TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(math.exp(found.x))


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilitySums:
    """Sums over pixels from which all figures follow; all may have leading axes in common."""

    pixels: np.ndarray  # `[..., BINS]` pixels whose probability lies in each bin
    neurons: np.ndarray  # `[..., BINS]` those of them that are neuron
    probability: np.ndarray  # `[..., BINS]` sum of their probabilities
    squares: np.ndarray  # `[...]` sum over all pixels of (probability - truth)^2
    nll: np.ndarray  # `[...]` sum over all pixels of the negative log-likelihood, nats

    def weighted(self, weights: np.ndarray) -> "ReliabilitySums":
        """Add up the first axis with weights `[S, G]`, or `[G]`."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return ReliabilitySums(*(np.tensordot(weights, value, 1) for value in values))


def sum_reliability(histogram: np.ndarray, temperature: float = 1.0) -> ReliabilitySums:
    """Sort the pixels of a histogram into bins of their tempered probability.

    A pixel counts with the probability at the centre of its level.

    Args:
        histogram: `[..., 2, LEVELS]` integer, see `log_odds_histogram`; else `FluxsegError`.
        temperature: what log-odds are divided by.

    Returns:
        The sums, with the leading axes of the histogram.
    """
    counts = _check_histogram(histogram)
    probability = _sigmoid(_CENTRES / temperature)
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    member = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    background, neurons = counts[..., 0, :].astype(float), counts[..., 1, :].astype(float)
    pixels = background + neurons
    return ReliabilitySums(
        pixels=pixels @ member,
        neurons=neurons @ member,
        probability=(pixels * probability) @ member,
        squares=background @ probability**2 + neurons @ (1 - probability) ** 2,
        nll=_sum_likelihood(background, neurons, temperature),
    )


def calibration_scores(sums: ReliabilitySums) -> dict[str, np.ndarray]:
    """Compute how far probabilities are from shares; NaN without a pixel.

    - `ece`, expected calibration error: mean over pixels of |mean probability - share of neuron
      pixels| of their bin (Guo et al. 2017, for the class "neuron" instead of the winning one)
    - `mce`, maximum calibration error: the largest of these differences
    - `brier`: mean of (probability - truth)^2 (Brier 1950)
    - `nll`: mean negative log-likelihood, nats

    Each is an array with the leading axes of the sums.
    """
    total = sums.pixels.sum(-1)
    gaps = np.abs(_ratio(sums.probability - sums.neurons, sums.pixels))
    filled = np.where(np.isnan(gaps), 0, gaps)
    return {
        "ece": _ratio((filled * sums.pixels).sum(-1), total),
        "mce": np.where(total > 0, filled.max(-1), np.nan),
        "brier": _ratio(sums.squares, total),
        "nll": _ratio(sums.nll, total),
    }


def reliability_curve(sums: ReliabilitySums) -> list[dict[str, float | int | None]]:
    """Return the reliability curve of sums without leading axes as plain values, a row for a bin.

    A row has the edges `low` and `high`, the `pixels`, their mean probability `confidence` and the
    `share` of neuron among them; both are None in an empty bin.
    """
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "pixels": int(pixels),
            "confidence": float(total / pixels) if pixels else None,
            "share": float(neurons / pixels) if pixels else None,
        }
        for number, (pixels, total, neurons) in enumerate(
            zip(sums.pixels, sums.probability, sums.neurons, strict=True)
        )
    ]


def bootstrap_calibration(
    sums: ReliabilitySums, rng: np.random.Generator, samples: int = 2000, confidence: float = 0.95
) -> dict[str, list[float] | None]:
    """Percentile intervals of the figures by resampling groups of recordings.

    As `fluxseg.model.metrics.bootstrap_intervals`. A calibration error is never below 0 and grows
    with chance, so its interval lies somewhat too high where there are few pixels.

    The first axis of the sums are the groups, in the order of their names.

    Returns:
        [low, high] for each name of `calibration_scores`; None with fewer than two groups.
    """
    groups = len(sums.pixels)
    if groups < 2:
        return dict.fromkeys(score.name for score in CALIBRATION_SCORES)
    scores = calibration_scores(sums.weighted(draw_groups(groups, rng, samples).astype(float)))
    intervals = {name: percentile_interval(v, confidence) for name, v in scores.items()}
    return {name: list(pair) if pair else None for name, pair in intervals.items()}


def _check_histogram(histogram: Any, dimensions: int | None = None) -> np.ndarray:
    counts = np.asarray(histogram)
    if counts.shape[-2:] != (2, LEVELS) or dimensions not in (None, counts.ndim):
        raise FluxsegError(f"a histogram must be [2, {LEVELS}], got {list(counts.shape)}")
    if counts.dtype.kind not in "iu":
        raise FluxsegError(f"a histogram must hold integers, got dtype {counts.dtype}")
    return counts.astype(np.int64)


def _sum_likelihood(background: np.ndarray, neurons: np.ndarray, temperature: float) -> np.ndarray:
    scaled = _CENTRES / temperature
    return background @ np.logaddexp(0, scaled) + neurons @ np.logaddexp(0, -scaled)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, float), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
