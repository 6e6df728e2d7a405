"""A simulator of two-photon projections that never repeats itself, to train networks on."""
