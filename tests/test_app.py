"""The list of verbs, which is kept apart from the verbs so that it is shown at once."""

import subprocess
import sys

import pytest

from fluxseg.cli.app import VERBS, format_verbs, read_verb
from fluxseg.main import parse_main


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_says_what_the_verbs_say_of_themselves(verb):
    assert VERBS[verb][1] == read_verb(verb).__doc__.splitlines()[0]
    assert f"  {verb:<8}  {VERBS[verb][1]}" in format_verbs().splitlines()


@pytest.mark.parametrize("arguments", ["--help", "-h"])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from fluxseg.cli.app import main; code = main(sys.argv[1:]); "
        "heavy = {'tyro', 'rich', 'numpy', 'jax'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == format_verbs() + "\n"


def test_the_main_job_is_profiled_if_asked():
    assert parse_main(["--workdir", "x", "--profile"], "main").profile
    assert not parse_main(["--workdir", "x"], "main").profile
