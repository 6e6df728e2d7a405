"""Command-line arguments: config files, and overrides of any field by its dotted name."""

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path

from fluxseg.config import Config
from fluxseg.errors import ConfigError


def read_config_file(path: str | Path) -> Config:
    """Run a Python file and return the result of its `get_config()`.

    A config file is a program of yours and is executed; run none that you do not trust.

    Raises:
        ConfigError: if the file is absent, fails, or has no `get_config() -> Config`.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such config file")
    try:
        config = runpy.run_path(str(path))["get_config"]()
    except KeyError as error:
        raise ConfigError(f"{path}: has no function get_config()") from error
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() must return fluxseg.config.Config")
    return config


def split_config_file(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Take `--config FILE.py` out of the arguments.

    Returns:
        The config of the file, or the default one, and the other arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, others = parser.parse_known_args(list(arguments))
    return (read_config_file(known.config) if known.config else Config()), others
