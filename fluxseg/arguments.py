"""Command-line arguments: what verbs share, config files, and options that are mistyped."""

import argparse
import contextlib
import difflib
import functools
import io
import re
import runpy
from collections.abc import Callable, Iterable, Sequence
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
    found = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {found[0]}?" if found else ""


def parse(prog: str, function: Callable[..., T], given: Sequence[str], **settings: Any) -> T:
    """Call a function with what `tyro` parses of the arguments after the verb, `given`.

    `prog` is how the command is called, `settings` are further ones of `tyro.cli`. Returns what the
    function returns. Raises `ConfigError`, a line with the nearest known word, if they are wrong.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(function, prog=prog, args=list(given), **settings)
    except SystemExit as left:
        if not left.code:
            raise
    # tyro draws a frame, of other characters where the terminal has not these.
    text = re.sub(r"[│╭╮╰╯\s]+", " ", box.getvalue().partition("\n")[2]).strip(" -─")
    what = re.split(r" *[─-]{8,} *", text)[0].rstrip(".")
    if unknown := re.search(r"Unrecognized options: *(--[\w.-]+)", text):
        what = f"{prog} has no option {unknown[1]}"
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(box):
            tyro.cli(function, prog=prog, args=["--help"], **settings)
        for place in (text, box.getvalue()):
            known = {*re.findall(r"--[\w.-]+", place)} - {unknown[1], "--help"}
            if hint := nearest(unknown[1], sorted(known)):
                what += hint
                break
    elif choice := re.search(r"(invalid choice '(.*?)'.*)\((.*)\)", what):
        # They come in any order, and "None" is among them where nothing need be chosen.
        listed = sorted({*re.findall(r"'(.+?)'", choice[3])} - {"None"})
        what = f"{choice[1]}({', '.join(listed)}){nearest(choice[2], listed)}"
    elif value := re.search(r"(\S+): no type matching ({None}\|)?(.*?) could .*? \['(.*?)'", what):
        what = f"{value[1]} must be {value[3]}, got {value[4]!r}"
    raise ConfigError(f"{what}; see {prog} --help")


def parse_call(prog: str, function: Callable[..., T], given: Sequence[str]) -> Callable[[], T]:
    """Parse the arguments of a function, see `parse`; return the call of it."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    return parse(prog, bind, given)


def read_config_file(path: str | Path) -> Config:
    """Run a Python file and return the result of its `get_config()`.

    A config file is a program of yours and is executed; run none that you do not trust. Raises
    `ConfigError` if the file is absent, fails, or has no `get_config() -> Config`.
    """
    return _call(path, "get_config", Config)


def read_sweep_file(path: str | Path) -> "Sweep":
    """Run a Python file and return the result of its `get_sweep()`; see `read_config_file`.

    Raises `ConfigError` if the file is absent, fails, or has no `get_sweep() -> Sweep`.
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

    Returns the config of the file, or the default one, and the other arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, others = parser.parse_known_args(list(arguments))
    return (read_config_file(known.config) if known.config else Config()), others
