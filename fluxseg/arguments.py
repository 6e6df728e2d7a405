"""Command-line arguments: what verbs share, config files, and options that are mistyped."""

import argparse
import dataclasses
import difflib
import inspect
import runpy
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.formats.pick import Pick

if TYPE_CHECKING:
    from fluxseg.training.sweep import Sweep

T = TypeVar("T")

PickOptions = Annotated[Pick, tyro.conf.arg(name="")]
"""`--channel`, `--plane`, `--key` and `--axes`, of every verb that reads images."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the words "; did you mean X?", or nothing if no known word is like it."""
    found = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {found[0]}?" if found else ""


def check_options(prog: str, function: Callable[..., Any], given: Sequence[str]) -> None:
    """Raise `ConfigError` for a mistyped option, in one line.

    Args:
        prog: how the command is called.
        function: of which `tyro` makes the options: a function, or a dataclass.
        given: arguments after the verb.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    names = inspect.signature(function).parameters
    known = {"--help", *_list_options({name: hints[name] for name in names})}
    for word in given:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and not option.startswith("--tyro") and option not in known:
            hint = nearest(option, sorted(known))
            raise ConfigError(f"{prog} has no option {option}{hint}; see {prog} --help")


def _list_options(hints: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the options of parameters or fields, those of dataclasses with dots."""
    for key, hint in hints.items():
        name, kind = key.rstrip("_").replace("_", "-"), hint
        if typing.get_origin(hint) is Annotated:
            kind = typing.get_args(hint)[0]
            name = "" if hint == PickOptions else name
        if dataclasses.is_dataclass(kind):
            inner = typing.get_type_hints(kind, include_extras=True)
            yield from _list_options(inner, f"{prefix}{name}." if name else prefix)
        else:
            yield from (f"--{prefix}{name}", f"--{prefix}no-{name}")


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
    from fluxseg.training.sweep import Sweep

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
