"""A simulator of two-photon projections that never repeats itself, to train networks on.

In all of its functions `rng` is the source of all randomness, `shape` height and width in px,
`scale` pixels per um along rows and columns, and `values` what `ranges.draw_parameters` has drawn.
Light is relative to that of the neuropil, which has about 1.
"""
