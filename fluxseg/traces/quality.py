"""What makes the traces of a movie doubtful: motion, saturation, lost frames, fading light."""

import dataclasses

import numpy as np
from scipy import ndimage

from fluxseg.data.transforms import crop_middle

MOST_SHIFT_PX = 1.5  # blocks further away from the mean image look unregistered
MOST_DRIFT = 0.2  # the light fades or drifts if its first and last tenth differ by more
LEAST_SATURATED = 1e-4  # pixels at one largest value, as a share, that are no chance
_BLOCKS = 24
_SIDE = 512
_STEP = 4


@dataclasses.dataclass
class MovieCheck:
    """Collects what `find_doubts` judges, from the frames in their order."""

    frames: int  # how many there will be
    # Mean of each frame, of every fourth pixel along both sides.
    brightness: list[np.ndarray] = dataclasses.field(default_factory=list)
    lost: int = 0  # frames of one value throughout, or like the one before
    # Means of some blocks of frames, spread evenly; their middle `[h, w]`.
    blocks: list[np.ndarray] = dataclasses.field(default_factory=list)
    _done: int = 0
    _last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """Take note of the frames `[T, H, W]` that follow."""
        some = np.ascontiguousarray(frames[:, ::_STEP, ::_STEP])
        finite = some if some.dtype.kind != "f" else np.nan_to_num(some)
        self.brightness.append(finite.mean((1, 2), dtype=np.float64))
        before = np.concatenate([some[:1] if self._last is None else self._last[None], some[:-1]])
        alike = (some == before).all((1, 2))
        alike[0] &= self._last is not None
        blank = (some == some[:, :1, :1]).all((1, 2)) | ~np.isfinite(some).any((1, 2))
        self.lost += int((alike | blank).sum())
        if self._done * _BLOCKS >= len(self.blocks) * self.frames:
            self.blocks.append(crop_middle(frames.mean(0, dtype=np.float64), _SIDE))
        self._done += len(frames)
        self._last = some[-1].copy()


def find_doubts(check: MovieCheck, mean: np.ndarray, largest: np.ndarray) -> list[str]:
    """Say in remarks what is doubtful about a movie, by its mean and maximum `[H, W]`."""
    doubts = []
    brightness = np.concatenate([np.zeros(0), *check.brightness])
    count = len(brightness)
    if count < 10:
        doubts.append(f"{count} frames are too few for a baseline or noise that mean anything")
    missing = ~np.isfinite(mean)
    if missing.any():
        doubts.append(f"{missing.mean():.1%} of the pixels are never finite: outside of the field")
    if check.lost:
        doubts.append(
            f"{check.lost} of {count} frames ({check.lost / max(count, 1):.1%}) look lost: of one "
            "value, or the same as the frame before"
        )
    if largest.dtype.kind in "iu" and largest.max() > mean.min():
        saturated = int((largest == largest.max()).sum())
        if saturated > max(LEAST_SATURATED * largest.size, 20):
            share = saturated / largest.size
            doubts.append(f"{share:.2%} of the pixels reach {largest.max()}: saturated")
    tenth = max(count // 10, 1)
    if count >= 10:
        first, last = np.median(brightness[:tenth]), np.median(brightness[-tenth:])
        change = (last - first) / abs(first) if first else 0.0
        if abs(change) > MOST_DRIFT:
            doubts.append(
                f"the mean brightness changes by {change:+.0%} from the first to the last tenth"
            )
    shifts = measure_shifts(check.blocks, mean)
    far = np.hypot(*shifts.T)
    if (far > MOST_SHIFT_PX).sum() >= 2:
        y, x = shifts[far.argmax()]
        doubts.append(
            f"looks unregistered: blocks of frames are shifted by up to {far.max():.1f} px "
            f"({y:+.1f} down, {x:+.1f} right) against the mean; register it first (Suite2p)"
        )
    return doubts


def measure_shifts(blocks: list[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Measure how far means of N blocks (see `MovieCheck`) are shifted against that of the movie.

    Returns `[N, 2]`, down and right, px, in tenths; without blocks that are empty.
    """
    from skimage.registration import phase_cross_correlation  # slow to import

    reference = _prepare(crop_middle(mean, _SIDE))
    # What is empty is shifted by nothing.
    shown = [block for block in map(_prepare, blocks) if block.any() and reference.any()]
    shifts = [
        phase_cross_correlation(reference, block, upsample_factor=10, normalization=None)[0]
        for block in shown
    ]
    return -np.array(shifts).reshape(-1, 2)


def _prepare(image: np.ndarray) -> np.ndarray:
    """Keep the scale of cells, and let the image fade towards its borders."""
    image = np.nan_to_num(image.astype(np.float64))
    band = ndimage.gaussian_filter(image, 1.0) - ndimage.gaussian_filter(image, 8.0)
    window: np.ndarray = np.outer(*(np.hanning(side + 2)[1:-1] for side in image.shape))
    return band * window
