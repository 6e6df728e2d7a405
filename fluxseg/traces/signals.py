"""From fluorescence to activity: baseline, dF/F, noise, and spikes.

Defaults are those of Suite2p 1.1.0, against whose code baseline and spikes are checked.
"""

import numpy as np
from scipy import ndimage

WINDOW_S = 60.0  # length of the windows of the baseline, s
SMOOTH_FRAMES = 10.0  # standard deviation of the smoothing before, frames
LEAST_SHARE = 0.1  # least divisor of dF/F, relative to the mean fluorescence of the ROI


def find_baseline(traces: np.ndarray, rate: float) -> np.ndarray:
    """Estimate the baseline of traces `[N, T]` at a rate in Hz, `[N, T]` float32.

    It is the running maximum of the running minimum, smoothed before.
    """
    window = int(WINDOW_S * rate) | 1
    smooth = ndimage.gaussian_filter1d(
        traces.astype(np.float32), SMOOTH_FRAMES, truncate=3.0, mode="nearest"
    )
    lowest = ndimage.minimum_filter1d(smooth, window, mode="nearest")
    return ndimage.maximum_filter1d(lowest, window, mode="nearest")


def relative_change(
    corrected: np.ndarray, baseline: np.ndarray, brightness: np.ndarray
) -> np.ndarray:
    """Compute dF/F = (F - F0) / F0, `[N, T]` float32; 0 for a ROI that is dark throughout.

    F, `[N, T]`, is the fluorescence less its neuropil, F0 its baseline. As a divisor F0 is at least
    `LEAST_SHARE` of the brightness `[N]`, the mean fluorescence of each ROI with its neuropil:
    where hardly anything but neuropil is seen, F0 is near 0.
    """
    least = LEAST_SHARE * np.abs(brightness)[:, None]
    divisor = np.maximum(baseline, least)
    change = corrected - baseline
    return np.divide(change, divisor, out=np.zeros_like(change), where=divisor > 0)


def measure_noise(dff: np.ndarray, rate: float) -> np.ndarray:
    """Measure the noise `[N]` of dF/F `[N, T]`, percent per root of Hz; 0 with a single frame.

    The median of the absolute difference of successive frames, divided by the root of the rate in
    Hz (P. Rupprecht et al., Nature Neuroscience 24 (2021), 1324).
    """
    if dff.shape[1] < 2:
        return np.zeros(len(dff))
    steps = np.abs(np.diff(dff, axis=1))
    return 100 * np.median(steps, axis=1).astype(np.float64) / np.sqrt(rate)


def describe_traces(corrected: np.ndarray) -> dict[str, np.ndarray]:
    """Measure `skew`, `std` and `snr` `[N]` float64 of traces `[N, T]` as Suite2p does.

    `snr` is 1 less half of the variance of the steps over the variance: 0 for white noise.
    """
    values = corrected.astype(np.float64)
    away = values - values.mean(1, keepdims=True)
    variance = (away**2).mean(1)
    moving = variance > 1e-12 * np.maximum((values**2).mean(1), 1e-300)
    scale = np.where(moving, variance, 1)
    skew = np.where(moving, (away**3).mean(1) / scale**1.5, 0)
    steps = np.diff(values, axis=1).var(1) if values.shape[1] > 1 else variance
    return {
        "skew": skew,
        "std": np.where(moving, np.sqrt(variance), 0),
        "snr": np.where(moving, 1 - 0.5 * steps / scale, 0),
    }


def deconvolve(changes: np.ndarray, rate: float, tau: float) -> np.ndarray:
    """Estimate spikes by OASIS: non-negative, exponential decay, no penalty.

    J. Friedrich, P. Zhou, L. Paninski, PLOS Computational Biology 13 (2017), e1005423, algorithm 1
    with a penalty of 0. As in Suite2p, the first frame has no spike.

    `changes` `[N, T]` are the fluorescence less neuropil and baseline, at a rate in Hz; `tau` is
    the decay time of the indicator, s. Returns `[N, T]` float32, 0 or more, in their units.
    """
    decay = np.exp(-1 / (tau * rate))
    spikes = np.zeros(changes.shape, np.float32)
    for row, trace in zip(spikes, changes.astype(np.float64).tolist(), strict=True):
        # Pools: value at the start, weight, first frame, and decay over the length.
        values: list[float] = []
        weights: list[float] = []
        starts: list[int] = []
        fades: list[float] = []
        for frame, value in enumerate(trace):
            weight, start, fade = 1.0, frame, decay
            while values and values[-1] * fades[-1] > value:
                before, earlier = fades.pop(), weights.pop()
                total = earlier + weight * before**2
                value = (values.pop() * earlier + value * weight * before) / total
                weight, start, fade = total, starts.pop(), before * fade
            values.append(value)
            weights.append(weight)
            starts.append(start)
            fades.append(fade)
        heights = np.array(values)
        row[starts[1:]] = heights[1:] - heights[:-1] * np.array(fades[:-1])
    return spikes
