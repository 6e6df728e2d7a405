"""A real main job in a process of its own, and what it must end with whatever happens to it."""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fluxseg.config import Config, config_from_dict
from fluxseg.io.files import read_json
from fluxseg.training.checkpoints import arrays_of, open_checkpoints, restore_checkpoint
from fluxseg.training.sharding import make_mesh, replicate
from fluxseg.training.state import TrainState, create_train_state
from tests.conftest import TINY, as_arguments, read_history, with_train

SMALL = with_train(TINY, epochs=6, batch_size=2)
"""Each phase takes long enough to be hit, and the whole a few seconds."""
PATIENCE = 300
"""Seconds after which a job hangs."""
FINAL_FILES = ("scores.json", "examples", "model.safetensors", "figures", "report.html")
"""What the end of a run writes, in this order."""


KEPT = {"last": 2, "best": 1}
"""How many checkpoints of each kind a run keeps."""
STARTED: list["Job"] = []
"""Jobs of the current test, which does not end before they do."""


class Job:
    """A main job that runs; what it says is collected line by line, with its time.

    `environment` is added to that of this process, where None takes a variable away; `wrapper` is
    the beginning of the command line, such as ("setpriv", ...).
    """

    def __init__(
        self, workdir, *options, environment=None, wrapper=(), config=SMALL, errors="strict",
        **popen,
    ):  # fmt: skip
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        command = [sys.executable, "-m", "fluxseg.main", "--workdir", workdir]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            list(map(str, [*wrapper, *command, *as_arguments(config), *options])),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors=errors,
            env={name: value for name, value in variables.items() if value is not None},
            **popen,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        STARTED.append(self)

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append((time.monotonic() - self.began, line))

    @property
    def text(self) -> str:
        return "".join(line for _, line in self.lines)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def when(self, beginning: str) -> float | None:
        """Seconds from the start to the first line that begins so."""
        return next((at for at, line in self.lines if line.startswith(beginning)), None)

    def wait_for(self, reached, seconds: float = PATIENCE) -> bool:
        """Wait until `reached` (a function, or the beginning of a line); False if it never is."""
        condition = reached if callable(reached) else lambda: self.when(reached) is not None
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.is_running():
                self._reader.join(10)
                return bool(condition())
            assert time.monotonic() < deadline, f"hangs:\n{self.text}"
            time.sleep(0.001)
        return True

    def stop(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for the end; return the exit code and all that was said."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self._reader.join(10)
            raise AssertionError(f"hangs:\n{self.text}") from None
        self._reader.join(10)
        return self.process.returncode, self.text


def finish_job(workdir, *options, **more) -> str:
    """Run a job to its end, which must be a success; return what it said."""
    code, text = Job(workdir, *options, **more).finish()
    assert code == 0, f"exit code {code}:\n{text}"
    assert "Traceback" not in text, text
    return text


def fail_job(workdir, *options, names=(), **more) -> str:
    """Run a job to its end, which must be an error that a person can act on; see `check_error`."""
    return check_error(*Job(workdir, *options, **more).finish(), names=names)


def check_error(code: int, text: str, names=()) -> str:
    """Fail unless this is exit code 2 and one clear message with these names; return it."""
    assert code == 2, f"exit code {code}:\n{text}"
    for crash in ("Traceback", "Exception in thread", "Fatal Python error", "core dumped"):
        assert crash not in text, text
    message = text[text.index("error: ") :] if "error: " in text else ""
    assert message, f"says no error:\n{text}"
    for name in names:
        assert str(name).lower() in message.lower(), f"{name} is missing:\n{text}"
    return message


@functools.cache
def create_empty_state(config: Config) -> TrainState:
    """Create a state of a config's structure, to restore into."""
    state = create_train_state(config, np.ones(2), 1)
    return replicate(state, make_mesh())


def read_bits(workdir: Path) -> dict[str, list[bytes]]:
    """Return the bytes of all arrays of a run's checkpoints, by `last/STEP`, `best/STEP`.

    Older ones than those that are kept are about to be removed, or half removed after a kill.
    """
    state = create_empty_state(config_from_dict(read_json(Path(workdir) / "config.json")))
    checkpoints = open_checkpoints(Path(workdir))
    bits = {}
    try:
        for name, kept in KEPT.items():
            manager = getattr(checkpoints, name)
            for step in sorted(manager.all_steps())[-kept:]:
                arrays = arrays_of(restore_checkpoint(manager, state, step)[0])
                leaves = jax.tree.leaves(arrays)
                bits[f"{name}/{step}"] = [np.asarray(leaf).tobytes() for leaf in leaves]
    finally:
        checkpoints.close()
    return bits


def read_outcome(workdir: Path) -> dict[str, Any]:
    """Return everything that must not depend on what happened to a run."""
    workdir = Path(workdir)
    bits = read_bits(workdir)
    newest = max((name for name in bits if name.startswith("last/")), key=_step_of)
    best = max((name for name in bits if name.startswith("best/")), key=_step_of)
    return {
        "last": (newest, bits[newest]),
        "best": (best, bits[best]),
        "history": read_history(workdir),
        "scores": read_json(workdir / "scores.json"),
        "split": read_json(workdir / "split.json"),
        "model": _read_model(workdir / "model.safetensors"),
    }


def _read_model(path: Path) -> tuple[dict[str, Any], bytes]:
    # The library that writes the file puts its metadata into any order.
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _step_of(name: str) -> int:
    return int(name.partition("/")[2])


def check_outcome(workdir: Path, expected: dict[str, Any]) -> None:
    """Fail, naming what differs, unless a run has ended as the uninterrupted one."""
    found = read_outcome(workdir)
    different = [name for name in expected if found[name] != expected[name]]
    assert not different, f"{workdir}: other {', '.join(different)} than the uninterrupted run"


@dataclasses.dataclass(frozen=True)
class Reference:
    """An uninterrupted run; `moments` are seconds from its start to each phase, and to its end."""

    workdir: Path
    outcome: dict[str, Any]
    moments: dict[str, float]


def run_reference(workdir: Path) -> Reference:
    """Run a job undisturbed, and note when its phases begin."""
    job = Job(workdir)
    moments: dict[str, float] = {"start": 0.0}
    while job.is_running():
        for name in FINAL_FILES:
            if name not in moments and (Path(workdir) / name).exists():
                moments[name] = time.monotonic() - job.began
        time.sleep(0.002)
    moments["end"] = time.monotonic() - job.began
    code, text = job.finish()
    assert code == 0, text
    for name, beginning in (
        ("prepare", "Preparing the crops"),
        ("training", "The model has"),
        ("evaluation", f"epoch {SMALL.train.epochs}/"),
    ):
        at = job.when(beginning)
        assert at is not None, text
        moments[name] = at
    moments["report"] = moments["examples"]
    return Reference(Path(workdir), read_outcome(workdir), moments)
