"""Tables of experiments: means and deviations over seeds, in Markdown."""

from collections.abc import Iterable

import numpy as np


def describe(values: Iterable[float]) -> str:
    """Return mean and standard deviation of one value for each seed; nothing if there is none."""
    array = np.array(list(values))
    if not array.size:
        return ""
    spread = f" ± {array.std(ddof=1):.3f}" if len(array) > 1 else ""
    return f"{array.mean():.3f}{spread}"
