"""What the simulator draws each field from: a range for every parameter, with its source.

The ranges are wider than any one laboratory's data. Sources, by the names used below:

- NAOMi: Song et al. 2021, J Neurosci Methods 358:109173 (geometry of somata, nuclei, vessels).
- Allen: de Vries et al. 2020, Nat Neurosci 23:138 (cre lines, depths, 0.78 um pixels).
- Mesoscope: Sofroniew et al. 2016, eLife 5:e14472 (axial resolution, pixels of 0.5 to 2 um).
- Optics: Zipfel et al. 2003, Nat Biotechnol 21:1369; Helmchen & Denk 2005, Nat Methods 2:932.
- GCaMP: Chen et al. 2013, Nature 499:295; Dana et al. 2019, Nat Methods 16:649.
- Density: Keller et al. 2018, Front Neuroanat 12:83 (neurons per volume of mouse cortex).
- Seen: set to make the images look and measure like real projections (docs/simulator.md).
"""

import dataclasses
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """A range that values are drawn from."""

    low: float  # least value
    high: float  # largest value
    log: bool = False  # whether the logarithm is uniform, rather than the value

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            raise ConfigError(f"a range must rise, from above 0 if logarithmic, got {self}")

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a value."""
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        value = np.exp(rng.uniform(np.log(self.low), np.log(self.high)))
        return float(np.clip(value, self.low, self.high))

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Family:
    """Cells of one kind: a cre line, a layer or a virus."""

    name: str  # what they are
    weight: float  # how often the family is drawn, relative to the others
    radius: Range  # median radius of a cell body, um (NAOMi; Allen)
    density: Range  # cells with indicator per mm^3 (Density, times the share that is labelled)
    brightness: Range  # median light that fills the section, relative to neuropil (Seen)
    spread: Range  # standard deviation of the logarithm of that (Seen; GCaMP)
    filled: Range  # share of cells with indicator in the nucleus too (GCaMP: of long expression)
    fibres: Range  # amount of dendrites and axons relative to dense neuropil (Seen)


FAMILIES = (
    Family(
        "excitatory, all layers (Emx1, Slc17a7)", 2.5,
        Range(5.3, 7.2), Range(6e4, 1.6e5, True), Range(0.15, 2.6, True), Range(0.4, 1.0),
        Range(0.0, 0.08), Range(0.4, 1.2),
    ),
    Family(
        "layer 2/3 (Cux2)", 2.0,
        Range(5.3, 7.0), Range(4e4, 1.2e5, True), Range(0.15, 2.8, True), Range(0.4, 1.0),
        Range(0.0, 0.08), Range(0.3, 1.0),
    ),
    Family(
        "layer 4 (Rorb, Scnn1a, Nr5a1)", 1.5,
        Range(4.6, 6.0), Range(6e4, 1.6e5, True), Range(0.35, 2.4, True), Range(0.35, 0.9),
        Range(0.0, 0.06), Range(0.2, 0.8),
    ),
    Family(
        "layer 5 (Rbp4, Fezf2)", 1.0,
        Range(6.3, 9.0), Range(5e3, 3e4, True), Range(0.5, 3.0, True), Range(0.4, 0.9),
        Range(0.0, 0.1), Range(0.6, 2.0),
    ),
    Family(
        "layer 6 (Ntsr1)", 0.7,
        Range(4.6, 6.2), Range(3e4, 9e4, True), Range(0.3, 1.6, True), Range(0.3, 1.0),
        Range(0.0, 0.05), Range(0.2, 0.8),
    ),
    Family(
        "interneurons (Vip, Sst, Pvalb)", 1.2,
        Range(5.0, 7.8), Range(8e2, 1e4, True), Range(0.8, 6.0, True), Range(0.5, 1.0),
        Range(0.1, 0.4), Range(0.2, 1.5),
    ),
    Family(
        "virus (AAV, synapsin)", 2.0,
        Range(5.3, 8.0), Range(3e4, 1.1e5, True), Range(0.15, 2.8, True), Range(0.5, 1.0),
        Range(0.03, 0.25), Range(0.3, 1.2),
    ),
    Family(
        "packed (hippocampus, dense small cells)", 0.8,
        Range(4.8, 6.8), Range(1.1e5, 2.2e5, True), Range(0.5, 2.0, True), Range(0.3, 0.6),
        Range(0.0, 0.06), Range(0.1, 0.5),
    ),
)  # fmt: skip
"""The families that are drawn by default."""

MODES = ("maximum", "mean", "percentile")  # how a movie is collapsed


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The range of every parameter of a field; lengths in um, SD is a standard deviation."""

    families: tuple[Family, ...] = FAMILIES  # kinds of cells
    modes: tuple[float, float, float] = (0.5, 0.35, 0.15)  # shares of `MODES`
    um_per_px: Range = Range(0.5, 2.0, True)  # size of a pixel (Allen; Mesoscope)
    diameter_px: Range | None = None  # of the median cell, px; if given, it sets the pixel size
    stretch: Range = Range(0.88, 1.14, True)  # height of a pixel relative to its width
    axial: Range = Range(0.9, 3.2)  # SD of the section's thickness, with drift (Optics; Mesoscope)
    lateral: Range = Range(0.3, 0.8)  # SD of the lateral blur: 0.7 to 1.9 um half height (Optics)
    radius_spread: Range = Range(0.06, 0.14)  # SD of the logarithm of a cell's radius (NAOMi)
    roundness: Range = Range(0.04, 0.14)  # waves of the outline, relative to the radius (NAOMi)
    nucleus: Range = Range(0.62, 0.8)  # radius of the nucleus relative to the cell's (NAOMi)
    nucleus_dim: Range = Range(0.35, 0.95)  # light missing in a nucleus (GCaMP: its export signal)
    mottle: Range = Range(0.05, 0.35)  # SD of the light within a cell body, over 2 um (Seen)
    shade: Range = Range(0.1, 0.35)  # SD of a slope of light across a cell, along each axis (Seen)
    apart: Range = Range(1.55, 2.05)  # least distance of two cells' centres, in median radii
    patchy: Range = Range(0.0, 0.7)  # SD of the logarithm of the local density of cells (Seen)
    bare: Range = Range(1e4, 8e4, True)  # cells without indicator per mm^3 (Density)
    displaced: Range = Range(0.05, 0.4)  # neuropil's light missing where a cell is (Seen)
    uneven: Range = Range(0.05, 0.45)  # SD of the logarithm of the expression over > 100 um (Seen)
    grain: Range = Range(0.02, 0.16)  # SD of the neuropil's texture between 2 and 30 um (Seen)
    roughness: Range = Range(0.5, 1.0)  # amplitude of its octaves, each over the coarser one (Seen)
    felt: Range = Range(0.0, 0.14)  # strength of thin curved processes, which look like felt (Seen)
    dendrites: Range = Range(0.8, 8.0, True)  # in the plane, per 10,000 um^2 (Seen)
    axons: Range = Range(1.5, 15.0, True)  # with boutons, per 10,000 um^2 (Seen)
    boutons: Range = Range(2.0, 40.0, True)  # single bright specks, per 10,000 um^2 (Seen)
    speck_light: Range = Range(0.3, 2.0, True)  # of a speck at its peak, over the neuropil (Seen)
    stubs: Range = Range(0.1, 1.0)  # cells with a dendrite in the plane, per dendrite of three
    haze: Range = Range(0.03, 0.4, True)  # light of cells out of focus over that in focus (Optics)
    vessels: Range = Range(0.0, 3.0)  # wider than capillaries, per 400 x 400 um (NAOMi)
    vessel_dark: Range = Range(0.1, 0.75)  # light missing behind the darkest vessels (Seen)
    capillaries: Range = Range(1.0, 9.0)  # in or near the plane, per 400 x 400 um (NAOMi)
    vignette: Range = Range(0.0, 0.6)  # light missing in the corners (Optics)
    slope: Range = Range(0.0, 0.45)  # SD of the logarithm of a slope of light, half a field (Seen)
    line_ends: Range = Range(0.0, 0.65)  # light missing where a resonant mirror turns (Seen)
    line_ends_width: Range = Range(0.05, 0.4, True)  # how far in they reach, of half a line (Seen)
    active: Range = Range(0.35, 0.95)  # share of cells that fire (Allen)
    transient: Range = Range(0.6, 3.0, True)  # mean of a firing cell's largest dF/F (GCaMP)
    frames: Range = Range(500.0, 50_000.0, True)  # of the movie
    photons: Range = Range(0.3, 30.0, True)  # of the neuropil in a pixel of a frame (Optics)
    read_noise: Range = Range(0.1, 1.5)  # SD of the amplifier's noise, photons
    # Scale of the maximum's noise relative to its bias; 0.054 for Gaussian noise of 10,000
    # frames, 0.1 for exponential gain of a photomultiplier (real projections: 0.12 to 0.16).
    tail_scale: Range = Range(0.03, 0.16)
    tail_shape: Range = Range(0.02, 0.22)  # of its extreme values (real projections: 0.1 to 0.2)
    percentile: Range = Range(80.0, 99.9)  # over time, where that is how a movie is collapsed
    motion: Range = Range(0.0, 1.0)  # SD of the motion that is left after correction
    resampled: Range = Range(-0.5, 0.7)  # SD of the blur of the noise by interpolation, px; or none
    phase: Range = Range(-0.35, 0.35)  # shift of every other line, px; none for most fields
    line_noise: Range = Range(0.0, 0.012)  # SD of a line's gain
    border: Range = Range(0.0, 9.0)  # rows and columns that motion brings in and out of view, px
    saturated: Range = Range(-5.5, -2.3)  # decadic logarithm of the share of saturated pixels
    offset: Range = Range(0.0, 0.2)  # detector's offset relative to the upper limit
    gamma: Range = Range(0.8, 1.15)  # exponent of an export to 8 bits
    levels: Range = Range(60.0, 4000.0, True)  # up to the upper limit; 8 bits up to 255


DEFAULT = Ranges()  # all of the ranges


def draw_parameters(rng: np.random.Generator, ranges: Ranges) -> dict[str, Any]:
    """Draw one field's parameters.

    Returns a value for each field of `Ranges` that is a `Range` and of the family; `family` and
    `mode` are texts.
    """
    weights = np.array([family.weight for family in ranges.families])
    family = ranges.families[int(rng.choice(len(weights), p=weights / weights.sum()))]
    shares = np.array(ranges.modes)
    values: dict[str, Any] = {
        "family": family.name,
        "mode": MODES[int(rng.choice(len(MODES), p=shares / shares.sum()))],
    }
    for owner in (family, ranges):
        for field in dataclasses.fields(owner):
            value = getattr(owner, field.name)
            if isinstance(value, Range):
                values[field.name] = value.draw(rng)
    if ranges.diameter_px is not None:
        values["um_per_px"] = 2 * values["radius"] / values["diameter_px"]
    return values
