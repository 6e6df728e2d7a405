"""Small disks that are full or read-only, and processes that permissions bind."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

BLOCK = 4096


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "64m") -> Iterator[Path]:
    """Mount a file system of its own in memory while the block runs; skip where forbidden."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave_free(disk: Path, count: int) -> Path:
    """Fill a disk but for `count` bytes; return the file that does it, to be deleted again."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free - count
    with filler.open("wb") as file:
        for _ in range(max(0, free) // BLOCK):
            file.write(bytes(BLOCK))
    return filler


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Let nothing be written to a disk of `small_disk` while the block runs."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def bound_by_permissions() -> tuple[str, ...]:
    """Return the beginning of a command that runs it without root's right to ignore permissions."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and there is no setpriv to take that away")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


def used_by(path: Path) -> int:
    """Bytes that a file, or all files of a folder, take on a disk of pages."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(-(-p.stat().st_size // BLOCK) * BLOCK for p in paths if p.is_file())
