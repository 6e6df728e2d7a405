"""Shared by all tests: small settings, and where real data may lie."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fluxseg.config import Config, DataConfig, ModelConfig, SimulatorConfig, TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]

# A change is judged by the same examples as the one before it; elsewhere others are tried.
settings.register_profile("steady", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("steady")

# Most of the time of a tiny run is compilation; every process of the tests shares the results.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs that run a few times on tiny arrays are compiled quickly rather than well.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

MOST_MEMORY = 2**31
"""Bytes above which a process of the tests drops the programs that it has compiled."""


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Without this a worker grows to 5 GB."""
    yield
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    if "jax" in sys.modules and used > MOST_MEMORY:
        sys.modules["jax"].clear_caches()


TINY = Config(
    data=DataConfig(tile=64, workers=1, threads=1),
    simulator=SimulatorConfig(containers=8, sessions=1, size=128),
    model=ModelConfig(features=(4, 8), convs=1, stem=1),
    train=TrainConfig(epochs=2, steps=0, batch_size=4, learning_rate=3e-3, warmup_steps=2),
)


def with_train(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def with_data(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def as_arguments(config: Config) -> list[str]:
    """Command-line arguments that turn the default config into this one."""
    arguments = []
    for section in dataclasses.fields(config):
        chosen, default = getattr(config, section.name), getattr(Config(), section.name)
        for field in dataclasses.fields(chosen):
            value = getattr(chosen, field.name)
            if isinstance(value, bool):
                if value != getattr(default, field.name):
                    no = "" if value else "no-"
                    arguments.append(f"--config.{section.name}.{no}{field.name}")
            elif value != getattr(default, field.name):
                values = value if isinstance(value, tuple) else (value,)
                name = f"--config.{section.name}.{field.name}"
                arguments += [name, *map(str, values)]
    return arguments


ONE_EPOCH = with_train(TINY, epochs=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Workdir and result of `train_network` with `ONE_EPOCH`; write into copies of it only."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train_network(ONE_EPOCH, workdir)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Workdir and result of the whole job with `ONE_EPOCH`; write into copies of it only."""
    from fluxseg.job import train_and_evaluate

    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train_and_evaluate(ONE_EPOCH, workdir)


def write_simulated(folder: Path, containers: int, seed: int = 0) -> Path:
    """Write one simulated recording of 64 px for each container, as the Allen files are."""
    from fluxseg.formats.allen import write_allen_npy
    from fluxseg.simulation.sessions import SimulatedSource

    folder.mkdir(exist_ok=True)
    source = SimulatedSource(SimulatorConfig(containers=containers, sessions=1, size=64, seed=seed))
    for key in source.keys():  # noqa: SIM118
        write_allen_npy(folder / f"{key}.npy", source.read(key))
    return folder


def read_history(workdir: Path) -> list[dict[str, Any]]:
    """Return the rows of `metrics.jsonl` without the time they took."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def train_network(
    config: Config,
    workdir: str | Path,
    callbacks: Any = None,
    init: Any = None,
    *,
    profile: bool = False,
) -> Any:
    """Do the training of `fluxseg.train_and_evaluate` alone: no neurons, model file or report."""
    # Imported only now: most tests need no training.
    from fluxseg.training.dataset import prepare_dataset
    from fluxseg.training.resume import open_run
    from fluxseg.training.train import train

    workdir = Path(workdir)
    with open_run(config, workdir, init=init is not None) as checkpoints:
        dataset = prepare_dataset(config, workdir, callbacks and callbacks.on_prepare)
        return train(config, workdir, dataset, checkpoints, callbacks, init, profile=profile)
