"""A small movie with ROIs, and what Suite2p's own code extracts from it.

`suite2p_reference.npz` beside it was written by Suite2p 1.1.0 (torch 2.14.1, CPU), in an
environment of its own:  python tests/traces/suite2p_reference.py
It needs nothing of fluxseg. What Suite2p imports besides torch, numba and scipy may be absent.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_suffix(".npz")
SHAPE, FRAMES, RATE, TAU = (90, 110), 400, 10.0, 1.0


def create_case():
    """Return ROIs, each `ypix`, `xpix`, `lam`, and a movie `[T, H, W]` uint16.

    A crowd of overlapping cells in one corner, single ones elsewhere, one at the border.
    """
    rng = np.random.default_rng(17)
    centres = [*rng.uniform(4, 34, (11, 2)), *((60, 20), (45, 70), (70, 60), (20, 90), (88, 100))]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    stat, light = [], np.zeros((len(centres), *SHAPE))
    for number, centre in enumerate(centres):
        radius = rng.uniform(3.5, 6)
        near = np.hypot(y - centre[0], x - centre[1]) / radius
        ypix, xpix = np.nonzero(near < 1)
        light[number] = np.exp(-(near**2))
        lam = (light[number][ypix, xpix] * rng.uniform(0.5, 1.5, len(ypix))).astype(np.float32)
        stat.append({"ypix": ypix, "xpix": xpix, "lam": lam})
    activity = np.zeros((FRAMES, len(stat) + 1))
    spikes = rng.random(activity.shape) < 0.03
    for frame in range(FRAMES):
        activity[frame] = activity[frame - 1] * np.exp(-1 / (TAU * RATE)) + spikes[frame]
    glow = 1 + 0.3 * activity[:, -1, None, None]
    photons = 60 * glow + 40 * np.einsum("tk,kyx->tyx", 0.5 + activity[:, :-1], light)
    return stat, rng.poisson(photons).astype(np.uint16) * 7


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for packages that Suite2p imports and its extraction does not use."""

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in ("cellpose", "cv2", "sklearn", "tifffile", "matplotlib")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: None
        return module

    def exec_module(self, module):
        """Leave it empty."""


def main():
    """Run Suite2p and write what it gives."""
    sys.meta_path.append(_Absent())
    import suite2p
    import torch
    from suite2p import default_settings, extraction
    from suite2p.detection import roi_stats
    from suite2p.extraction.masks import create_masks

    cpu = torch.device("cpu")
    stat, movie = create_case()
    stat = roi_stats(np.array(stat), *SHAPE, max_overlap=0.99)
    masks = create_masks(stat, *SHAPE)[1]
    f, neuropil, _, _ = extraction.extraction_wrapper(
        stat, movie, settings=default_settings()["extraction"], device=cpu
    )
    changes = extraction.preprocess(f - 0.7 * neuropil, "maximin", 60.0, 10.0, RATE, device=cpu)
    spikes = extraction.oasis(changes, 500, TAU, RATE)
    sizes = [len(mask) for mask in masks]
    np.savez_compressed(
        PATH, version=str(suite2p.version), F=f, Fneu=neuropil, changes=changes, spks=spikes,
        sizes=sizes, radius=[entry["radius"] for entry in stat],
    )  # fmt: skip
    print(suite2p.version, torch.__version__, f.shape, sizes)


if __name__ == "__main__":
    main()
