"""Parts of the ranges that look like some real fields; set by eye, as `Seen` in `ranges`."""

import dataclasses

from fluxseg.simulation.ranges import DEFAULT, FAMILIES, Family, Range

MESOSCOPE = dataclasses.replace(
    DEFAULT,
    families=(
        dataclasses.replace(
            FAMILIES[5], brightness=Range(0.8, 2.5, True), density=Range(8e2, 5e3, True)
        ),
    ),
    modes=(1.0, 0.0, 0.0), um_per_px=Range(0.7, 0.85, True), stretch=Range(0.97, 1.03, True),
    axial=Range(2.0, 3.2), displaced=Range(0.05, 0.2), uneven=Range(0.05, 0.08),
    vignette=Range(0.0, 0.25), grain=Range(0.02, 0.05), felt=Range(0.0, 0.05),
    haze=Range(0.03, 0.12, True), vessels=Range(0.0, 0.3), capillaries=Range(1.0, 3.0),
    slope=Range(0.0, 0.1), line_ends=Range(0.25, 0.5), line_ends_width=Range(0.2, 0.4, True),
    photons=Range(0.3, 0.9, True), read_noise=Range(0.1, 0.3), resampled=Range(-0.5, 0.2),
    saturated=Range(-5.5, -4.5), offset=Range(0.0, 0.05), levels=Range(255.0, 255.0),
    tail_scale=Range(0.14, 0.155), tail_shape=Range(0.15, 0.19),
)  # fmt: skip
"""The part of the ranges that maximum projections of sparse interneurons, imaged by a mesoscope
with little light, come from (Allen Brain Observatory, multiplane)."""

AVERAGES = dataclasses.replace(
    DEFAULT,
    families=tuple(
        dataclasses.replace(FAMILIES[i], brightness=Range(0.25, 0.4, True), spread=Range(0.8, 1.0))
        for i in (0, 1, 6)
    ),
    modes=(0.0, 1.0, 0.0), um_per_px=Range(0.7, 0.9, True), slope=Range(0.25, 0.45),
    axial=Range(1.8, 3.2), lateral=Range(0.4, 0.8), displaced=Range(0.1, 0.3),
    uneven=Range(0.1, 0.35), grain=Range(0.04, 0.1), speck_light=Range(0.3, 0.9, True),
    felt=Range(0.03, 0.1), haze=Range(0.05, 0.25, True), vessels=Range(0.3, 1.5),
    vessel_dark=Range(0.15, 0.5), capillaries=Range(1.0, 4.0), line_noise=Range(0.0, 0.003),
    saturated=Range(-5.5, -2.8), offset=Range(0.0, 0.1), frames=Range(10_000.0, 50_000.0, True),
    levels=Range(60.0, 255.0, True),
)  # fmt: skip
"""The part of the ranges that 8-bit average projections of densely labelled cells come from (Allen
Brain Observatory, one plane)."""

MODERATE = dataclasses.replace(
    DEFAULT,
    families=tuple(
        dataclasses.replace(FAMILIES[i], brightness=Range(0.15, 0.6, True), spread=Range(0.5, 0.9))
        for i in (0, 1, 6)
    ),
    modes=(0.4, 0.5, 0.1), nucleus_dim=Range(0.6, 0.95), uneven=Range(0.1, 0.4),
    grain=Range(0.05, 0.16), felt=Range(0.03, 0.12), photons=Range(2.0, 30.0, True),
)  # fmt: skip
"""The part of the ranges with cells of moderate contrast in bright, textured neuropil: rings that
are hardly brighter than what is around them (dense labelling by virus or transgene)."""

DENSE = dataclasses.replace(
    DEFAULT,
    families=(
        Family(
            "dense, whole cells of many brightnesses", 1.0,
            Range(5.3, 7.0), Range(8e4, 2.6e5, True), Range(0.4, 2.5, True), Range(0.6, 1.2),
            Range(0.05, 0.3), Range(0.3, 3.0),
        ),
    ),
    modes=(0.7, 0.2, 0.1), axial=Range(1.2, 4.5), grain=Range(0.03, 0.25), felt=Range(0.0, 0.3),
    dendrites=Range(1.0, 25.0, True), axons=Range(2.0, 35.0, True),
    boutons=Range(3.0, 100.0, True), speck_light=Range(0.3, 5.0, True), stubs=Range(0.2, 1.0),
    nucleus=Range(0.55, 0.78), nucleus_dim=Range(0.3, 0.95), apart=Range(1.7, 2.05),
    patchy=Range(0.0, 0.4), active=Range(0.7, 1.0),
)  # fmt: skip
"""The part of the ranges with crowded cells seen nearly whole, as a thick section or one that
drifts along the axis shows them in the maximum of a long movie, amid active processes."""

RINGS = dataclasses.replace(
    DEFAULT,
    families=(
        Family(
            "rings as bright as the neuropil, a few cells much brighter", 1.0,
            Range(4.8, 7.2), Range(4e4, 3.2e5, True), Range(0.4, 1.5, True), Range(0.3, 0.9),
            Range(0.0, 0.04), Range(0.2, 1.0),
        ),
    ),
    modes=(0.45, 0.4, 0.15), axial=Range(0.8, 2.4), nucleus=Range(0.7, 0.84),
    nucleus_dim=Range(0.85, 1.0), bare=Range(1e3, 2e4, True), displaced=Range(0.2, 0.9),
    boutons=Range(2.0, 80.0, True), speck_light=Range(0.3, 4.0, True),
    transient=Range(0.6, 8.0, True), active=Range(0.05, 0.5), photons=Range(1.0, 30.0, True),
)  # fmt: skip
"""The part of the ranges with thin rings around dark nuclei in bright neuropil, sparse to packed
(cortical layer 2/3, CA1's pyramidal layer), beside a few cells that shine many times brighter."""

FAINT = dataclasses.replace(
    RINGS,
    families=(
        Family(
            "faint rings in neuropil of their brightness", 1.0,
            Range(5.3, 7.6), Range(6e4, 2.4e5, True), Range(0.3, 0.7, True), Range(0.15, 0.5),
            Range(0.0, 0.02), Range(0.2, 1.0),
        ),
    ),
    modes=(0.4, 0.5, 0.1), axial=Range(0.8, 2.2), nucleus=Range(0.68, 0.84),
    displaced=Range(0.2, 0.5), grain=Range(0.02, 0.1), uneven=Range(0.05, 0.3),
    active=Range(0.02, 0.3), photons=Range(3.0, 30.0, True),
)  # fmt: skip
"""The part of the ranges with rings hardly brighter than the neuropil, seen by their nuclei, beside
a few bright cells (cortex under a virus, mouse V1)."""
