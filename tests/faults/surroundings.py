"""Clocks that run backwards, and locales, for processes that a test starts."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SITECUSTOMIZE = '''
import datetime
import time

START = {start!r}
real = time.time


def backwards():
    """Every second that passes, this clock loses a minute."""
    return START - 60 * (real() - {now!r})


class Backwards(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(backwards(), tz)


time.time = backwards
time.time_ns = lambda: int(backwards() * 1e9)
datetime.datetime = Backwards
'''


def python_clock(folder: Path, start: float) -> dict[str, str]:
    """Return an environment in which Python's wall clock begins at `start` and runs backwards."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(start=start, now=time.time()))
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([known] if known else [])])}


def locale_environment(name: str, folder: Path) -> dict[str, str | None]:
    """Return the environment of a locale; it is made if need be, or the test skipped."""
    plain: dict[str, str | None] = {"LANG": None, "LANGUAGE": None, "LC_ALL": name}
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout
    known = {line.lower().replace("-", "") for line in installed.splitlines()}
    if name.lower().replace("-", "") in known:
        return plain
    if shutil.which("localedef") is None:
        pytest.skip(f"the locale {name} is not installed, nor what makes it")
    language, _, charset = name.partition(".")
    folder.mkdir()
    made = subprocess.run(
        ["localedef", "-i", language, "-f", charset, str(folder / name)], capture_output=True
    )
    if not (folder / name).is_dir():
        pytest.skip(f"the locale {name} cannot be made: {made.stderr.decode()[:200]}")
    return {**plain, "LOCPATH": str(folder)}
