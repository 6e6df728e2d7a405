"""The `fluxseg` command: one verb per task."""

import importlib
import sys
from collections.abc import Callable, Sequence

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
    "predict": ("cli.apply", "Predict where neurons are in images of any size."),
    "check": (
        "cli.recordings",
        "Say of each file of a folder whether it is usable, and find duplicates.",
    ),
    "finetune": (
        "cli.adapt",
        "Tune a trained model to a few labelled fields of one's own, "
        "and score it before and after.",
    ),
    "train": (
        "main",
        "Train on recordings, score, and write a report: the same as python -m fluxseg.main.",
    ),
    "project": (
        "cli.project",
        "Project movies over time: each MOVIE becomes NAME_max.tif and so on.",
    ),
    "extract": (
        "cli.extract",
        "Extract the traces of neurons from registered movies, as Suite2p does.",
    ),
    "convert": (
        "cli.formats",
        "Convert a recording, or a folder of recordings, to the format of another tool.",
    ),
    "review": (
        "cli.adapt",
        "List where a model and the labels disagree and the model is sure: cells that were missed.",
    ),
    "evaluate": (
        "cli.scores",
        "Score a run on its own splits or on other recordings, or a model on labelled recordings.",
    ),
    "compare": (
        "cli.scores",
        "Compare runs on one page: settings, scores, paired differences, curves, examples.",
    ),
    "report": ("cli.scores", "Write report.html of a run again from the files in its workdir."),
    "sweep": (
        "cli.sweep",
        "Train runs with all combinations of settings, and show which did best.",
    ),
    "prepare": (
        "cli.recordings",
        "Prepare the crops of a folder of recordings, or write it as image files.",
    ),
    "simulate": (
        "cli.recordings",
        "Write simulated recordings as .npy files, in the form that the Allen data have.",
    ),
    "export": ("cli.apply", "Export a model for use without fluxseg."),
}
"""Verb -> module of the function of that name, and the first line of its docstring: the list of
verbs is shown without importing them."""


NETWORK_VERBS = ("predict", "extract", "train", "finetune", "evaluate", "review", "sweep", "export")
"""Verbs that run a network."""
ADDRESS_SPACE = 3 * 2**30
"""Bytes that such a verb asks for, most of which it never touches."""


def format_verbs() -> str:
    """Return what `fluxseg --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items()]
    head = "usage: fluxseg [-h] VERB ..."
    return "\n".join([head, "", DESCRIPTION, "verbs:", *lines])


def read_verb(verb: str) -> Callable[..., int]:
    """Import the function of a verb."""
    function: Callable[..., int] = getattr(
        importlib.import_module(f"fluxseg.{VERBS[verb][0]}"), verb
    )
    return function


def check_address_space(verb: str) -> None:
    """Raise `ConfigError` if a limit leaves too little memory: libraries would abort, or hang."""
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
