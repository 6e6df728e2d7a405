"""Small recordings on disk, with whatever is wrong with them."""

from pathlib import Path

import numpy as np

from tests.data.fields import disc

SIZE = 128


def create_fields(rng: np.random.Generator, rois: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return an image `[H, W]` float32 and disks as masks `[N, H, W]` bool that shine in it."""
    image = rng.gamma(4, 20, (SIZE, SIZE)).astype(np.float32)
    masks = np.zeros((rois, SIZE, SIZE), bool)
    for mask in masks:
        mask |= disc((SIZE, SIZE), rng.uniform(8, SIZE - 8, 2), 5)
        image += 150 * mask
    return image, masks


def write_recording(
    path: Path, image: np.ndarray, masks: np.ndarray, group: str | None = None
) -> None:
    """Write a `.npy` file as the Allen files are: a pickled dict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "id": path.stem,
        "metadata": {"experiment_container_id": group or path.stem},
        "max_projection": image,
        "roi_ids": np.arange(len(masks)),
        "roi_mask_array": masks,
    }
    np.save(path, np.array(values, dtype=object), allow_pickle=True)


def write_folder(folder: Path, count: int = 8, seed: int = 0, rois: int = 12) -> Path:
    """Write recordings of different fields of view; return the folder."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        write_recording(folder / f"field{number}.npy", *create_fields(rng, rois))
    return folder
