"""Damage done to files, as disks, copies and people do it."""

import shutil
from pathlib import Path

import numpy as np


def flip_bytes(path: Path, rng: np.random.Generator, count: int = 1) -> None:
    """Change `count` bytes at random places of a file."""
    data = bytearray(path.read_bytes())
    for place in rng.choice(len(data), min(count, len(data)), replace=False):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(data)


def damage_folder(folder: Path, how: str, rng: np.random.Generator) -> Path:
    """Damage a random file of a folder, large ones more often than small ones.

    Args:
        folder: such as a checkpoint.
        how: "flipped", "missing", "truncated", "empty" or "folder missing".
        rng: chooses file and place.

    Returns:
        What was damaged.
    """
    if how == "folder missing":
        folders = sorted(path for path in folder.rglob("*") if path.is_dir())
        path = folders[rng.integers(len(folders))]
        shutil.rmtree(path)
        return path
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    weights = np.sqrt([path.stat().st_size for path in files])
    path = files[rng.choice(len(files), p=weights / weights.sum())]
    damage_file(path, how, rng)
    return path


def damage_file(path: Path, how: str, rng: np.random.Generator) -> None:
    """Damage a file, see `damage_folder`."""
    size = path.stat().st_size
    if how == "flipped":
        flip_bytes(path, rng, int(rng.integers(1, 9)))
    elif how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: int(rng.integers(1, size)) if size > 1 else 0])
    else:
        assert how == "empty", how
        path.write_bytes(b"")
