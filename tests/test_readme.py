"""The README is true: its commands are those of CI, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

from fluxseg.config import Config
from fluxseg.main import parse_main
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_ci_calls_the_second_set_up_command():
    commands = [line for block in blocks("bash") for line in block.splitlines() if "venv" in line]
    assert len(commands) == 2
    assert commands[1] in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert commands[0].endswith("-m fluxseg.main --workdir runs/first")


def test_the_code_for_notebooks_runs(tmp_path):
    # In one process, as what they share is imported once.
    code = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "neuron_iou" in done.stdout


def test_every_verb_and_file_that_is_named_exists():
    for name in re.findall(r"experiments/[\w/]+\.\w+", TEXT):
        assert (REPOSITORY / name).exists(), name
    help_text = subprocess.run(
        [sys.executable, "-m", "fluxseg", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for verb in re.findall(r"fluxseg (\w+) [A-Z-]", TEXT):
        assert verb in help_text


def test_no_picture_is_missing():
    for name in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert Path(REPOSITORY, name).stat().st_size > 10_000


def test_every_setting_in_the_readme_can_be_given_like_that():
    spans = re.findall(r"`([^`\n]+)`", TEXT) + "".join(blocks("bash")).splitlines()
    option_and_value = r"(--config\.[\w.-]+)(?: ([^\s`#-]\S*))?"
    found = [match for span in spans for match in re.findall(option_and_value, span)]
    assert ("--config.data.source", "FOLDER") in found
    for option, value in found:
        section, field = option.removeprefix("--config.").replace("-", "_").split(".")
        default = getattr(getattr(Config(), section), field)
        if value or isinstance(default, bool):
            parse_main(["--workdir", "x", option, *([value] if value else [])], "main")
