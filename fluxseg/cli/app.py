"""The `fluxseg` command: one verb per task."""

import ast
import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fluxseg.allocator import tune_allocator
from fluxseg.console import USER_ERROR, run_guarded
from fluxseg.errors import ConfigError
from fluxseg.processes import leave

DESCRIPTION = """Find neurons in two-photon images; correct them, and train networks of your own.

Begin with:  fluxseg predict IMAGES --output neurons
Then open neurons/predictions.html. `fluxseg VERB --help` explains the options of a verb.

Exit codes: 0 done; 1 something was found by check, or an image could not be predicted, a movie not
projected or extracted, or a recording not converted; 2 bad input or settings; 130 and 143 stopped
by Ctrl-C or SIGTERM.
"""
VERBS = {
    "predict": "cli.apply",
    "check": "cli.recordings",
    "finetune": "cli.adapt",
    "train": "main",
    "project": "cli.movies",
    "extract": "cli.movies",
    "convert": "cli.formats",
    "review": "cli.adapt",
    "evaluate": "cli.scores",
    "compare": "cli.scores",
    "report": "cli.scores",
    "sweep": "cli.sweep",
    "prepare": "cli.recordings",
    "simulate": "cli.recordings",
    "export": "cli.apply",
}
"""Verb -> module of the function of that name."""
NETWORK_VERBS = ("predict", "extract", "train", "finetune", "evaluate", "review", "sweep", "export")
"""Verbs that run a network."""
ADDRESS_SPACE = 3 * 2**30  # bytes that such a verb asks for, most of which it never touches
LITTLE_MEMORY = 2**30  # bytes of memory that such a verb, with a small image, uses about half of


def format_verbs() -> str:
    """Return what `fluxseg --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {_summarize(verb)}" for verb in VERBS]
    head = "usage: fluxseg [-h] VERB ..."
    return "\n".join([head, "", DESCRIPTION, "verbs:", *lines])


def _summarize(verb: str) -> str:
    """Return the first line of what a verb's function says of itself, without importing it."""
    path = Path(__file__).parents[1].joinpath(*VERBS[verb].split(".")).with_suffix(".py")
    functions = ast.parse(path.read_text(encoding="utf-8")).body
    text = next(
        ast.get_docstring(function)
        for function in functions
        if isinstance(function, ast.FunctionDef) and function.name == verb
    )
    return str(text).splitlines()[0]


def read_verb(verb: str) -> Callable[..., int]:
    """Import the function of a verb."""
    return getattr(importlib.import_module(f"fluxseg.{VERBS[verb]}"), verb)


def check_address_space(verb: str) -> None:
    """Raise `ConfigError` if a limit leaves too little memory: libraries would abort, or hang.

    A limit of the control group is told only, since what a job uses is known too late.
    """
    try:
        import resource
    except ImportError:
        # Windows has no such limits.
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if verb in NETWORK_VERBS and limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise ConfigError(
            f"{verb} needs {ADDRESS_SPACE / 2**30:.0f} GiB of address space, and the limit is "
            f"{limit / 2**30:.1f} GiB: raise it (ulimit -v unlimited)"
        )
    if verb in NETWORK_VERBS and (memory := memory_limit()) < LITTLE_MEMORY:
        told = f"WARNING: {memory / 2**30:.1f} GiB is all the memory that this job or container has"
        print(f"{told}: if it is killed, give it more", file=sys.stderr)


def memory_limit() -> float:
    """Return the bytes that the control group of this process may use, as Linux tells them.

    Unlike too little address space, the system answers too little memory with a kill, and no word.
    """
    limits = [math.inf]
    with contextlib.suppress(OSError):
        own = Path("/proc/self/cgroup").read_text("utf-8").rpartition("::")[2].strip()
        for name in (f"{own}/memory.max", "/memory.max", "/memory/memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                limits.append(float(Path(f"/sys/fs/cgroup{name}").read_text("utf-8")))
    return min(limits)


def _run(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if verb in ("", "-h", "--help"):
        print(format_verbs())
        return 0 if verb else USER_ERROR
    if verb == "--version":
        from importlib.metadata import version

        print(f"fluxseg {version('fluxseg')}")
        return 0
    check_address_space(verb)
    if verb == "train":
        # Its config file must be read before its options are known.
        from fluxseg.main import parse_main, train

        return train(parse_main(rest, "fluxseg train"))
    import tyro

    from fluxseg.arguments import nearest, parse_call

    if verb in VERBS:
        return int(parse_call(f"fluxseg {verb}", read_verb(verb), rest)() or 0)
    if not verb.startswith("-"):
        raise ConfigError(f"there is no verb {verb!r}{nearest(verb, VERBS)}; see fluxseg --help")
    # A verb that does not exist, or the completion of a shell, which needs all of them.
    app = tyro.extras.SubcommandApp()
    for name in VERBS:
        app.command(read_verb(name))
    return int(app.cli(prog="fluxseg", description=DESCRIPTION, args=list(arguments)) or 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run the verb, and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_guarded(lambda: _run(given))


def launch() -> int:
    """Do as `main` does, as a command of its own: with memory settings for the whole process."""
    tune_allocator()
    code = main()
    leave(code)
    return code
