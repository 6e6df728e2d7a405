"""How the microscope shows the tissue: light that falls off, residual motion, scanned lines."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from fluxseg.simulation.grids import Shape, blur


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a field that is rendered; what lies outside of it is never drawn."""

    shape: Shape  # height and width of the part, px
    field: Shape  # height and width of the whole field, px
    corner: tuple[int, int] = (0, 0)  # row and column of the part's first pixel in the field

    def edges(self) -> tuple[bool, bool, bool, bool]:
        """Tell whether the part reaches the field's top, bottom, left and right border."""
        (height, width), (row, column) = self.shape, self.corner
        rows, columns = self.field
        return row == 0, row + height == rows, column == 0, column + width == columns


@dataclasses.dataclass(frozen=True)
class Drift:
    """Where and how large a session shows the tissue; more of it is drawn than a field holds."""

    shift: tuple[float, float] = (0.0, 0.0)  # how far the tissue has moved, rows and columns, px
    zoom: float = 1.0  # magnification around the middle of the field
    margin: int = 0  # how far the tissue is drawn around the field, px

    def tissue_shape(self, shape: Shape) -> Shape:
        """Return the height and width of the tissue to draw for a field of `shape`, px."""
        return shape[0] + 2 * self.margin, shape[1] + 2 * self.margin

    def show(self, light: np.ndarray) -> np.ndarray:
        """Return the field `[H, W]` out of the light of the tissue `[H + 2 margin, ...]`."""
        if not self.margin:
            return light
        shape = (light.shape[0] - 2 * self.margin, light.shape[1] - 2 * self.margin)
        offset = -self.move(np.zeros((1, 2)), shape)[0] / self.zoom
        shown: np.ndarray = ndimage.affine_transform(
            light, (1 / self.zoom, 1 / self.zoom), offset, shape, order=1, mode="nearest"
        )
        return shown

    def move(self, place: np.ndarray, shape: Shape) -> np.ndarray:
        """Return where places `[N, 2]` in the tissue lie in the field of `shape`, px."""
        middle = (np.array(shape) - 1) / 2
        return (place - self.margin - middle + self.shift) * self.zoom + middle


def draw_illumination(
    rng: np.random.Generator, window: Window, values: Mapping[str, Any]
) -> np.ndarray:
    """Draw how the field is lit, `[H, W]` float32: a vignette, a slope, dark ends of the lines."""
    row, column = (
        ((np.arange(n) + first + 0.5) / whole * 2 - 1).astype(np.float32)
        for n, whole, first in zip(window.shape, window.field, window.corner, strict=True)
    )
    middle = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    fall = np.float32(values["vignette"])
    light = 1 - fall * 0.4 * ((row - middle[0]) ** 2)[:, None]
    light = light - fall * 0.4 * (column - middle[1]) ** 2
    down, right = rng.normal(0, values["slope"], 2).astype(np.float32)
    light = np.maximum(light, 0.15) * np.exp(down * row)[:, None] * np.exp(right * column)
    width = np.float32(values["line_ends_width"])
    ends = np.float32(values["line_ends"]) * np.exp((np.abs(column) - 1) / width)
    return light * (1 - ends)


def resolve(light: np.ndarray, um_per_px: float, values: Mapping[str, Any]) -> np.ndarray:
    """Blur light `[H, W]` float32 by the lateral resolution, and by the motion that is left."""
    # What a maximum shows has been sharp in some frame.
    moved = values["motion"] * (1.0 if values["mode"] == "mean" else 0.5)
    return blur(light, float(np.hypot(values["lateral"], moved)) / um_per_px)


def scan(
    rng: np.random.Generator, light: np.ndarray, um_per_px: float, values: Mapping[str, Any]
) -> np.ndarray:
    """Apply what scanning by lines, and motion under a maximum, do to light `[H, W]` float32.

    A maximum shows each bright point wherever it went.
    """
    motion = values["motion"] / um_per_px
    if values["mode"] != "mean":
        reach = int(np.clip(round(motion), 0, 2))
        angle = rng.uniform(0, np.pi)
        step = (round(reach * np.sin(angle)), round(reach * np.cos(angle)))
        if any(step):
            there, back = np.roll(light, step, (0, 1)), np.roll(light, (-step[0], -step[1]), (0, 1))
            light = np.maximum(light, np.float32(0.9) * np.maximum(there, back))
    if rng.random() < 0.15:
        share = np.float32(abs(values["phase"]))
        odd = light[1::2]
        light = light.copy()
        light[1::2] = (1 - share) * odd + share * np.roll(odd, 1 if values["phase"] > 0 else -1, 1)
    gain = rng.normal(1, values["line_noise"], (len(light), 1)).astype(np.float32)
    return light * gain
