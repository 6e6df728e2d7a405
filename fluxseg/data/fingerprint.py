"""Fingerprints of recordings, to find exact copies and other sessions of the same field of view.

Two sessions of one field differ in gain, noise, active cells, a shift and the motion border, but
cells, vessels and neuropil stay where they are. A fingerprint keeps that texture twice: its
whitened Fourier magnitude, which a shift leaves as it is, and a thumbnail.
"""

import base64
import binascii
import dataclasses
import functools
import hashlib

import numpy as np

from fluxseg.data.transforms import normalize_image
from fluxseg.errors import RecordingError

GRID = 128  # side of the grid that an image is binned to; a 512 px image has bins of 4 px
THUMBNAIL = 64  # side of the thumbnail; one of its pixels is 8 px of a 512 px image
# Grid units. Structure between about 5 and 24 px of a 512 px image, equalised over 32 px.
_DETAIL, _BACKGROUND, _CONTRAST = 1.0, 6.0, 8.0
_CLIP = 2.0
_MARGIN, _TAPER = 2, 16
_BAND = (3, 20)
_PADDED = GRID + 4 * int(_CONTRAST)
_SPECTRUM_SCALE, _THUMBNAIL_SCALE = 32.0, 40.0
_ENCODING = "1:"


@dataclasses.dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image to recognise its field of view."""

    spectrum: np.ndarray  # `[SPECTRUM_SIZE]` int8, whitened magnitudes; 0 without texture
    thumbnail: np.ndarray  # `[THUMBNAIL, THUMBNAIL]` int8, even contrast; 0 outside


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Take the fingerprint of an image `[H, W]` of any real dtype.

    It does not depend on gain, offset or dtype, and hardly on a shift, a crop of the border, or
    pixels that are not finite. Images of 512 and 1024 px that show the same field agree as well:
    the bins are a power of two of the pixels. It does depend on zoom and rotation. That of an image
    without texture is all 0.
    """
    texture = _texture(*_bin(image))
    side = GRID // THUMBNAIL
    thumbnail = texture.reshape(THUMBNAIL, side, THUMBNAIL, side).mean((1, 3))
    return Fingerprint(
        spectrum=_to_int8(_whitened_magnitude(texture), _SPECTRUM_SCALE),
        thumbnail=_to_int8(thumbnail, _THUMBNAIL_SCALE),
    )


def blank_fingerprint() -> Fingerprint:
    """Return the fingerprint of nothing, which is similar to no other."""
    return Fingerprint(np.zeros(SPECTRUM_SIZE, np.int8), np.zeros((THUMBNAIL, THUMBNAIL), np.int8))


def digest(image: np.ndarray, label: np.ndarray | None = None) -> str:
    """Hash an image `[H, W]` and its merged mask `[H, W]` bool, if any, to 32 hexadecimal digits.

    Equal numbers give equal hashes in every dtype.
    """
    values = np.array(image, "<f8", order="C")
    if image.dtype.kind == "f":
        values[np.isnan(values)] = np.nan  # one NaN of the many
        values += 0.0  # no negative zero
    content = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    content.update(values.data)
    if label is not None:
        content.update(repr(label.shape).encode() + np.packbits(label).tobytes())
    return content.hexdigest()


def encode_fingerprint(value: Fingerprint) -> str:
    """Return a fingerprint as ASCII text, about 6 kB."""
    content = value.spectrum.tobytes() + value.thumbnail.tobytes()
    return _ENCODING + base64.b64encode(content).decode("ascii")


def decode_fingerprint(text: str) -> Fingerprint:
    """Read a fingerprint from its text; the inverse of `encode_fingerprint`.

    Raises `RecordingError` if it is of another version, or damaged.
    """
    try:
        content = base64.b64decode(text.removeprefix(_ENCODING), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordingError("fingerprint", f"is damaged: {error}") from error
    if not text.startswith(_ENCODING) or len(content) != SPECTRUM_SIZE + THUMBNAIL**2:
        raise RecordingError("fingerprint", "is damaged or of another version; make it again")
    values = np.frombuffer(content, np.int8)
    return Fingerprint(values[:SPECTRUM_SIZE], values[SPECTRUM_SIZE:].reshape(THUMBNAIL, THUMBNAIL))


def _bin(image: np.ndarray) -> tuple[np.ndarray, "_Weights"]:
    """Bin to the grid, centred: mean of the finite pixels, and weight that fades at the border."""
    factor = 2 ** max(0, round(np.log2(max(image.shape) / GRID)))
    normalized = normalize_image(image)
    finite = None if image.dtype.kind != "f" else np.isfinite(image)
    if finite is None or finite.all():
        weights = _whole_weights(image.shape, factor)
    else:
        # Pixels that are not finite are 0 here, so that the sums are those of the others.
        normalized = np.where(finite, normalized, 0)
        weights = _Weights(_block_sums(finite, factor), factor)
    means = _block_sums(normalized, factor) / np.maximum(weights.counts, 1)
    return _center(means), weights


def _block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    padded = np.zeros([-(-side // factor) * factor for side in values.shape])
    padded[: values.shape[0], : values.shape[1]] = values
    rows = padded.reshape(-1, factor, padded.shape[1]).sum(1)
    # Sums of slices: an axis of a few elements is slow to sum.
    return np.asarray(sum(rows[:, start::factor] for start in range(factor)))


class _Weights:
    """How much each bin counts, and what is derived from that; the same for most recordings."""

    def __init__(self, counts: np.ndarray, factor: int):
        fades = [
            ((np.minimum(np.arange(n), np.arange(n)[::-1]) - _MARGIN + 0.5) / _TAPER).clip(0, 1)
            for n in counts.shape
        ]
        self.counts = counts  # finite pixels of each bin of the image
        # `[GRID, GRID]`, weight that fades at the border; and smoothed to each width
        self.grid = _center(counts / factor**2 * np.outer(fades[0], fades[1]))
        self.norms = {s: _smooth(self.grid, s) for s in (_DETAIL, _BACKGROUND, _CONTRAST)}


@functools.lru_cache(maxsize=4)
def _whole_weights(shape: tuple[int, int], factor: int) -> _Weights:
    return _Weights(_block_sums(np.ones(shape), factor), factor)


def _center(values: np.ndarray) -> np.ndarray:
    """Cut or pad to the grid, evenly on both sides."""
    kept = [min(side, GRID) for side in values.shape]
    cut = [slice((s - k) // 2, (s - k) // 2 + k) for s, k in zip(values.shape, kept, strict=True)]
    placed = [slice((GRID - k) // 2, (GRID - k) // 2 + k) for k in kept]
    grid = np.zeros((GRID, GRID))
    grid[tuple(placed)] = values[tuple(cut)]
    return grid


def _texture(means: np.ndarray, weighting: _Weights) -> np.ndarray:
    """Band-pass, even out the local contrast, and fade at the border; `[GRID, GRID]`."""
    weights = weighting.grid

    # Weighted means take no notice of what lies outside the image or is not finite.
    def blur(values: np.ndarray, sigma: float) -> np.ndarray:
        total, norm = _smooth(values * weights, sigma), weighting.norms[sigma]
        return np.asarray(np.divide(total, norm, out=np.zeros_like(total), where=norm > 1e-6))

    detail = blur(means - blur(means, _BACKGROUND), _DETAIL)
    detail -= blur(detail, _BACKGROUND)
    # Rounding can leave less than 0.
    contrast = np.sqrt(np.maximum(blur(detail**2, _CONTRAST), 0))
    inside = weights > 0
    # 1e-4 of the image's contrast is rounding, not texture.
    if not inside.any() or contrast.max() < 1e-4:
        return np.zeros((GRID, GRID))
    floor = 0.2 * float(np.median(contrast[inside]))
    texture = np.clip(detail / np.maximum(contrast, max(floor, 1e-6)), -_CLIP, _CLIP) * weights
    return np.asarray(texture - weights * (texture.sum() / weights.sum()))


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    # Not a matrix product: the threads of BLAS in every worker process would fight for the cores.
    spectrum = np.fft.rfft2(values, (_PADDED, _PADDED)) * _gaussian(sigma)
    return np.asarray(np.fft.irfft2(spectrum, (_PADDED, _PADDED))[:GRID, :GRID])


@functools.cache
def _gaussian(sigma: float) -> np.ndarray:
    rows, columns = np.fft.fftfreq(_PADDED)[:, None], np.fft.rfftfreq(_PADDED)
    return np.asarray(np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + columns**2)))


@functools.cache
def _rings() -> tuple[np.ndarray, np.ndarray]:
    """Radius of each frequency of `rfft2`, and which are kept."""
    rows, columns = np.fft.fftfreq(GRID, 1 / GRID)[:, None], np.fft.rfftfreq(GRID, 1 / GRID)
    radius = np.hypot(rows, columns)
    # Border lines and scan lines live on the two axes, in every recording of a microscope.
    kept = (radius >= _BAND[0]) & (radius < _BAND[1]) & (abs(rows) > 1) & (columns > 1)
    return radius.round().astype(np.intp), kept


SPECTRUM_SIZE = int(_rings()[1].sum())  # number of values of a fingerprint's spectrum


def _whitened_magnitude(texture: np.ndarray) -> np.ndarray:
    """Magnitudes relative to the mean of their ring: the speckle, without the mean spectrum."""
    rings, kept = _rings()
    magnitude = np.abs(np.fft.rfft2(texture))
    mean = np.bincount(rings.ravel(), magnitude.ravel()) / np.bincount(rings.ravel())
    return np.asarray(magnitude[kept] / np.maximum(mean[rings[kept]], 1e-9) - 1)


def _to_int8(values: np.ndarray, scale: float) -> np.ndarray:
    deviation = float(values.std())
    if deviation < 1e-9 or not values.any():
        return np.zeros(values.shape, np.int8)
    return np.rint(np.clip(values * (scale / deviation), -127, 127)).astype(np.int8)
