"""Command-line arguments: config files, and overrides of any field by its dotted name."""

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fluxseg.config import Config
from fluxseg.errors import ConfigError

if TYPE_CHECKING:
    from fluxseg.training.sweep_plan import Sweep

T = TypeVar("T")


def read_config_file(path: str | Path) -> Config:
    """Run a Python file and return the result of its `get_config()`.

    A config file is a program of yours and is executed; run none that you do not trust.

    Raises:
        ConfigError: if the file is absent, fails, or has no `get_config() -> Config`.
    """
    return _call(path, "get_config", Config)


def read_sweep_file(path: str | Path) -> "Sweep":
    """Run a Python file and return the result of its `get_sweep()`; see `read_config_file`.

    Raises:
        ConfigError: if the file is absent, fails, or has no `get_sweep() -> Sweep`.
    """
    from fluxseg.training.sweep_plan import Sweep

    return _call(path, "get_sweep", Sweep)


def _call(path: str | Path, function: str, kind: type[T]) -> T:
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such {function.removeprefix('get_')} file")
    try:
        value = runpy.run_path(str(path))[function]()
    except KeyError as error:
        raise ConfigError(f"{path}: has no function {function}()") from error
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(value, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise ConfigError(f"{path}: {function}() must return {wanted}")
    return value


def split_config_file(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Take `--config FILE.py` out of the arguments.

    Returns:
        The config of the file, or the default one, and the other arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, others = parser.parse_known_args(list(arguments))
    return (read_config_file(known.config) if known.config else Config()), others
