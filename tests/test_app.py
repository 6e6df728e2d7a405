"""The list of verbs, which is kept apart from the verbs so that it is shown at once."""

import subprocess
import sys

import pytest

from fluxseg.cli import app
from fluxseg.cli.app import VERBS, format_verbs, main, read_verb
from fluxseg.formats.pick import Pick, parse_pick
from fluxseg.main import parse_main
from tests.commands import run, run_python


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_says_what_the_verbs_say_of_themselves(verb):
    summary = read_verb(verb).__doc__.splitlines()[0]
    assert f"  {verb:<8}  {summary}" in format_verbs().splitlines()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fluxseg.cli.app import main; code = main(['--help']); "
        "heavy = {'tyro', 'rich', 'numpy', 'jax'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    assert run_python("-c", code) == format_verbs() + "\n"


def test_the_main_job_is_profiled_if_asked():
    assert parse_main(["--workdir", "x", "--profile"], "main").profile
    assert not parse_main(["--workdir", "x"], "main").profile


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fluxseg ")


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        ("predcit a", "predcit", "predict"), ("predict a --ouput b", "--ouput", "--output"),
        ("check a --jsn", "--jsn", "--json"), ("train --wrkdir a", "--wrkdir", "--workdir"),
        ("finetune --data a --chanel 2", "--chanel", "--channel"),
        ("train --config.train.epoch=1", "--config.train.epoch", "--config.train.epochs"),
        ("train --workdir w --epochs 1", "--epochs", "--config.train.epochs"),
    ],
)  # fmt: skip
def test_what_is_mistyped_gets_one_line(command, wrong, meant, capsys):
    assert main(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    verb = command.split()[0]
    told = (
        f"there is no verb '{verb}'" if verb == wrong else f"fluxseg {verb} has no option {wrong}"
    )
    assert shown.err.startswith(f"error: {told}; did you mean {meant}?; see fluxseg ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("project a --output b --kind maxx", "invalid choice 'maxx' for argument '--kind'. "
         "Expected one of (correlation, max, mean); did you mean max?; see fluxseg"),
        ("convert a b --format nwbb", "invalid choice 'nwbb' for argument '--format'. Expected one "
         "of (allen, cellpose, cellpose-pair, coco, imagej, labels, neurofinder, npz, nwb, suite2p)"
         "; did you mean nwb?"),
        ("predict a --output o --threshold x", "--threshold must be FLOAT, got 'x'; see fluxseg"),
        ("train --workdir w --config.train.epochs x", "Error parsing --config.train.epochs: "),
        ("project a", "Missing from fluxseg project: --output PATH Folder to write to."),
        ("predict --output o", "predict: give at least one image, folder or pattern"),
    ],
)  # fmt: skip
def test_wrong_values_get_one_line(command, line, capsys):
    assert main(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {line}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.source", "absent"], "absent"),
        (["--config", "absent.py"], "no such config file"),
        (["--config.train.epochs", "0"], "epochs"),
        (["--config.train.epochs", "x"], "epochs"),
    ],
)
def test_a_mistake_of_the_main_job_is_a_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in run("train", "--workdir", "w", *arguments, code=2)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_too_little_memory_is_one_line():
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (700 << 20,) * 2); "
        "from fluxseg.cli.app import main; sys.exit(main(['predict', 'a.tif', '--output', 'o']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: predict needs 3 GiB of address space, and the limit is 0")
    assert done.stderr.count("\n") == 1


def test_little_memory_of_a_container_is_told(monkeypatch, capsys):
    assert app.memory_limit() > 2**20
    monkeypatch.setattr(app, "memory_limit", lambda: 2**29)
    for verb in ("predict", "check"):
        app.check_address_space(verb)
    told = "WARNING: 0.5 GiB is all the memory that this job or container has: if it is killed"
    assert capsys.readouterr().err.startswith(told)


IMAGES = "predict check finetune project convert review evaluate prepare extract"


@pytest.mark.parametrize("verb", IMAGES.split())
def test_every_verb_that_reads_images_takes_what_is_read(verb):
    told = run(verb, "--help")
    assert all(f"--{what} STR" in told for what in ("channel", "plane", "key", "axes"))


def test_a_run_keeps_what_is_read():
    read = parse_main(["--workdir", "w", "--channel", "green", "--plane", "2"], "fluxseg train")
    assert parse_pick(read.config.data.pick) == Pick("green", "2")
