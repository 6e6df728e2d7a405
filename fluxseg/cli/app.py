"""The `fluxseg` command: one verb per task."""

import sys
from collections.abc import Sequence

import tyro

from fluxseg.cli.adapt import finetune, review
from fluxseg.cli.apply import export, predict
from fluxseg.cli.formats import convert
from fluxseg.cli.project import project
from fluxseg.cli.recordings import check, prepare, simulate
from fluxseg.cli.scores import compare, evaluate, report
from fluxseg.main import MainArguments, parse_main, run_main
from fluxseg.terminal import run_guarded

DESCRIPTION = """Segment neurons in two-photon calcium imaging: train a U-Net and score it honestly.

`fluxseg VERB --help` explains the options of a verb. Exit codes: 0 done; 1 something was found by
check, or an image could not be predicted, a movie not projected or a recording not converted;
2 bad input or settings; 130 and 143 stopped by Ctrl-C or SIGTERM.
"""


def _train(arguments: Sequence[str]) -> int:
    return run_main(parse_main(arguments, "fluxseg train"))


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "train":
        # Its config file must be read before its options are known.
        return _train(arguments[1:])
    app = tyro.extras.SubcommandApp()
    verbs = (
        train, check, prepare, evaluate, compare, predict, export, report, simulate, convert,
        project, finetune, review,
    )  # fmt: skip
    for verb in verbs:
        app.command(verb)
    return int(app.cli(prog="fluxseg", description=DESCRIPTION, args=list(arguments)) or 0)


def train(arguments: MainArguments) -> int:
    """Train on recordings, score, and write a report: the same as python -m fluxseg.main."""
    return run_main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run the verb, and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_guarded(lambda: _run(given))
