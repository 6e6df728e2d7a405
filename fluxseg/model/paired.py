"""Is one run better than another on the same recordings, or is it chance?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.errors import FluxsegError
from fluxseg.model.metrics import draw_groups, percentile_interval


def paired_difference(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    groups: Mapping[str, str],
    rng: np.random.Generator,
    samples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare a score of two runs recording by recording.

    What makes a recording easy or hard makes it so for both runs, so their differences vary less
    than the scores do. Their mean gets a percentile interval by resampling whole groups, as
    recordings of one group are no independent evidence (see `bootstrap_intervals`).

    Args:
        first: recording -> score; None where undefined.
        second: the same of the other run; recordings that are not in both are passed over.
        groups: recording -> group.
        rng: source of the draws.
        samples: number of samples.
        confidence: share of the samples inside the interval.

    Returns:
        Plain values: `mean` of second minus first (None without a recording), `interval` (None
        with fewer than two groups), `better` and `worse`, in how many recordings the second is,
        `n_recordings` and `n_groups` that count, and `differences`, recording -> difference.

    Raises:
        FluxsegError: if a recording has no group.
    """
    differences = {
        key: float(second[key] - value)  # type: ignore[operator]
        for key, value in sorted(first.items())
        if value is not None and second.get(key) is not None
    }
    if missing := sorted(set(differences) - set(groups)):
        raise FluxsegError(f"the recording {missing[0]!r} has no group")
    values = np.array(list(differences.values()))
    names, index = np.unique(
        np.array([groups[key] for key in differences], dtype=str), return_inverse=True
    )
    interval = None
    if len(names) >= 2:
        times = draw_groups(len(names), rng, samples)
        means = (times @ np.bincount(index, values)) / (times @ np.bincount(index))
        interval = list(percentile_interval(means, confidence) or ())
    return {
        "mean": float(values.mean()) if len(values) else None,
        "interval": interval,
        "better": int((values > 0).sum()),
        "worse": int((values < 0).sum()),
        "n_recordings": len(values),
        "n_groups": len(names),
        "differences": differences,
    }
