"""README and the pages in docs/ are true: commands parse, code runs, files and pictures exist."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import tyro

import fluxseg
from fluxseg.cli.app import VERBS, read_verb
from fluxseg.config import Config
from fluxseg.main import parse_main
from tests.commands import run_python
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (README, REPOSITORY / "CONTRIBUTING.md", *DOCS)
}
TEXT = PAGES["README.md"]


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(text):
    return [line for block in blocks("bash", text) for line in block.splitlines()]


COMMANDS = sorted({line for text in PAGES.values() for line in commands(text)})


def test_ci_calls_the_second_set_up_command():
    found = [line for line in commands(TEXT) if "&& .venv/bin/python" in line]
    assert len(found) == 2
    assert found[1] in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert found[0].endswith("-m fluxseg.main --workdir runs/first")


def test_pages_are_short():
    assert {name for name, text in PAGES.items() if text.count("\n") > 200} == set()


def test_the_code_runs(tmp_path):
    # In one process, as what the pages share is imported once; each page has its own names.
    pages = [code for text in PAGES.values() if (code := "\n".join(blocks("python", text)))]
    program = f"import matplotlib\nmatplotlib.use('agg')\nfor page in {pages!r}: exec(page, {{}})"
    assert "neuron_iou" in run_python("-W", "error", "-c", program, cwd=tmp_path, timeout=1200)


def test_code_that_is_only_shown_is_python():
    for text in PAGES.values():
        for code in blocks("py", text):
            compile(code, "a page", "exec")


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("fluxseg ")])
def test_a_command_can_be_given_like_that(line):
    """Parsed with the verb's own options, and not run."""
    _, verb, *arguments = shlex.split(line, comments=True)
    if verb == "train":
        parse_main(arguments, "train")
    elif verb != "--version":
        function = read_verb(verb)
        tyro.cli(functools.wraps(function)(lambda *_, **__: 0), args=arguments)


def test_every_module_and_file_that_is_named_exists():
    for name, text in PAGES.items():
        # Tables of scripts that are gone say so.
        text = text.partition("## What did not help")[0]
        for module in re.findall(r"python -m ((?:experiments|tests|fluxseg)[\w.]*)", text):
            assert importlib.util.find_spec(module), (name, module)
        for path in re.findall(r"(?:experiments|tests|fluxseg|docs)/[\w/.-]*\.\w+", text):
            assert (REPOSITORY / path).exists(), (name, path)


def test_every_verb_is_described():
    told = {verb for text in PAGES.values() for verb in re.findall(r"fluxseg ([a-z]+)\b", text)}
    assert set(VERBS) <= told


def test_the_pages_describe_every_public_name():
    told = re.findall(r"::: fluxseg\.(\w+)", PAGES["docs/api.md"] + PAGES["docs/settings.md"])
    assert len(told) == len(set(told))
    assert {*told, "Config", "__version__"} == set(fluxseg.__all__)


def test_no_picture_or_page_is_missing():
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            path = Path(REPOSITORY, name).parent / target
            assert path.exists(), (name, target)
            assert path.suffix != ".png" or path.stat().st_size > 10_000, (name, target)


def test_every_picture_is_shown():
    shown = {
        Path(path).name for text in PAGES.values() for path in re.findall(r"\]\(([^)]+)", text)
    }
    assert {path.name for path in (REPOSITORY / "docs" / "figures").glob("*.png")} <= shown


def test_every_study_is_listed():
    listed = (REPOSITORY / "experiments" / "README.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "experiments").glob("[cs]*/*.py"):
        assert f"`{path.name}`" in listed


def test_every_setting_can_be_given_like_that():
    found = set()
    for text in PAGES.values():
        spans = re.findall(r"`([^`\n]+)`", text) + commands(text)
        option_and_value = r"(--config\.[\w.-]+)(?: ([^\s`#-]\S*))?"
        found |= {match for span in spans for match in re.findall(option_and_value, span)}
    assert ("--config.data.source", "FOLDER") in found
    for option, value in sorted(found):
        section, field = option.removeprefix("--config.").replace("-", "_").split(".")
        if (section, field) == ("SECTION", "NAME"):
            continue
        default = getattr(getattr(Config(), section), field)
        if value or isinstance(default, bool):
            parse_main(["--workdir", "x", option, *([value] if value else [])], "main")
